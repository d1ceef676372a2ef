"""Images read once before any training: what cannot be read, is shared or is missing is found out now."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from typing import TYPE_CHECKING

import numpy as np

from normgate.calibration.conformal import rank, smallest_n
from normgate.data.decoding import ImageError, decode
from normgate.data.fetching import fetched, fetchers
from normgate.data.loading import load_batches
from normgate.data.preprocessing import Preprocessing
from normgate.data.unreadable import check_readable
from normgate.errors import NormgateError, NormgateWarning
from normgate.gate import duplicates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from normgate.data.sources import Record
    from normgate.gate.sets import ReadingOptions

SMALL_IMAGE = 96
PHOTO_SIZE = 224
LOOKED_AT = 100
MOST_OUTSIDE = 0.4
"""Share of an image before that is worth a word: photographs of 3 : 2 lose a third, as is usual, and of 16 : 9 more."""
RESIDENT_BYTES = 4 * 2**30
_STATISTICS_ROWS = 10_000


class ReadingError(NormgateError):
    """There are too few images that can be read."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one set that could be read: fingerprints, and pixels where they fit into memory."""

    records: tuple[Record, ...]
    digests: tuple[bytes, ...]
    pixels: np.ndarray | None

    def without(self, rows: Sequence[int]) -> ImageSet:
        """All but some images."""
        left = np.setdiff1d(np.arange(len(self.records)), rows)
        return ImageSet(
            tuple(self.records[row] for row in left),
            tuple(self.digests[row] for row in left),
            None if self.pixels is None else self.pixels[left],
        )


def read(
    sets: Mapping[str, Sequence[Record]], preprocessing: Preprocessing, reading: ReadingOptions
) -> dict[str, ImageSet]:
    """Decode every image once, before any training: what cannot be read, or is in two sets, is found out now."""
    found = {name: _decoded(name, records, preprocessing, reading) for name, records in sets.items()}
    digests = {name: part.digests for name, part in found.items()}
    if not reading.drop_duplicates:
        duplicates.check(digests)
        return found
    rows = duplicates.repeated(digests)
    duplicates.say_dropped(rows)
    return {name: part.without(rows[name]) if rows[name] else part for name, part in found.items()}


def check_enough(sets: Mapping[str, ImageSet], classes: Sequence[str], alpha: float, *, by_class: bool) -> None:
    """Say before training, and not after it, that images are missing."""
    seen = {record.label for record in sets["train"].records}
    if missing := [name for name in classes if name not in seen]:
        raise ReadingError(
            f"no training image of {', '.join(map(repr, missing[:5]))} is left; add images that can be read, or leave "
            "the class out of the data"
        )
    if not sets["tuning"].records:
        raise ReadingError("no tuning image is left; pass tuning images of their own (--tuning)")
    there = len(sets["calibration"].records)
    rank(alpha, there)
    if by_class and there < (needed := smallest_n(alpha) * len(classes)):
        raise ReadingError(
            f"a false-alarm rate of {alpha:g} by class needs at least {needed} calibration images, {smallest_n(alpha)} "
            f"in each predicted class, and there are {there}: add images (--calibration), allow a higher rate "
            "(--alpha), or use one threshold for all classes (leave out --by-class)"
        )


def _decoded(name: str, source: Sequence[Record], preprocessing: Preprocessing, reading: ReadingOptions) -> ImageSet:
    height, width = preprocessing.size
    keep = name == "train" and len(source) * height * width * 3 <= RESIDENT_BYTES
    records: list[Record] = []
    digests: list[bytes] = []
    errors: list[tuple[str, str]] = []
    kept: list[np.ndarray] = []
    batches = load_batches(
        source,
        preprocessing,
        batch_size=reading.batch_size,
        workers=reading.workers,
        max_pixels=reading.max_pixels,
        digests=True,
    )
    for batch in batches:
        records += batch.decoded
        digests += batch.digests
        errors += batch.failures
        if keep:
            kept.append(batch.pixels)
        reading.progress(f"reading {name} images", len(records) + len(errors), len(source))
    check_readable(name, errors, skip=reading.skip_unreadable)
    return ImageSet(tuple(records), tuple(digests), np.concatenate(kept) if keep else None)


def warn_of_contradictions(images: ImageSet) -> None:
    """Warn where an image is there under more than one label: what it shows cannot be learned."""
    labels: dict[bytes, set[str | None]] = {}
    for record, digest in zip(images.records, images.digests, strict=True):
        labels.setdefault(digest, set()).add(record.label)
    twice = [sorted(map(str, own)) for own in labels.values() if len(own) > 1]
    if twice:
        warnings.warn(
            f"{len(twice)} different training images are there under several labels each (one is both "
            f"{' and '.join(map(repr, twice[0][:2]))}), of which one at most is right: remove the others",
            NormgateWarning,
            stacklevel=3,
        )


def square_input(
    records: Sequence[Record], size: int | None, max_pixels: int, *, squash: bool, standardize: bool
) -> Preprocessing:
    """A square input: of the side asked for, of the images' own where they are small, else of 224 pixels.

    Args:
        records: of the training images; some, evenly over all, are looked at.
        size: side of the input; None leaves it to the images, at most `LOOKED_AT` of them.
        max_pixels: larger images are not looked at.
        squash: bring images to the square out of proportion, and not their middle alone.
        standardize: of `Preprocessing`.
    """
    if size is not None and squash:  # nothing is asked of the images
        return Preprocessing((size, size), standardize=standardize)
    sides = []
    rows = np.linspace(0, len(records) - 1, min(LOOKED_AT, len(records))).astype(int)
    with fetchers() as pool:
        for _, payload in fetched((records[row] for row in rows), pool):
            try:
                sides.append(decode(payload, max_pixels=max_pixels).size)
            except ImageError:
                continue
    if size is None:
        side = int(np.median([min(own) for own in sides])) if sides else PHOTO_SIZE
        size = side if 8 <= side <= SMALL_IMAGE else PHOTO_SIZE
    outside = float(np.median([1 - min(own) / max(own) for own in sides])) if sides else 0.0
    if outside > MOST_OUTSIDE and not squash:
        warnings.warn(
            f"{outside:.0%} of a typical training image lie outside of the square in its middle, which is all that the "
            "network will see; to see images as a whole, out of proportion, pass --squash (squash=True)",
            NormgateWarning,
            stacklevel=3,
        )
    return Preprocessing((size, size), resize=None if squash else size, standardize=standardize)


def channel_statistics(
    read: ImageSet, preprocessing: Preprocessing, max_pixels: int
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel over (at most 10,000) training images, as fractions of 255."""
    rows = np.linspace(0, len(read.records) - 1, min(_STATISTICS_ROWS, len(read.records))).astype(int)
    counts = np.zeros((3, 256), dtype=np.int64)
    for pixels in _pixels(read, rows, preprocessing, max_pixels):
        for channel in range(3):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(np.maximum(weights @ values**2 - mean**2, 1e-6))
    red, green, blue = mean.round(6).tolist()
    spread_red, spread_green, spread_blue = std.round(6).tolist()
    return (red, green, blue), (spread_red, spread_green, spread_blue)


def _pixels(read: ImageSet, rows: np.ndarray, preprocessing: Preprocessing, max_pixels: int) -> Iterator[np.ndarray]:
    if read.pixels is not None:
        yield from (read.pixels[row] for row in rows)
        return
    with fetchers() as pool:
        for _, payload in fetched((read.records[row] for row in rows), pool):
            yield preprocessing.resized(decode(payload, max_pixels=max_pixels))


def fingerprint(read: ImageSet, classes: tuple[str, ...]) -> str:
    """Identifies the training images and their labels, in order."""
    state = hashlib.blake2b(digest_size=16)
    for record, digest in zip(read.records, read.digests, strict=True):
        state.update(digest + str(record.label).encode(errors="surrogateescape") + b"\0")
    state.update("\0".join(classes).encode(errors="surrogateescape"))
    return state.hexdigest()
