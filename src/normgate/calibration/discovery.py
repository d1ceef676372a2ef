"""False-discovery control: which rejections to report so that at most a share q of them are ID images.

The false-alarm rate α speaks of the ID images (how many of them are rejected); the false-discovery rate q
speaks of the rejected images (how many of them are ID).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normgate.calibration.conformal import CalibrationError, Floats, check_scores, check_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

_ROUNDING = 4 * np.finfo(np.float64).eps
"""More than the relative rounding of a p-value, of q, of a quotient and of their product together."""


def benjamini_hochberg(p_values: ArrayLike, q: float) -> float:
    """The cut for a false-discovery rate of q: reject where p ≤ cut; 0.0 where nothing can be rejected.

    The cut is the largest of the (m,) p-values with p ≤ q · #{j : pⱼ ≤ p} / m (Benjamini & Hochberg, 1995); the two
    count as equal where they differ by no more than rounding.
    Conformal p-values share their calibration scores and are not independent, but depend on one another
    positively, and the bound holds for them (Bates, Candès, Lei, Romano & Sesia, "Testing for outliers with
    conformal p-values", 2023, Theorem 2).

    Raises:
        CalibrationError: q is not in (0, 1), or p-values are NaN or not in [0, 1].
    """
    values = check_scores(p_values, "p-values")
    if len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise CalibrationError(f"p-values lie in [0, 1], and these run from {values.min():g} to {values.max():g}")
    distinct, counts = np.unique(values, return_counts=True)
    return _cut(distinct, counts, q)


class RankHistogram:
    """Counts of conformal p-values: Benjamini–Hochberg over a stream of any length, in constant memory.

    n calibration scores allow no other p-values than r/(n+1), r = 1 … n+1. To count those loses nothing:
    `cut` is exactly `benjamini_hochberg` of everything that was added.

    Args:
        sizes: the number of calibration scores; with thresholds by class, the number in each class.
    """

    def __init__(self, sizes: int | Sequence[int]) -> None:
        distinct = set(np.atleast_1d(sizes).tolist())
        if not distinct or not all(type(size) is int and size >= 1 for size in distinct):
            raise CalibrationError(
                "a histogram of p-values needs the size of each calibration set, a whole number of at least 1, and not "
                f"{sizes!r}"
            )
        self._values: Floats = np.unique(np.concatenate([np.arange(1, n + 2) / (n + 1) for n in distinct]))
        self._counts = np.zeros(len(self._values), dtype=np.int64)

    @property
    def total(self) -> int:
        """Number of p-values added so far."""
        return int(self._counts.sum())

    def add(self, p_values: ArrayLike) -> None:
        """Count (N,) p-values.

        Raises:
            CalibrationError: one is not a p-value of these calibration sets; nothing is counted then.
        """
        values = check_scores(p_values, "p-values")
        places = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
        foreign = values[self._values[places] != values]
        if len(foreign):
            raise CalibrationError(
                f"{foreign[0]:g} cannot be a p-value of this calibration: "
                f"make the histogram from the calibration whose p-values it is to count"
            )
        self._counts += np.bincount(places, minlength=len(self._counts))

    def cut(self, q: float) -> float:
        """`benjamini_hochberg` of all p-values added so far."""
        return _cut(self._values, self._counts, q)


def _cut(values: Floats, counts: NDArray[np.int64], q: float) -> float:
    """Benjamini–Hochberg over ascending distinct p-values and how often each occurs, 0 allowed."""
    check_share(q, "the false-discovery rate")
    total = counts.sum()
    if total == 0:
        return 0.0
    # Conformal p-values lie on a lattice, where equality is common: 0.01 is not to miss 0.1 · (1/10) by a rounding.
    bounds = q * (np.cumsum(counts) / total) * (1 + _ROUNDING)
    passing = np.flatnonzero((counts > 0) & (values <= bounds))
    return float(values[passing[-1]]) if len(passing) else 0.0
