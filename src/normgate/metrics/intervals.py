"""Confidence intervals for AUROC: of one score, of the difference of two, and of a mean over OoD sets.

The variance is DeLong's, from placement values (DeLong, DeLong & Clarke-Pearson, 1988): with V₁₀(i) the share
of OoD images that ID image i outranks and V₀₁(j) the share of ID images that outrank OoD image j, ties
counting half,

    AUROC = mean V₁₀ = mean V₀₁        var = S₁₀/m + S₀₁/n,

S the sample variances. Sorting finds the placements in O(N log N) (Sun & Xu, 2014).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from normgate.metrics.ranking import group_auroc
from normgate.metrics.ties import Floats, MetricError, TieGroups, check_level, check_scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray


class Estimate(NamedTuple):
    """A value and the confidence interval around it."""

    value: float
    low: float
    high: float


class AurocDifference(NamedTuple):
    """AUROC of score a − AUROC of score b, its confidence interval, and the two-sided p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float


def auroc_interval(id_scores: ArrayLike, ood_scores: ArrayLike, level: float = 0.95) -> Estimate:
    """AUROC with a confidence interval inside [0, 1] that has a width even at 0 and at 1.

    DeLong's variance on the logit scale: logit A ± z · se / (A(1−A)). Where that variance is 0 (sets
    perfectly separated, or all scores tied) or unknown (one image in a set), Newcombe's score interval.
    """
    return group_auroc_interval(TieGroups.of(id_scores, ood_scores), level)


def paired_auroc_difference(
    id_a: ArrayLike, ood_a: ArrayLike, id_b: ArrayLike, ood_b: ArrayLike, level: float = 0.95
) -> AurocDifference:
    """AUROC of score a − AUROC of score b on the same images, by DeLong's covariance (DeLong et al., 1988).

    The variance of the difference is that of the paired differences of placements, so what both scores find
    hard cancels. Where DeLong's variance of one AUROC is 0 or unknown the interval is put together from the
    two separate ones as if they were independent (Zou & Donner, 2008), and the p-value follows from its
    width.

    Args:
        id_a: (m,) score a of the ID images.
        ood_a: (n,) score a of the OoD images.
        id_b: (m,) score b of the same ID images, in the same order.
        ood_b: (n,) score b of the same OoD images, in the same order.
        level: confidence level of the interval.
    """
    a = check_scores(id_a, "id_a"), check_scores(ood_a, "ood_a")
    b = check_scores(id_b, "id_b"), check_scores(ood_b, "ood_b")
    if len(a[0]) != len(b[0]) or len(a[1]) != len(b[1]):
        raise MetricError(
            f"a paired difference needs two scores of the same images: score a has {len(a[0])} ID and {len(a[1])} OoD "
            f"images, score b {len(b[0])} and {len(b[1])}"
        )
    v10_a, v01_a = _placements(*a)
    v10_b, v01_b = _placements(*b)
    estimates = [auroc_interval(*a, level), auroc_interval(*b, level)]
    difference = estimates[0].value - estimates[1].value
    variances = [_variance(v10_a, v01_a), _variance(v10_b, v01_b)]
    z = _z(level)
    if min(variances) > 0:
        error = math.sqrt(_variance(v10_a - v10_b, v01_a - v01_b))
        low, high = max(difference - z * error, -1.0), min(difference + z * error, 1.0)
    else:
        low, high = _combined(estimates, np.array([1.0, -1.0]), np.eye(2))
        error = (difference - low if difference > 0 else high - difference) / z
    p_value = math.erfc(abs(difference) / error / math.sqrt(2)) if error else 1.0
    return AurocDifference(difference, low, high, p_value)


def mean_auroc(id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike], level: float = 0.95) -> Estimate:
    """Mean of the AUROCs of one ID set against each OoD set, as OpenOOD takes it, with a confidence interval.

    The sets share their ID images, so their AUROCs rise and fall together. The interval combines those of the
    sets by DeLong's correlations (Zou & Donner, "Construction of confidence limits about effect measures",
    2008): with weights w = 1/S and lower limits lᵢ the lower limit is Σ w Aᵢ − √(ΣΣ w² rᵢⱼ (Aᵢ − lᵢ)(Aⱼ −
    lⱼ)), and r = 1 where DeLong's variance is 0 or unknown. For one set it is `auroc_interval`.

    Args:
        id_scores: (m,) scores of ID images.
        ood_scores: name -> (n,) scores of an OoD set.
        level: confidence level of the interval.
    """
    if not ood_scores:
        raise MetricError("a mean AUROC needs at least one OoD set")
    id_values = check_scores(id_scores, "id_scores")
    sets = [check_scores(scores, f"ood_scores[{name!r}]") for name, scores in ood_scores.items()]
    estimates = [auroc_interval(id_values, values, level) for values in sets]
    weights = np.full(len(sets), 1 / len(sets))
    placements = [_placements(id_values, values) for values in sets]
    correlation = _correlation(placements)
    low, high = _combined(estimates, weights, correlation)
    return Estimate(math.fsum(e.value for e in estimates) / len(sets), low, high)


def group_auroc_interval(groups: TieGroups, level: float) -> Estimate:
    """`auroc_interval` of counted scores."""
    auroc, variance, z = group_auroc(groups), _group_variance(groups), _z(level)
    if variance > 0:
        center, reach = math.log(auroc / (1 - auroc)), z * math.sqrt(variance) / (auroc * (1 - auroc))
        return Estimate(auroc, _expit(center - reach), _expit(center + reach))
    low = _newcombe_low(auroc, groups.n_id, groups.n_ood, z)
    high = 1 - _newcombe_low(1 - auroc, groups.n_id, groups.n_ood, z)
    return Estimate(auroc, low, high)


def _group_variance(groups: TieGroups) -> float:
    """DeLong's variance of the AUROC of counted scores; NaN where a set has one image."""
    m, n = groups.n_id, groups.n_ood
    if min(m, n) == 1:
        return math.nan
    auroc = group_auroc(groups)
    s10 = groups.id @ (groups.wins / (2 * n) - auroc) ** 2 / (m - 1)
    s01 = groups.ood @ (groups.losses / (2 * m) - auroc) ** 2 / (n - 1)
    return float(s10 / m + s01 / n)


def _placements(
    id_values: NDArray[np.floating[Any]], ood_values: NDArray[np.floating[Any]]
) -> tuple[Floats, Floats]:
    """(m,) V₁₀ and (n,) V₀₁, in the order of the images."""
    v10 = _share_below(id_values, np.sort(ood_values))
    v01 = 1 - _share_below(ood_values, np.sort(id_values))
    return v10, v01


def _share_below(values: NDArray[np.floating[Any]], ascending: NDArray[np.floating[Any]]) -> Floats:
    """(N,) share of `ascending` below each value, a tie counting half."""
    ends = np.searchsorted(ascending, values, side="left") + np.searchsorted(ascending, values, side="right")
    return np.asarray(ends / (2 * len(ascending)), dtype=np.float64)


def _variance(v10: Floats, v01: Floats) -> float:
    """DeLong's variance of the mean of placements, or of their differences; NaN where a set has one image."""
    if min(len(v10), len(v01)) == 1:
        return math.nan
    return float(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01))


def _correlation(placements: list[tuple[Floats, Floats]]) -> Floats:
    """(S, S) DeLong's correlation of the AUROCs of S sets that share their ID images; 1 where it is unknown."""
    deviations = np.stack([v10 - v10.mean() for v10, _ in placements])
    m = deviations.shape[1]
    variances = np.array([_variance(*pair) for pair in placements])
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = deviations @ deviations.T / (m * (m - 1)) / np.sqrt(np.outer(variances, variances))
    correlation[~np.isfinite(correlation)] = 1
    np.fill_diagonal(correlation, 1)
    return correlation


def _combined(estimates: list[Estimate], weights: Floats, correlation: Floats) -> tuple[float, float]:
    """Limits of Σ wᵢ Aᵢ from the limits of each Aᵢ and their correlations (Zou & Donner, 2008)."""
    value, low, high = (np.array(column) for column in zip(*estimates, strict=True))
    down = weights * np.where(weights > 0, value - low, high - value)
    up = weights * np.where(weights > 0, high - value, value - low)
    total = float(weights @ value)
    return total - math.sqrt(down @ correlation @ down), total + math.sqrt(up @ correlation @ up)


def _newcombe_low(auroc: float, m: int, n: int, z: float) -> float:
    """The lower limit of Newcombe's method 5 (2006, part 2): the θ ≤ A with (A − θ)² = z² V(θ).

    V(θ) = θ(1−θ) (1 + N* (1−θ)/(2−θ) + N* θ/(1+θ)) / (mn) is the variance of Hanley & McNeil (1982) with m −
    1 and n − 1 both replaced by N* = (m+n)/2 − 1. It is symmetric in θ and 1−θ, so 1 − the lower limit for
    1−A is the upper limit for A.
    """
    spare = (m + n) / 2 - 1
    outside, inside = 0.0, auroc
    while (theta := (outside + inside) / 2) not in (outside, inside):
        spread = (
            theta * (1 - theta) * (1 + spare * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
        )
        if (auroc - theta) ** 2 > z * z * spread:
            outside = theta
        else:
            inside = theta
    return inside


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _z(level: float) -> float:
    """The normal quantile of a central interval."""
    check_level(level)
    return NormalDist().inv_cdf((1 + level) / 2)
