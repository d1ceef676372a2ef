"""The slider: every threshold that the calibration images allow, and how many images of each set it rejects."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from normgate.calibration import Calibration
    from normgate.report.scored import ScoredSet

FINE, MOST = 200, 400
"""The lowest levels are all there, since thresholds lie among them; of the others, as many as there is room for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """Positions of the slider, from the one that rejects nothing up.

    Attributes:
        p_values: (L,) an image is rejected where its p-value is at most this.
        promised: (L,) the expected share of known images that are then rejected.
        thresholds: (L,) the score from which on an image is accepted, −∞ at the first; None with thresholds by class.
        start: the position that the gate, or the run, has used.
        rejected: for each set, (L,) the number of its images that are rejected, exact whatever images are shown.
        right: for each set with labels, (L,) the number of accepted images whose predicted class is right.
    """

    p_values: NDArray[np.float64]
    promised: NDArray[np.float64]
    thresholds: NDArray[np.float64] | None
    start: int
    rejected: Mapping[str, NDArray[np.int64]]
    right: Mapping[str, NDArray[np.int64]]


def levels(calibration: Calibration, sets: Sequence[ScoredSet], cut: float | None = None) -> Levels:
    """The positions for these sets.

    Args:
        calibration: the gate's.
        sets: scored images.
        cut: the largest p-value that was rejected, where another rule than the gate's α was used.
    """
    used = calibration.alpha if cut is None else cut
    possible = np.unique(np.concatenate([np.arange(n + 1) / (n + 1) for n in calibration.sizes]))
    own = int(np.searchsorted(possible, used, side="right")) - 1
    coarse = np.linspace(FINE, len(possible) - 1, MOST - FINE).round().astype(int)
    kept = np.arange(len(possible)) if len(possible) <= MOST else np.union1d([*range(FINE), own], coarse)
    p_values = possible[kept]
    thresholds = None
    if not calibration.by_class:
        ascending = np.concatenate([[-np.inf], np.sort(calibration.scores)])
        thresholds = ascending[np.rint(p_values * (calibration.n + 1)).astype(int)]
    shares = [np.floor(p_values * (n + 1) * (1 + 1e-12)) / (n + 1) for n in calibration.sizes]
    return Levels(
        p_values=p_values,
        promised=np.average(shares, axis=0, weights=calibration.sizes),
        thresholds=thresholds,
        start=int(np.searchsorted(kept, own)),
        rejected={part.name: _at_most(part.verdicts.p_value, p_values) for part in sets},
        right={
            part.name: right.sum() - _at_most(part.verdicts.p_value[right], p_values)
            for part in sets
            if part.true is not None
            for right in [np.asarray(part.verdicts.label) == np.asarray(part.true)]
        },
    )


def _at_most(values: NDArray[np.float64], p_values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted(np.sort(values), p_values, side="right").astype(np.int64)
