"""Images in tars, as WebDataset makes them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from normgate.data.decoding import MOST_BYTES, ImageError
from normgate.data.kinds import kind_of
from normgate.data.labels import named_labels
from normgate.data.listing import files_at, root_here
from normgate.data.names import utf8_name
from normgate.data.sources import NoLabelsError, Record, SourceError
from normgate.data.tars import DamagedTarError, members

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from normgate.data.decoding import Payload
    from normgate.data.entries import Place
    from normgate.data.listing import Files
    from normgate.data.tars import Member

_MOST_LABEL_BYTES = 1024
_MOST_SAMPLE_BYTES = 8 * MOST_BYTES


class TarImages:
    """Images in a tar, or in several one after another; a record is `shard.tar#member`.

    Members that follow each other and have one name up to its first dot are a sample; each of its images is a record,
    labelled by its `.cls`. Tars are read as streams, from the beginning and without writing to the disk. Hidden
    members, links and devices do not count; files of a sample without an image are left out and counted in `skipped`. A
    tar that is damaged or cut short ends in a record that cannot be decoded.

    Args:
        shards: a tar, a folder of them, or a listing.
        labelled: whether labels are needed; all tars are read once to find the classes.

    Raises:
        SourceError: there is no image, or an image has no label.
    """

    place: str | None = None

    def __init__(self, shards: str | os.PathLike[str] | Files, *, labelled: bool = False) -> None:
        files = files_at(shards, "shards")
        self.root = root_here(files)
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0
        self._shards = list(files)
        self._names: dict[str, str] = {}
        if labelled:
            self._names, self.classes = self._read_classes()
        if next(iter(self), None) is None:
            raise SourceError(f"{files.root} holds no image (by extension: .jpg, .png, .webp, .tif, …)")

    def __iter__(self) -> Iterator[Record]:
        """Tar by tar, in the order of the members."""
        skipped = 0
        for name, shard in self._shards:
            count = 0
            try:
                for sample in _samples(shard, labelled=self.classes is not None):
                    label = None if sample.label is None else self._names.get(sample.label)
                    if self.classes is not None and label is None and sample.images:
                        raise SourceError(_no_label(name, sample))
                    for member, payload in sample.images:
                        yield Record(f"{name}#{member}", payload, label)
                    count += len(sample.images)
                    skipped += sample.skipped
            except DamagedTarError as error:
                yield Record(name, ImageError(f"the tar {shard} is damaged or cut short after {count} images: {error}"))
        self.skipped = skipped

    def __len__(self) -> int:
        raise TypeError("only reading the tars would tell how many images they hold")

    def _read_classes(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Names by what the `.cls` say, and all classes. Every label is looked at now, not after hours of training."""
        found: set[str] = set()
        unlabelled = None
        for name, shard in self._shards:
            try:
                for sample in _samples(shard, labelled=True, keep=False):
                    if sample.label is not None:
                        found.add(sample.label)
                    elif sample.images and unlabelled is None:
                        unlabelled = _no_label(name, sample)
            except DamagedTarError:
                continue  # a record says so
        if not found:
            raise NoLabelsError("labels are needed, and these tars hold no .cls beside their images")
        if unlabelled is not None:
            raise SourceError(unlabelled)
        if all(text.isdecimal() for text in found):
            names, classes = named_labels({int(text) for text in found})
            return {text: names[int(text)] for text in found}, classes
        return named_labels(found)


@dataclasses.dataclass
class _Sample:
    """What members of one key hold: images with their names, the text of the `.cls`, and how many other files."""

    key: str
    images: list[tuple[str, Payload]] = dataclasses.field(default_factory=list)
    label: str | None = None
    others: int = 0
    size: int = 0
    any_image: bool = False

    @property
    def skipped(self) -> int:
        return 0 if self.any_image else self.others


def _samples(shard: Place | ImageError, *, labelled: bool, keep: bool = True) -> Iterator[_Sample]:
    """The samples of a tar; without labels, in parts, since an image then need not wait for the rest of its sample.

    Raises:
        DamagedTarError: the tar cannot be read any further; if labels are needed, the sample that it broke off in is
            lost.
        SourceError: a sample is too large to be held until its label comes.
    """
    if isinstance(shard, ImageError):
        raise DamagedTarError(str(shard))
    sample = _Sample("")
    for member in members(shard):
        key, extension = _parts(member.name)
        if key != sample.key:
            yield sample
            sample = _Sample(key)
        if kind_of(member.name) == "images":
            sample.any_image = True
            sample.images.append((utf8_name(member.name), _payload(member) if keep else b""))
            sample.size += min(member.size, MOST_BYTES)
            if labelled and sample.size > _MOST_SAMPLE_BYTES:
                raise SourceError(
                    f"{shard}: the images {key}.* are one sample of more than {_MOST_SAMPLE_BYTES // 2**30} GiB; names "
                    "up to their first dot tell samples apart"
                )
            if not labelled:
                yield sample
                sample = dataclasses.replace(sample, images=[], size=0)
        else:
            sample.others += 1
            if labelled and extension == "cls":
                sample.label = _label(member)
    yield sample


def _parts(name: str) -> tuple[str, str]:
    """Key and extension: up to the first dot of the last part of the name, and after it."""
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}/{stem}", extension.lower()


def _payload(member: Member) -> Payload:
    if member.size > MOST_BYTES:
        return ImageError(f"the file has more than {MOST_BYTES // 2**20} MiB, too many to be read from a tar")
    return member.read()


def _label(member: Member) -> str | None:
    text = member.read().decode("utf-8", "replace").strip() if member.size <= _MOST_LABEL_BYTES else ""
    return text or None


def _no_label(name: str, sample: _Sample) -> str:
    return (
        f"{name}#{sample.images[0][0]} has no label (no .cls next to it, or an empty one); label or remove it; "
        "'tar --sort=name' puts the files of an image next to each other"
    )
