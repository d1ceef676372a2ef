"""The batch function that every engine calls: records to verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.data.loading import load_batches
from normgate.screening.tables import verdict_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from normgate.data.decoding import Payload
    from normgate.data.sources import Record
    from normgate.judging import Judge


def judged(
    judge: Judge, records: Iterable[Record], *, batch_size: int, workers: int | None, max_pixels: int
) -> Iterator[tuple[list[Payload], pa.Table]]:
    """Batches of images, undecoded, and their verdicts, in order; images are decoded ahead while others are judged.

    Args:
        judge: gives the verdicts.
        records: of the images.
        batch_size: images in a forward pass.
        workers: decoding threads.
        max_pixels: larger images are errors.
    """
    for batch in load_batches(
        records, judge.preprocessing, batch_size=batch_size, workers=workers, max_pixels=max_pixels
    ):
        yield [record.payload for record in batch.records], verdict_table(judge.judge_batch(batch))
