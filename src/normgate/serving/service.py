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
    from normgate.serving.uploads import Body
    from normgate.verdicts import Verdict

KEPT_EVERY = 1000
"""Scores after which the state of the shift alarm is written again: what a crash loses, at most."""
logger = logging.getLogger(__name__)


class Service:
    """Loads a gate and judges images with it until closed.

    Args:
        path: folder of the gate, or its exported file.
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
        self.batcher = Batcher(
            room=options.queue, max_pixels=options.max_pixels, told=self._told, holds=self.metrics.holds
        )
        self._unkept = 0

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

    async def judge(
        self, records: Sequence[Record], neighbours: int = 0, body: Body | None = None
    ) -> tuple[str, list[Answer]]:
        """The digest of the gate that judged, and an answer an image, in order.

        Args:
            records: the images.
            neighbours: how many training images to name with each.
            body: see `Batcher.submit`.

        Raises:
            Refused: there is no room for the images, or the service is closed.
        """
        served = self.served
        futures = self.batcher.submit(served, records, neighbours, body)
        parts = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return served.digest, [answer for part in parts for answer in part]

    async def reload(self) -> Served:
        """Read the gate's folder again, and serve what is there from then on; images that are in finish with theirs.

        Raises:
            NormgateError: it cannot be served; the gate from before goes on, as it does after any other error.
        """
        async with self._reloading:
            try:
                new = await asyncio.to_thread(Served.load, self._path, self.options, self.served)
            except Exception as error:
                self.metrics.reloaded(None)
                logger.error(
                    "the gate from before goes on, since the new one cannot be served: %s",
                    error,
                    exc_info=not isinstance(error, NormgateError),
                )
                raise
            self.served = new
            self.metrics.reloaded(new)
            logger.info("serving gate %s", new.digest[:12])
            return new

    def close(self) -> None:
        """Answer what is in, and keep the state of the shift alarm where that was asked for.

        Raises:
            OutputError: the state cannot be written.
        """
        self.batcher.close()
        try:
            if self.options.shift_state is not None:
                self.served.keep_alarm(self.options.shift_state)
        except NormgateError as error:
            logger.error("the state of the shift alarm is lost: %s", error)
            raise
        finally:
            self.metrics.close()

    def _told(self, served: Served, verdicts: Sequence[Verdict], seconds: float) -> None:
        alarm = served.alarm
        if alarm is not None:
            quiet = alarm.raised is None
            scores = [verdict.score for verdict in verdicts if verdict.error is None]
            alarm.update(scores)
            raised = quiet and alarm.raised is not None
            if raised:
                logger.warning("shift alarm: images no longer come like the calibration images (delta %g)", alarm.delta)
            self._unkept += len(scores)
            if served is self.served and (raised or self._unkept >= KEPT_EVERY):
                self._keep(served)
        self.metrics.judged(served, verdicts, seconds)

    def _keep(self, served: Served) -> None:
        self._unkept = 0
        if self.options.shift_state is not None:
            try:
                served.keep_alarm(self.options.shift_state)
            except NormgateError as error:  # images are judged all the same
                logger.error("the state of the shift alarm is not kept: %s", error)
