"""The service behind the application: a gate that can be exchanged, the queue in front of it, and the counts."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from normgate.errors import NormgateError
from normgate.serving.batching import Batcher
from normgate.serving.metrics import Metrics
from normgate.serving.served import Served

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from normgate.data.sources import Record
    from normgate.serving.batching import Answer
    from normgate.serving.options import Options
    from normgate.verdicts import Verdict

logger = logging.getLogger(__name__)


class Service:
    """Loads a gate and judges images with it until closed.

    Args:
        path: folder of the gate.
        options: how it is served.

    Raises:
        NormgateError: the gate cannot be served.
    """

    def __init__(self, path: Path, options: Options) -> None:
        self.options = options
        self._path = path
        self._reloading = asyncio.Lock()
        self.served = Served.load(path, options)
        self.metrics = Metrics(self.served)
        self.batcher = Batcher(room=options.queue, max_pixels=options.max_pixels, told=self._told)

    def about(self) -> dict[str, Any]:
        """What is served, in JSON's own types."""
        served, options = self.served, self.options
        alarm = served.alarm
        limits = {name: getattr(options, name) for name in ("max_bytes", "max_pixels", "max_images", "timeout")}
        shift = None
        if alarm is not None:
            shift = {
                "delta": alarm.delta,
                "seen": alarm.seen,
                "raised": alarm.raised,
                "log_martingale": alarm.log_martingale,
            }
        return {**served.about, "limits": limits, "shift": shift}

    async def judge(self, records: Sequence[Record], neighbours: int = 0) -> tuple[str, list[Answer]]:
        """The digest of the gate that judged, and an answer an image, in order.

        Raises:
            Refused: there is no room for the images, or the service is closed.
        """
        served = self.served
        futures = self.batcher.submit(served, records, neighbours)
        parts = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return served.digest, [answer for part in parts for answer in part]

    async def reload(self) -> Served:
        """Read the gate's folder again, and serve what is there from then on; images that are in finish with theirs.

        Raises:
            NormgateError: it cannot be served; the gate from before goes on.
        """
        async with self._reloading:
            try:
                new = await asyncio.to_thread(Served.load, self._path, self.options, self.served)
            except NormgateError as error:
                self.metrics.reloaded(None)
                logger.error("the gate from before goes on, since the new one cannot be served: %s", error)
                raise
            self.served = new
            self.metrics.reloaded(new)
            logger.info("serving gate %s", new.digest[:12])
            return new

    def close(self) -> None:
        """Answer what is in, and keep the state of the shift alarm where that was asked for."""
        self.batcher.close()
        if self.options.shift_state is not None:
            self.served.keep_alarm(self.options.shift_state)
        self.metrics.close()

    def _told(self, served: Served, verdicts: Sequence[Verdict], seconds: float) -> None:
        alarm = served.alarm
        if alarm is not None:
            quiet = alarm.raised is None
            alarm.update([verdict.score for verdict in verdicts if verdict.error is None])
            if quiet and alarm.raised is not None:
                logger.warning("shift alarm: images no longer come like the calibration images (delta %g)", alarm.delta)
        self.metrics.judged(served, verdicts, seconds)
