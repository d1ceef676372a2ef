"""Sources: streams of undecoded images with ids, and `open_source`, which finds the right one."""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, overload, runtime_checkable

import numpy as np
from PIL import Image

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from normgate.data.decoding import Payload


class SourceError(NormgateError):
    """Images cannot be found where they were looked for, or not in the layout that is needed."""


class NoLabelsError(SourceError):
    """There are images, but no labels, where labels are needed."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Record:
    r"""One image, undecoded.

    Attributes:
        id: POSIX path relative to the source, `file.parquet#row` in tables, `shard.tar#member` in tars, `array#i` in
            memory. Valid UTF-8: bytes of a file name that are not appear as `\xff`.
        payload: whatever `decode` takes.
        label: name of its class, where the source is labelled.
        group: name of the person, scene or burst that it belongs to, where the source knows.
    """

    id: str
    payload: Payload
    label: str | None = None
    group: str | None = None


@runtime_checkable
class Source(Protocol):
    """Records in a fixed order, as a stream that can be run through again and again.

    Attributes:
        classes: names of the classes; None where the records have no labels.
        skipped: files without an image's extension that the last complete run came across and left out.

    A source may also have a `place`: a name under which the same ids are found again, so that a run that was stopped
    can go on; and, where its records are files of a folder of this machine, a `root`: that folder, from which rejected
    files can be copied or moved.
    """

    classes: tuple[str, ...] | None
    skipped: int

    def __iter__(self) -> Iterator[Record]:
        """The records, from the first."""
        ...

    def __len__(self) -> int:
        """Number of records; may have to list the files. TypeError where only running through would tell."""
        ...


Data: TypeAlias = str | os.PathLike[str] | Source | Sequence[Any] | np.ndarray | Image.Image
"""What `open_source` takes."""


class Records(Sequence[Record]):
    """A source that is a list: what `load` gives, and what training splits."""

    def __init__(self, records: Iterable[Record], classes: Sequence[str] | None = None, skipped: int = 0) -> None:
        self._records = list(records)
        self.classes = None if classes is None else tuple(classes)
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self._records[index], self.classes)
        return self._records[index]

    def subset(self, indices: Iterable[int]) -> Records:
        """The records of these numbers, in the order given."""
        return Records([self._records[index] for index in indices], self.classes)


def load(source: Source) -> Records:
    """List a source's records. Images in tables and tars are kept in memory as encoded bytes, files as their paths."""
    records = list(iter(source))
    return Records(records, source.classes, source.skipped)


def is_nothing(data: Data) -> bool:
    """Whether it is a list or array of no image."""
    return isinstance(data, list | tuple | np.ndarray) and len(data) == 0


def open_source(
    data: Data,
    *,
    labelled: bool,
    least_classes: int = 2,
    image_column: str = "image",
    label_column: str = "label",
    group_column: str | None = None,
) -> Source:
    """Find the source for whatever is given.

    Args:
        data: one of

            - a folder of images; with labels, `root/<class>/**/image`;
            - a single image file;
            - a Parquet file, or a folder that holds Parquet files and no image; `file.parquet?split=train`
              selects rows;
            - a tar of images (`.tar`, `.tar.gz`, `.tgz`) as WebDataset makes it, or a folder that holds such alone;
            - a pattern of one of these: `photos/2024-*/**/*.jpg`, `shards/train-{000..012}.tar`;
            - the address of any of these: `s3://`, `gs://`, `hf://`, `https://` and whatever else fsspec opens;
            - `torchvision:CIFAR10?root=DIR&train=false` (`&download=true` to fetch it);
            - a sequence of paths or addresses, encoded bytes, Pillow images or uint8 arrays, one of the latter three,
              or one uint8 array (N, H, W, C); with labels, `(images, labels)`, where (N, H, W) are grey ones, or, where
              some images belong together (of a person, a scene), `(images, labels, groups)`;
            - a data set that gives `(image, label)` by index;
            - a source, which is returned as it is.
        labelled: whether labels are needed. If not, they are not looked at.
        least_classes: how many classes there must be, if labels are needed.
        image_column: in tables, the column of images.
        label_column: in tables, the column of labels.
        group_column: in tables, the column that tells which images belong together.

    Raises:
        SourceError: there is nothing, no image, or not the layout that is needed; the message says what is
            wanted.
    """
    if isinstance(data, Source):
        source: Source = data
    elif isinstance(data, str | os.PathLike):
        source = _open_named(os.fspath(data), labelled, image_column, label_column, group_column)
    else:
        source = _open_objects(data, labelled)
    if labelled:
        _check_classes(source, least_classes)
    return source


def parse_query(query: str) -> dict[str, str]:
    """`a=1&b=two` as a dictionary; %-escapes are undone.

    Raises:
        SourceError: a part has no `=`.
    """
    parts = [part.partition("=") for part in query.split("&") if part]
    if bad := [key for key, equals, _ in parts if not equals]:
        raise SourceError(f"?{query} is not understood at {bad[0]!r}; write ?name=value&name=value")
    return {urllib.parse.unquote(key): urllib.parse.unquote(value) for key, _, value in parts}


def _open_named(name: str, labelled: bool, image_column: str, label_column: str, group_column: str | None) -> Source:
    if name.startswith("torchvision:"):
        from normgate.data.datasets import torchvision_images

        return torchvision_images(name.removeprefix("torchvision:"), labelled=labelled)
    from normgate.data.places import open_place

    return open_place(
        name, labelled=labelled, image_column=image_column, label_column=label_column, group_column=group_column
    )


def _open_objects(data: Any, labelled: bool) -> Source:
    from normgate.data.datasets import DatasetImages
    from normgate.data.folders import PathList
    from normgate.data.memory import ImageList

    if isinstance(data, bytes | bytearray | memoryview):
        data = [bytes(data)]
    if isinstance(data, Image.Image) or (isinstance(data, np.ndarray) and data.ndim < 4):
        data = [data]
    if any(hasattr(part, "detach") for part in (data, *(data[:1] if isinstance(data, list | tuple) else ()))):
        raise SourceError(
            "a tensor of images may have been prepared for a network or not: pass uint8 arrays of N × H × W × C, as in "
            "images.permute(0, 2, 3, 1).numpy() of N × C × H × W"
        )
    if _is_labelled(data):
        images, labels, *groups = data
        return ImageList(images, labels if labelled else None, *groups)
    if isinstance(data, Sequence | np.ndarray):
        if labelled:
            raise NoLabelsError("labels are needed: pass (images, labels), or a folder or table that holds them")
        images = list(data)
        is_paths = bool(images) and all(isinstance(image, str | os.PathLike) for image in images)
        return PathList(images) if is_paths else ImageList(images)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping):
        return DatasetImages(data, labelled=labelled)
    raise SourceError(
        f"a {type(data).__name__} is no source of images; pass a folder, a Parquet file, torchvision:NAME, "
        "a sequence of paths, Pillow images or uint8 arrays, or a data set"
    )


def _is_labelled(data: Any) -> bool:
    """Whether it is (images, labels) or (images, labels, groups), and not a tuple of images."""
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        return False
    images, labels = data[:2]
    if isinstance(images, np.ndarray):  # (N, H, W) are grey images, if what follows is no image
        is_flat = isinstance(labels, list | tuple) or getattr(labels, "ndim", None) == 1
        return images.ndim == 4 or (images.ndim == 3 and is_flat)
    return isinstance(images, list | tuple)


def _check_classes(source: Source, least: int) -> None:
    if source.classes is None:
        raise NoLabelsError("labels are needed, and this source has none")
    if len(source.classes) < least:
        there = f"only one class ({source.classes[0]})" if source.classes else "no class"
        raise SourceError(f"there is {there}; at least {'two are' if least == 2 else 'one is'} needed")
