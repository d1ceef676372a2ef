"""Records to batches of pixels: decode and resize in threads, ahead of whoever consumes them."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from normgate.data.decoding import DEFAULT_MAX_PIXELS, ImageError, decode, digest
from normgate.data.fetching import FETCHES, fetched, fetchers
from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from normgate.data.decoding import Payload
    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import Record, Source


T = TypeVar("T")


class LoadingError(NormgateError):
    """Images cannot be loaded in this way."""


@dataclasses.dataclass(frozen=True, eq=False)
class PixelBatch:
    """Up to `batch_size` consecutive records.

    `pixels` (R, H, W, 3) uint8 holds the R images that could be read, in order; `readable` (N,) says which of the N
    records they are; `errors` has a message for each of the others. `digests` are of the R decoded images.
    """

    records: tuple[Record, ...]
    pixels: np.ndarray
    readable: np.ndarray
    errors: tuple[str | None, ...]
    digests: tuple[bytes, ...]

    @property
    def decoded(self) -> list[Record]:
        """The R records that could be read."""
        return list(itertools.compress(self.records, self.readable))

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Ids of the others, and why."""
        return [
            (record.id, error) for record, error in zip(self.records, self.errors, strict=True) if error is not None
        ]

    def only(self, fine: np.ndarray, error: str) -> PixelBatch:
        """Those of the R images that are fine, (R,); the others have an error from here on."""
        rows = np.flatnonzero(self.readable)
        errors = list(self.errors)
        for row in rows[~fine]:
            errors[row] = error
        readable = self.readable.copy()
        readable[rows] = fine
        digests = tuple(itertools.compress(self.digests, fine))
        return PixelBatch(self.records, self.pixels[fine], readable, tuple(errors), digests)


def default_workers() -> int:
    """Decoding threads by default: one for each core that this process may use, at most 8."""
    return min(8, cores())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_batches(
    records: Iterable[Record],
    preprocessing: Preprocessing,
    *,
    batch_size: int = 128,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    digests: bool = False,
) -> Iterator[PixelBatch]:
    """Fetch, decode and resize records, batch by batch, in their order and in constant memory.

    Args:
        records: a stream of undecoded records.
        preprocessing: its geometry is applied; pixels stay uint8.
        batch_size: records in a batch.
        workers: decoding threads; 0 decodes in the caller's.
        max_pixels: larger images are errors (decompression bombs).
        digests: also fingerprint each decoded image, to find duplicates.
    """
    check_whole("batch_size", batch_size, 1)
    return use_batches(
        batched(records, batch_size),
        preprocessing,
        lambda batch: batch,
        workers=workers,
        max_pixels=max_pixels,
        digests=digests,
    )


def use_batches(
    batches: Iterable[tuple[Record, ...]],
    preprocessing: Preprocessing,
    use: Callable[[PixelBatch], T],
    *,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    digests: bool = False,
) -> Iterator[T]:
    """What is made of batches, in order.

    Args:
        batches: of undecoded records.
        preprocessing: as in `load_batches`, as are the others.
        use: called with each loaded batch, in the thread that has decoded it.
        workers: decoding threads.
        max_pixels: larger images are errors.
        digests: also fingerprint each image.
    """
    workers = default_workers() if workers is None else workers
    check_whole("workers", workers, 0)
    check_whole("max_pixels", max_pixels, 1)
    fetching = fetchers()
    ahead = max(2, FETCHES // max(1, workers))

    def load(batch: tuple[Record, ...]) -> T:
        return use(_load(fetched(batch, fetching, ahead), preprocessing, max_pixels, digests))

    if workers == 0:
        with fetching:
            yield from map(load, batches)
        return
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="normgate-decode")
    pending: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    try:
        for batch in batches:
            pending.append(pool.submit(load, batch))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        fetching.shutdown(wait=True, cancel_futures=True)  # first, so that no batch waits for images to come
        pool.shutdown(wait=True, cancel_futures=True)


def check_whole(name: str, value: int, least: int) -> None:
    """Refuse a number that makes no sense.

    Raises:
        LoadingError: it is no whole number, or smaller than `least`.
    """
    if not isinstance(value, int) or value < least:
        raise LoadingError(f"{name} is a whole number of at least {least}, not {value!r}")


def count(source: Source) -> int | None:
    """Number of records, where that is known without running through them."""
    try:
        return len(source)
    except TypeError:
        return None


def batched(records: Iterable[Record], size: int) -> Iterator[tuple[Record, ...]]:
    """Consecutive records, so many at a time; the last may be fewer."""
    iterator = iter(records)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch


def _load(
    images: Iterable[tuple[Record, Payload]], preprocessing: Preprocessing, max_pixels: int, with_digests: bool
) -> PixelBatch:
    records: list[Record] = []
    pixels: list[np.ndarray] = []
    errors: list[str | None] = []
    digests: list[bytes] = []
    for record, payload in images:
        records.append(record)
        try:
            image = decode(payload, max_pixels=max_pixels)
            pixels.append(preprocessing.resized(image))
            errors.append(None)
            if with_digests:
                digests.append(digest(image))
        except ImageError as error:
            errors.append(str(error))
    height, width = preprocessing.size
    return PixelBatch(
        records=tuple(records),
        pixels=np.stack(pixels) if pixels else np.empty((0, height, width, 3), np.uint8),
        readable=np.array([error is None for error in errors], dtype=bool),
        errors=tuple(errors),
        digests=tuple(digests),
    )
