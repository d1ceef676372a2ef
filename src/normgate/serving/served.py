"""A gate as it is served: who judges, what is told of it, and what watches its scores."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.data.loading import cores
from normgate.data.sources import open_source
from normgate.files import check_output, whole_file
from normgate.gate import Gate
from normgate.judging import Judge, choose_judge, gate_digest, load_judge
from normgate.monitor import MonitorError, ShiftAlarm
from normgate.neighbours import Neighbours
from normgate.runtime import PortableGate
from normgate.serving.errors import ServingError

if TYPE_CHECKING:
    from pathlib import Path

    from normgate.calibration import Calibration
    from normgate.serving.options import Options

BARS = 60
THUMBNAIL_SIDE = 64
logger = logging.getLogger(__name__)
_SHARES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """A loaded gate.

    Attributes:
        digest: of everything that its verdicts depend on.
        judge: gives the verdicts, one batch at a time.
        beside: the same, by one core and for many threads at a time; None where that cannot be, or there is one core.
        about: what it is, in JSON's own types.
        score_levels: scores at which a histogram of scores is divided: quantiles of the calibration scores.
        alarm: watches the scores; None where nothing does.
        neighbours: nearest training images; None where they may not be seen.
    """

    digest: str
    judge: Judge
    beside: Judge | None
    about: dict[str, Any]
    score_levels: tuple[float, ...]
    alarm: ShiftAlarm | None
    neighbours: Neighbours | None

    @classmethod
    def load(cls, path: Path, options: Options, earlier: Served | None = None) -> Served:
        """Read a gate; nothing in its folder is executed.

        Args:
            path: folder of the gate, or its exported file.
            options: how it is served.
            earlier: what was served before; where it is the same gate, its alarm goes on.

        Raises:
            NormgateError: it cannot be served; the message says why.
        """
        gate = load_judge(path, device=options.device)
        chosen = choose_judge(gate, options.runtime)
        digest = chosen.digest or gate_digest(gate)  # which says what cannot be seen
        neighbours = None
        if options.neighbours is not None:
            if not isinstance(gate, Gate):
                raise ServingError(f"{path} keeps no features of training images; serve the gate's folder to show them")
            source = open_source(options.neighbours, labelled=False, image_column=options.image_column)
            neighbours = Neighbours(gate, source, THUMBNAIL_SIDE)
            neighbours.read(neighbours.ids)  # nobody waits for them later
        if earlier is not None and earlier.digest == digest:
            alarm = earlier.alarm
        else:
            alarm = None if options.shift_delta is None else _alarm(gate, digest, options, resumed=earlier is None)
        return cls(
            digest=digest,
            judge=chosen.judge,
            beside=_by_one_core(chosen.judge),
            about={
                "gate": digest,
                "classes": list(gate.classes),
                "score": gate.score_name,
                "runtime": chosen.runtime,
                "false_alarm_rate": gate.calibration.alpha,
                "by_class": gate.calibration.by_class,
                "thresholds": [finite(value) for value in gate.calibration.thresholds.tolist()],
                "calibration": _histogram(gate.calibration),
                "size": list(gate.preprocessing.size),
                "neighbours": neighbours is not None,
                "caveats": gate.caveats,
            },
            score_levels=_levels(gate.calibration),
            alarm=alarm,
            neighbours=neighbours,
        )

    def keep_alarm(self, path: Path) -> None:
        """Write the state of the alarm, from which `load` goes on.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.alarm is not None:
            with whole_file(path, overwrite=True) as partial:
                state = {"gate": self.digest, "alarm": self.alarm.to_dict()}
                partial.write_text(json.dumps(state, allow_nan=False) + "\n", encoding="utf-8")


def _by_one_core(judge: Judge) -> Judge | None:
    if not isinstance(judge, PortableGate) or cores() == 1:
        return None
    return PortableGate.of(judge.content, threads=1)


def _alarm(gate: Judge, digest: str, options: Options, *, resumed: bool) -> ShiftAlarm:
    assert options.shift_delta is not None
    alarm = gate.shift_alarm(delta=options.shift_delta)
    path = options.shift_state
    if path is None:
        return alarm
    check_output(path, overwrite=True)
    if not path.parent.is_dir():
        raise ServingError(f"{path.parent} is no folder; make it, or name another file with --shift-state")
    if not (resumed and path.exists()):
        return alarm
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        found, of_gate = ShiftAlarm.from_dict(state["alarm"]), state["gate"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MonitorError) as error:
        raise ServingError(f"{path} holds no state of a shift alarm: {error}; name another file") from error
    if found.delta != options.shift_delta:
        raise ServingError(
            f"{path} holds the state of an alarm with another DELTA ({found.delta:g}); name another file, or remove it "
            "to begin anew"
        )
    if of_gate != digest or not np.array_equal(found.edges, alarm.edges):
        logger.warning("%s holds the state of another gate's alarm; a new one begins", path)
        return alarm
    return found


def _histogram(calibration: Calibration) -> dict[str, Any]:
    """The calibration scores as counts between evenly spaced edges; the outermost hold what lies beyond."""
    finite = calibration.scores[np.isfinite(calibration.scores)]
    # A few outliers must not squeeze everything else; the thresholds are shown.
    low, high = np.quantile(finite, [0.02, 1]) if len(finite) else (0.0, 1.0)
    low = min([low, *calibration.thresholds[np.isfinite(calibration.thresholds)]])
    if not low < high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BARS + 1)
    counts = np.histogram(np.clip(calibration.scores, low, high), edges)[0]
    return {"images": calibration.n, "edges": edges.tolist(), "counts": counts.tolist()}


def _levels(calibration: Calibration) -> tuple[float, ...]:
    finite = calibration.scores[np.isfinite(calibration.scores)]
    return tuple(np.unique(np.quantile(finite, _SHARES)).tolist()) if len(finite) else (0.0,)


def finite(value: float) -> float | None:
    """A value as JSON has it: None for what it has no number for."""
    return value if math.isfinite(value) else None
