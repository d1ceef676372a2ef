"""The batch function that every engine calls: records to verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.data.loading import batched, check_whole, cores, load_batches, use_batches
from normgate.runtime import PortableGate
from normgate.screening.tables import verdict_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from normgate.data.decoding import Payload
    from normgate.data.loading import PixelBatch
    from normgate.data.sources import Record
    from normgate.judging import Judge


def judged(
    judge: Judge, records: Iterable[Record], *, batch_size: int, workers: int | None, max_pixels: int
) -> Iterator[tuple[list[Payload], pa.Table]]:
    """Batches of images, undecoded, and their verdicts, in order.

    Images are decoded ahead while others are judged. A portable gate with one thread judges in the threads that decode:
    so no core waits for another within a network of small layers.

    Args:
        judge: gives the verdicts.
        records: of the images.
        batch_size: images in the forward passes that go on at a time.
        workers: threads that decode; by default one a core, up to 8, and where they judge one a core and one more.
        max_pixels: larger images are errors.
    """

    def verdicts(batch: PixelBatch) -> tuple[list[Payload], pa.Table]:
        return [record.payload for record in batch.records], verdict_table(judge.judge_batch(batch))

    if not (isinstance(judge, PortableGate) and judge.threads == 1):
        loaded = load_batches(
            records, judge.preprocessing, batch_size=batch_size, workers=workers, max_pixels=max_pixels
        )
        yield from map(verdicts, loaded)
        return
    workers = cores() + 1 if workers is None else workers  # one more, since some wait for images
    check_whole("batch_size", batch_size, 1)
    check_whole("workers", workers, 0)
    threads = min(workers, batch_size)
    batches = _shared_out(records, batch_size, max(1, threads))
    yield from use_batches(batches, judge.preprocessing, verdicts, workers=threads, max_pixels=max_pixels)


def _shared_out(records: Iterable[Record], batch_size: int, threads: int) -> Iterator[tuple[Record, ...]]:
    """Batches in shares, as many as there are threads, so that the images of a short source go to all of them, too."""
    for batch in batched(records, threads * (batch_size // threads)):
        yield from batched(batch, -(-len(batch) // threads))
