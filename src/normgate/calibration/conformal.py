"""Split conformal prediction: a rank among calibration scores is a p-value, whatever network and score.

For the scores s₁ … s_n of n calibration images, larger = more familiar,

    p(x) = (1 + #{i : sᵢ ≤ s(x)}) / (n + 1)        reject where p(x) ≤ α,

and equivalently accept where s(x) is at least the k-th smallest calibration score, k = `rank(α, n)`. A new ID
image that is exchangeable with the calibration images is rejected with probability k/(n+1) ≤ α, less where
scores tie (Vovk, Gammerman & Shafer, *Algorithmic Learning in a Random World*, 2005). Pictures of the same
person, burst or scene are not exchangeable with those of another; the promise is nominal then.

Only the order of scores counts, so infinite scores are as good as any; NaN has no order and is an error.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normgate.errors import NormgateError
from normgate.metrics.ties import MetricError, real_numbers

Floats: TypeAlias = NDArray[np.float64]


class CalibrationError(NormgateError):
    """These numbers allow no threshold, p-value or cut; the message says what is missing."""


def rank(alpha: float, n: int) -> int:
    """The largest k with k/(n+1) ≤ α in floating point: then p ≤ α and s < threshold can never differ.

    `floor(α·(n+1))` is not it: 0.29 · 100 is 28.999…, while 29/100 ≤ 0.29 holds.

    Args:
        alpha: false-alarm rate, in (0, 1).
        n: number of calibration scores.

    Raises:
        CalibrationError: alpha is not in (0, 1), or n is too small for any rejection at this alpha.
    """
    check_share(alpha, "the false-alarm rate")
    alpha, n = float(alpha), int(n)  # NumPy would compare with a float32 alpha in float32
    if n < 1:
        raise CalibrationError("there are no calibration scores: set in-distribution images aside for them")
    k = math.floor(alpha * (n + 1))
    while (k + 1) / (n + 1) <= alpha:
        k += 1
    while k / (n + 1) > alpha:
        k -= 1
    if k == 0:
        raise CalibrationError(
            f"a false-alarm rate of {alpha:g} needs at least {smallest_n(alpha)} calibration images, "
            f"and there are {n}: add images, or allow a rate of 1/{n + 1} or more"
        )
    return k


def smallest_n(alpha: float) -> int:
    """The fewest calibration scores that allow a rejection at α, ⌈1/α⌉ − 1; by the rule of `rank`."""
    check_share(alpha, "the false-alarm rate")
    alpha = float(alpha)
    n = math.ceil(1 / Fraction(alpha)) - 1
    # The float nearest to 1/3 is below 1/3, and yet 1/(2+1) ≤ it: one fewer is enough there.
    return n - 1 if n > 1 and 1 / n <= alpha else n


def threshold(calibration: ArrayLike, alpha: float) -> float:
    """The `rank(α, n)`-th smallest of (n,) calibration scores: accept what scores at least this.

    Infinite where that score is: −∞ accepts every image, +∞ only those at +∞, in agreement with the p-values.

    Raises:
        CalibrationError: no scores, NaN among them, or too few for alpha.
    """
    values = check_calibration(calibration)
    k = rank(alpha, len(values))
    return float(np.partition(values, k - 1)[k - 1])


def p_values(scores: ArrayLike, calibration: ArrayLike) -> Floats:
    """(N,) conformal p-values in (0, 1]; p ≤ α exactly where the score is below `threshold(calibration, α)`.

    Args:
        scores: (N,) scores to judge; N may be 0.
        calibration: (n,) calibration scores, in any order.

    Raises:
        CalibrationError: NaN among the scores, or no calibration scores.
    """
    return p_values_sorted(check_scores(scores), np.sort(check_calibration(calibration)))


def p_values_sorted(scores: Floats, ascending: Floats) -> Floats:
    """`p_values` for checked scores and calibration scores in ascending order."""
    ranks = np.searchsorted(ascending, scores, side="right") + 1
    return np.asarray(ranks / (len(ascending) + 1), dtype=np.float64)


def expected_false_alarm_rate(alpha: float, n: int) -> float:
    """k/(n+1): the chance, without ties, that a new ID image is rejected. At most α; ties only lower it."""
    return rank(alpha, n) / (n + 1)


def smallest_p_value(n: int) -> float:
    """1/(n+1): with n calibration scores no image, however strange, gets a smaller p-value."""
    return 1 / (n + 1)


def false_alarm_band(alpha: float, n_calibration: int, n_test: int, level: float = 0.99) -> tuple[float, float]:
    """Where the share of rejected images among `n_test` ID images lies with probability `level` or more.

    Over calibration sets, and without ties, the chance of a rejection is spread as Beta(k, n+1−k) (Vovk,
    "Conditional validity of inductive conformal predictors", 2012), so the number of rejections is
    BetaBinomial(n_test, k, n+1−k). The band is its central interval, from the (1−level)/2 to the (1+level)/2
    quantile, as fractions of n_test.

    Raises:
        CalibrationError: alpha or level is not in (0, 1), n_calibration is too small, or n_test is below 1.
    """
    k = rank(alpha, n_calibration)
    check_share(level, "the level of the band")
    if n_test < 1:
        raise CalibrationError(f"a band on the rejections needs at least one test image, not {n_test}")
    # P(x+1)/P(x) = (N−x)(k+x) / ((x+1)(N−x+n−k)); sums of its logarithm need no large log-gammas.
    x = np.arange(n_test, dtype=np.float64)
    steps = np.log((n_test - x) * (k + x) / ((x + 1) * (n_test - x + n_calibration - k)))
    log_mass = np.concatenate([[0.0], np.cumsum(steps)])
    mass = np.exp(log_mass - log_mass.max())
    tail = (1 - level) / 2 * mass.sum()
    low = int(np.searchsorted(np.cumsum(mass), tail))
    high = n_test - int(np.searchsorted(np.cumsum(mass[::-1]), tail, side="right"))
    return low / n_test, high / n_test


def false_alarm_spread(alpha: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Where the false-alarm rate of a gate with n calibration images lies with probability `level`.

    Over calibration sets, and without ties, that rate is spread as Beta(k, n+1−k) (Vovk 2012, as in
    `false_alarm_band`); these are its (1−level)/2 and (1+level)/2 quantiles.

    Raises:
        CalibrationError: alpha or level is not in (0, 1), or n is too small.
    """
    k = rank(alpha, n)
    check_share(level, "the level of the spread")
    # Of n uniform numbers the k-th smallest is at most p where k or more of them are: a binomial tail.
    j = np.arange(n + 1, dtype=np.float64)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - j[:-1]) / j[1:]))])

    def quantile(share: float) -> float:
        low, high = 0.0, 1.0
        while high - low > 1e-9:
            rate = (low + high) / 2
            tail = np.exp(log_choose + j * np.log(rate) + (n - j) * np.log1p(-rate))[k:].sum()
            low, high = (rate, high) if tail < share else (low, rate)
        return (low + high) / 2

    return quantile((1 - level) / 2), quantile((1 + level) / 2)


def check_share(value: float, what: str) -> None:
    """Refuse a rate that is not strictly between 0 and 1."""
    if not isinstance(value, int | float | np.number | Fraction) or not 0 < value < 1:
        raise CalibrationError(f"{what} is a share strictly between 0 and 1 (0.05 for 5 %), not {value!r}")


def check_scores(scores: ArrayLike, what: str = "scores") -> Floats:
    """(N,) float64, without NaN."""
    try:
        values = real_numbers(scores, what).astype(np.float64)
    except MetricError as error:
        raise CalibrationError(str(error)) from error
    if values.ndim != 1:
        raise CalibrationError(f"{what} are one number an image: pass a 1-D array, not {values.shape}")
    missing = int(np.isnan(values).sum())
    if missing:
        raise CalibrationError(f"{missing} of {len(values)} {what} are NaN: leave those images out")
    return values


def check_calibration(scores: ArrayLike) -> Floats:
    """(n,) float64, without NaN and not empty."""
    values = check_scores(scores, "calibration scores")
    if len(values) == 0:
        raise CalibrationError("there are no calibration scores: set in-distribution images aside for them")
    return values
