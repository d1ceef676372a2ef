"""The single pass over a source, but for what the cache knows already."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import json
import os
import warnings
from typing import TYPE_CHECKING, Any

import torch

from normgate.classes import class_numbers
from normgate.data.fetching import fetched, fetchers
from normgate.data.loading import count, default_workers, load_batches
from normgate.errors import NormgateWarning
from normgate.evaluation.cache import Entry
from normgate.evaluation.fingerprints import file_mark, image_digest, settings
from normgate.extractor import Extraction, extract, unreadable
from normgate.features import FeatureError, Features, concatenate
from normgate.files import OutputError
from normgate.normalization import temperature

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from normgate.data.decoding import Payload
    from normgate.data.sources import Record, Source
    from normgate.evaluation.cache import FeatureCache
    from normgate.extractor import FeatureExtractor
    from normgate.progress import Progress

_FORMAT = 2
_CHUNK_BYTES = 256 * 2**20  # of encoded images in memory: a chunk of large ones ends sooner


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads the features of one source after another, with one network.

    Attributes:
        extractor: the network.
        cache: where features are kept; None keeps none.
        batch_size: images in a forward pass.
        workers: decoding threads.
        max_pixels: larger images are errors.
        progress: told how far it is.
    """

    extractor: FeatureExtractor
    cache: FeatureCache | None
    batch_size: int
    workers: int | None
    max_pixels: int
    progress: Progress

    def read(self, source: Source, classes: Sequence[str] | None, name: str) -> Extraction:
        """Features of a source, labelled where class names are given; see `normgate.extractor.extract`.

        Raises:
            FeatureError: as of `extract`; the message names the set.
        """
        try:
            return self._read(source, classes, name)
        except FeatureError as error:
            raise FeatureError(f"{name} images: {error}") from error

    def _read(self, source: Source, classes: Sequence[str] | None, name: str) -> Extraction:
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "workers": self.workers,
            "max_pixels": self.max_pixels,
            "digests": True,
        }
        total, task = count(source), f"{name} images"
        if self.cache is None:
            return extract(
                self.extractor, source, classes=classes, total=total, task=task, progress=self.progress, **options
            )
        chunks: list[_Chunk] = []
        missing: collections.deque[_Chunk] = collections.deque()
        rows = _Rows()
        writable = True
        # One stream for all that is missing, so that decoding stays ahead of the network across chunks.
        numbers = None if classes is None else {name: i for i, name in enumerate(classes)}
        records = self._missing(source, numbers, chunks, missing)
        for loaded in load_batches(records, self.extractor.preprocessing, **options):
            batch, features = self.extractor.read(loaded)
            rows.add(None if features is None else dataclasses.replace(features, digests=batch.digests), batch.errors)
            while missing and len(rows.errors) >= len(missing[0].ids):
                chunk = missing.popleft()
                chunk.entry = rows.take(len(chunk.ids))
                writable = writable and self._written(chunk)
            known = sum(len(chunk.ids) for chunk in chunks if chunk.entry is not None)
            self.progress(task, known + len(rows.errors), total)
        self.progress(task, sum(len(chunk.ids) for chunk in chunks), total)
        return self._assembled(chunks, numbers)

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        return {"format": _FORMAT, **settings(self.extractor, self.max_pixels)}

    def _missing(
        self,
        source: Source,
        numbers: Mapping[str, int] | None,
        chunks: list[_Chunk],
        missing: collections.deque[_Chunk],
    ) -> Iterator[Record]:
        """Records that the cache does not have; every chunk goes to `chunks`, theirs also to `missing`."""
        assert self.cache is not None
        head = self.extractor.head
        workers = default_workers() if self.workers is None else self.workers
        with (
            fetchers() as fetching,
            concurrent.futures.ThreadPoolExecutor(max(1, workers), thread_name_prefix="normgate-digest") as pool,
        ):
            # What lies elsewhere is fetched once, for its digest and for the network.
            here = (dataclasses.replace(record, payload=found) for record, found in fetched(source, fetching))
            for records in _chunked(here, self.cache.chunk):
                if numbers is not None:  # said now, and not when all images have been judged
                    known = [record for record in records if record.label is not None]
                    class_numbers([record.id for record in known], [record.label for record in known], numbers)
                chunk = self._chunk(records, pool)
                chunks.append(chunk)
                chunk.entry = self.cache.read(
                    chunk.key, count=len(records), width=head.in_features, outputs=head.out_features
                )
                if chunk.entry is not None:
                    chunk.entry = chunk.entry.reordered(_inverse(chunk.order))
                    continue
                missing.append(chunk)
                yield from records

    def _chunk(self, records: Sequence[Record], pool: concurrent.futures.Executor) -> _Chunk:
        payloads = [record.payload for record in records]
        marks = [file_mark(payload) for payload in payloads]
        digests = list(pool.map(functools.partial(image_digest, max_pixels=self.max_pixels), payloads))
        order = sorted(range(len(records)), key=digests.__getitem__)
        return _Chunk(
            ids=tuple(record.id for record in records),
            labels=tuple(record.label for record in records),
            order=order,
            key=json.dumps({**self._settings, "images": [digests[i] for i in order]}, sort_keys=True),
            marks=tuple(pair for pair in zip(payloads, marks, strict=True) if isinstance(pair[0], str | os.PathLike)),
        )

    def _written(self, chunk: _Chunk) -> bool:
        """Keep what was found, unless a file has changed since its digest was taken; whether writing goes on."""
        assert self.cache is not None
        assert chunk.entry is not None
        if any(file_mark(path) != mark for path, mark in chunk.marks):
            return True
        try:
            self.cache.write(chunk.key, chunk.entry.reordered(chunk.order))
        except OutputError as error:
            warnings.warn(f"features are not cached any more: {error}", NormgateWarning, stacklevel=2)
            return False
        return True

    def _assembled(self, chunks: Sequence[_Chunk], numbers: Mapping[str, int] | None) -> Extraction:
        """Features and errors of all chunks, in the order of the source."""
        head = self.extractor.head
        weight = head.weight.detach().to("cpu", torch.float32).clone()
        bias = None if head.bias is None else head.bias.detach().to("cpu", torch.float32).clone()
        parts, errors = [], []
        for chunk in chunks:
            assert chunk.entry is not None
            said = chunk.entry.errors
            errors += [(chunk.ids[i], error) for i, error in enumerate(said) if error is not None]
            readable = [i for i, error in enumerate(said) if error is None]
            if not readable:
                continue
            ids = tuple(chunk.ids[i] for i in readable)
            labels = [chunk.labels[i] for i in readable]
            parts.append(
                Features(
                    **chunk.entry.columns,
                    weight=weight,
                    bias=bias,
                    temperature=temperature(self.extractor.model),
                    ids=ids,
                    labels=None if numbers is None else class_numbers(ids, labels, numbers),
                )
            )
        if not parts:
            raise unreadable(errors)
        return Extraction(concatenate(parts), tuple(errors))


@dataclasses.dataclass
class _Chunk:
    """Consecutive records of a source: who they are, where the cache has them, and what is known of them.

    `order` sorts them by content, as the cache has them: files that come in another order under new names are found
    again. `marks` say of each file whether it has been written to since.
    """

    ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    order: list[int]
    key: str
    marks: tuple[tuple[Payload, tuple[int, ...] | None], ...]
    entry: Entry | None = None


class _Rows:
    """What the network said, batch by batch, to be taken chunk by chunk."""

    def __init__(self) -> None:
        self.errors: list[str | None] = []
        self._parts: list[Features] = []

    def add(self, features: Features | None, errors: Sequence[str | None]) -> None:
        self.errors += errors
        if features is not None:
            self._parts.append(features)

    def take(self, size: int) -> Entry:
        """The first images."""
        errors, self.errors = self.errors[:size], self.errors[size:]
        rows = sum(error is None for error in errors)
        found = concatenate(self._parts) if self._parts else None
        if found is None or rows == 0:
            return Entry.of(None, errors)
        self._parts = [found.select(range(rows, len(found)))] if rows < len(found) else []
        return Entry.of(found.select(range(rows)), errors)


def _chunked(source: Iterable[Record], size: int) -> Iterator[list[Record]]:
    records: list[Record] = []
    weight = 0
    for record in source:
        records.append(record)
        weight += len(record.payload) if isinstance(record.payload, bytes) else 0
        if len(records) == size or weight >= _CHUNK_BYTES:
            yield records
            records, weight = [], 0
    if records:
        yield records


def _inverse(order: Sequence[int]) -> list[int]:
    """Where each number stands in `order`."""
    return sorted(range(len(order)), key=order.__getitem__)
