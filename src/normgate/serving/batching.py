"""The queue in front of a gate: decoding in threads, judging in others, in batches of whatever waits.

While batches are judged, the images for the next are decoded and wait; once a judge is free, it takes its share of all
that wait, up to a full batch. So nothing ever waits for a batch to fill, and batches are as large as the load makes
them. A batch that is alone has all cores, which makes its answer quick; many side by side have one core each, which
makes most of the cores. Where a gate takes one batch at a time, as PyTorch does, there is one judge.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from normgate.data.decoding import declared_pixels
from normgate.data.loading import PixelBatch, cores, default_workers, load_batches
from normgate.serving.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normgate.data.sources import Record
    from normgate.judging import Judge
    from normgate.neighbours import Neighbour
    from normgate.serving.served import Served
    from normgate.serving.uploads import Body
    from normgate.verdicts import Verdict

BATCH = 128
_TOGETHER = 16
"""Images that one thread takes at a time: so large requests are shared by all, and threads are not woken for a few."""
LARGE = 16_000_000
"""Pixels beyond which images are decoded one after another, so that the memory of all that decode is bounded."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
        verdict: of the gate.
        neighbours: the nearest training images, where they were asked for.
    """

    verdict: Verdict
    neighbours: Sequence[Neighbour] = ()


@dataclasses.dataclass(eq=False)
class _Job:
    """Images of one request that are decoded and judged together, by the gate that was served when they came."""

    served: Served
    records: Sequence[Record]
    neighbours: int
    body: Body | None
    answers: Future[list[Answer]] = dataclasses.field(default_factory=Future)
    batch: PixelBatch | None = None


Told: TypeAlias = "Callable[[Served, Sequence[Verdict], float], None]"


class Batcher:
    """Takes images in, as many as there is room for, and answers them.

    Args:
        room: images that are taken in and not yet answered, at most.
        max_pixels: larger images are errors.
        told: called after each batch, in the thread that judged it and one at a time, with the gate, the verdicts and
            the seconds it took.
        holds: called with the number of images that are taken in and not yet answered, as it changes.
        batch: images that are judged together, at most.
        decoders: decoding threads; by default one a core. One more decodes requests with images of more than `LARGE`
            pixels, so that there is never more than one such image in memory, and the others go on.
        judges: judging threads; by default one a core.
    """

    def __init__(
        self,
        *,
        room: int,
        max_pixels: int,
        told: Told,
        holds: Callable[[int], None] = lambda _: None,
        batch: int = BATCH,
        decoders: int | None = None,
        judges: int | None = None,
    ) -> None:
        self._room, self._max_pixels, self._told, self._batch = room, max_pixels, told, batch
        self._holds = holds
        self._changed = threading.Condition()
        self._ready: deque[_Job] = deque()
        self._waiting = 0  # images that are ready
        self._judging = 0  # batches that are being judged
        self._held = 0
        self._closed = False
        self._telling = threading.Lock()
        self._decoders = concurrent.futures.ThreadPoolExecutor(
            decoders or default_workers(), thread_name_prefix="normgate-decode"
        )
        self._large = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="normgate-decode-large")
        names = [f"normgate-judge_{number}" for number in range(judges or cores())]
        self._judges = [threading.Thread(target=self._judge_all, name=name, daemon=True) for name in names]
        for thread in self._judges:
            thread.start()

    @property
    def held(self) -> int:
        """Images that are taken in and not yet answered."""
        return self._held

    def check(self, images: int = 1) -> None:
        """Refuse images for which there is no room.

        Raises:
            Refused: with 503 once closed, with 429 where the queue is full.
        """
        if self._closed:
            raise Refused(503, "the server is shutting down; ask another one")
        if self._held + images > self._room:
            raise Refused(429, f"the queue is full ({self._room} images); try again later")

    def submit(
        self, served: Served, records: Sequence[Record], neighbours: int = 0, body: Body | None = None
    ) -> list[Future[list[Answer]]]:
        """Take images in, all or none.

        Args:
            served: the gate that judges.
            records: the images.
            neighbours: how many training images to name with each, where the gate may show any.
            body: held for as long as any of the images is in memory, be it that they were cancelled.

        Returns:
            Futures whose lists of answers, one after another, are those of the images, in order. What is cancelled
            before its turn is not judged.

        Raises:
            Refused: as `check`.
        """
        with self._changed:
            self.check(len(records))
            self._held += len(records)
            self._holds(self._held)
        starts = range(0, len(records), _TOGETHER)
        jobs = [_Job(served, records[start : start + _TOGETHER], neighbours, body) for start in starts]
        for job in jobs:
            if body is not None:
                body.hold()
            self._decoders.submit(self._decode, job)
        return [job.answers for job in jobs]

    def close(self) -> None:
        """Take no more images in, answer those that are, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._judges:
            thread.join()
        self._decoders.shutdown()
        self._large.shutdown()

    def _decode(self, job: _Job, *, large: bool = False) -> None:
        try:
            if not large and any(map(_is_large, job.records)):
                self._large.submit(self._decode, job, large=True)
                return
            # One by one, since images that nobody waits for any more are left alone.
            wanted = itertools.takewhile(lambda _: not job.answers.cancelled(), job.records)
            preprocessing = job.served.judge.preprocessing
            found = list(load_batches(wanted, preprocessing, batch_size=1, workers=0, max_pixels=self._max_pixels))
            job.batch = _joined(found) if len(found) == len(job.records) else None
        except Exception as error:
            logger.exception("images could not be decoded")
            self._release([job], were_judged=False)
            if job.answers.set_running_or_notify_cancel():
                job.answers.set_exception(error)
            return
        with self._changed:
            self._ready.append(job)
            self._waiting += len(job.records)
            self._changed.notify()

    def _judge_all(self) -> None:
        while (taken := self._next()) is not None:
            jobs, judge = taken
            live = [job for job in jobs if job.answers.set_running_or_notify_cancel()]
            try:
                found = self._judge(live, judge) if live else []
            except Exception as error:
                logger.exception("a batch could not be judged")
                self._release(jobs)
                for job in live:
                    job.answers.set_exception(error)
            else:
                self._release(jobs)  # whoever has an answer finds the room free
                for job, answers in zip(live, found, strict=True):
                    job.answers.set_result(answers)

    def _next(self) -> tuple[list[_Job], Judge] | None:
        """Decoded jobs of one gate, up to a judge's share, and who judges them; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._can_begin() or (self._closed and not self._held))
            if not self._ready:
                return None
            served = self._ready[0].served
            share = self._batch
            if served.beside is not None:
                share = min(share, max(_TOGETHER, -(-self._waiting // len(self._judges))))
            jobs: list[_Job] = []
            images = 0
            while self._ready and (not jobs or self._ready[0].served is served):
                images += len(self._ready[0].records)
                if jobs and images > share:
                    break
                jobs.append(self._ready.popleft())
                self._waiting -= len(jobs[-1].records)
            is_alone = not self._judging and not self._ready
            self._judging += 1
            if self._can_begin():
                self._changed.notify()  # of those, nobody else would be told
            return jobs, served.judge if is_alone or served.beside is None else served.beside

    def _can_begin(self) -> bool:
        """Whether something waits and nothing is judged, or what waits can be judged beside it and is worth it."""
        if not (self._ready and self._judging):
            return bool(self._ready)
        return self._ready[0].served.beside is not None and self._waiting >= _TOGETHER

    def _judge(self, jobs: Sequence[_Job], judge: Judge) -> list[list[Answer]]:
        served = jobs[0].served
        started = time.perf_counter()
        batch = _joined([job.batch for job in jobs if job.batch is not None])
        verdicts = list(judge.judge_batch(batch))
        seconds = time.perf_counter() - started
        with self._telling:
            self._told(served, verdicts, seconds)
        rows = iter(verdicts)
        return [_answers(served, job, list(itertools.islice(rows, len(job.records)))) for job in jobs]

    def _release(self, jobs: Sequence[_Job], *, were_judged: bool = True) -> None:
        with self._changed:
            self._judging -= were_judged
            self._held -= sum(len(job.records) for job in jobs)
            self._holds(self._held)
            self._changed.notify_all()
        for job in jobs:
            if job.body is not None:
                job.body.release()


def _is_large(record: Record) -> bool:
    return isinstance(record.payload, bytes) and declared_pixels(record.payload) > LARGE


def _answers(served: Served, job: _Job, verdicts: Sequence[Verdict]) -> list[Answer]:
    if not job.neighbours or served.neighbours is None or job.batch is None or not len(job.batch.pixels):
        return [Answer(verdict) for verdict in verdicts]
    judged = [verdict.error is None for verdict in verdicts]
    pixels = job.batch.pixels[np.array(judged)[job.batch.readable]]
    found = iter(served.neighbours.nearest(pixels, job.neighbours) if len(pixels) else ())
    near = [next(found) if fine else () for fine in judged]
    return [Answer(verdict, own) for verdict, own in zip(verdicts, near, strict=True)]


def _joined(batches: Sequence[PixelBatch]) -> PixelBatch:
    if len(batches) == 1:
        return batches[0]
    return PixelBatch(
        records=tuple(record for batch in batches for record in batch.records),
        pixels=np.concatenate([batch.pixels for batch in batches]),
        readable=np.concatenate([batch.readable for batch in batches]),
        errors=tuple(error for batch in batches for error in batch.errors),
        digests=(),
    )
