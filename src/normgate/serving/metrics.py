"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normgate.serving.served import Served
    from normgate.verdicts import Verdict

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Where several workers keep their counts, so that each tells those of all."""
CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counts of one application.

    Args:
        served: the gate at the start.
    """

    def __init__(self, served: Served) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter("normgate_requests", "Answered requests.", ("path", "status"), registry=own)
        self._seconds = Histogram(
            "normgate_request_seconds", "From a request to its answer.", ("path",), buckets=_SECONDS, registry=own
        )
        self._verdicts = Counter("normgate_verdicts", "Images that were judged.", ("verdict",), registry=own)
        self._batches = Histogram("normgate_batch_images", "Images in a batch.", buckets=_IMAGES, registry=own)
        self._batch_seconds = Histogram(
            "normgate_batch_seconds", "Time of the judge for a batch.", buckets=_SECONDS, registry=own
        )
        self._queue = Gauge(
            "normgate_queue_images", "Images not yet answered.", registry=own, multiprocess_mode="livesum"
        )
        self._reloads = Counter("normgate_reloads", "Reloads of the gate.", ("outcome",), registry=own)
        self._shift = Gauge(
            "normgate_shift_log_martingale",
            "Evidence that images have shifted; the alarm is raised at log(1/delta).",
            registry=own,
            multiprocess_mode="livemax",
        )
        self._alarm = Gauge(
            "normgate_shift_alarm", "1 once the alarm is raised.", registry=own, multiprocess_mode="livemax"
        )
        for verdict in ("accepted", "rejected", "unreadable"):
            self._verdicts.labels(verdict)
        for outcome in ("done", "failed"):
            self._reloads.labels(outcome)
        self._serve(served)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request was answered.

        Args:
            path: one of the paths of the application, or "other".
            status: of HTTP.
            seconds: that it took.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def judged(self, served: Served, verdicts: Sequence[Verdict], seconds: float) -> None:
        """A batch was judged."""
        readable = [verdict for verdict in verdicts if verdict.error is None]
        accepted = sum(verdict.accepted for verdict in readable)
        self._verdicts.labels("accepted").inc(accepted)
        self._verdicts.labels("rejected").inc(len(readable) - accepted)
        self._verdicts.labels("unreadable").inc(len(verdicts) - len(readable))
        self._batches.observe(len(verdicts))
        self._batch_seconds.observe(seconds)
        digest, scores = self._scores
        if served.digest == digest:  # the last images of an older gate are in the counts of verdicts alone
            for verdict in readable:
                scores.observe(verdict.score)
            self._watched(served)

    def holds(self, images: int) -> None:
        """So many images are not yet answered by this worker."""
        self._queue.set(images)

    def reloaded(self, served: Served | None) -> None:
        """A new gate is served, or, with None, could not be."""
        self._reloads.labels("failed" if served is None else "done").inc()
        if served is not None and served.digest != self._scores[0]:
            self._registry.unregister(self._score_histogram)
            self._gate.labels(*self._gate_labels).set(0)
            self._registry.unregister(self._gate)
            self._serve(served)

    def text(self) -> bytes:
        """All counts, those of other workers included."""
        if SHARED not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def close(self) -> None:
        """Take what is of this worker alone out of the counts of all."""
        forget(os.getpid())

    def _serve(self, served: Served) -> None:
        short = served.digest[:12]
        self._score_histogram = Histogram(
            "normgate_score",
            "Scores, in classes between quantiles of the calibration scores.",
            ("gate",),
            buckets=served.score_levels,
            registry=self._registry,
        )
        # Swapped in one step: another thread counts.
        self._scores = (served.digest, self._score_histogram.labels(short))
        self._gate = Gauge(
            "normgate_gate",
            "1 for the gate that is served.",
            ("gate", "score", "runtime"),
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._gate_labels = (short, served.about["score"], served.about["runtime"])
        self._gate.labels(*self._gate_labels).set(1)
        self._watched(served)

    def _watched(self, served: Served) -> None:
        alarm = served.alarm
        self._shift.set(0 if alarm is None else alarm.log_martingale)
        self._alarm.set(alarm is not None and alarm.raised is not None)


def forget(worker: int) -> None:
    """Take what is of one worker alone, which has ended, out of the counts of all.

    Args:
        worker: its process id.
    """
    if SHARED in os.environ:
        mark_process_dead(worker)  # type: ignore[no-untyped-call]
