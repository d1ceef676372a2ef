"""AUROCs that share images: the difference between two scores, and the mean over several OoD sets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from normgate.metrics.intervals import Estimate, Variance, auroc_interval, delong_variance, normal_quantile
from normgate.metrics.ties import Floats, MetricError, check_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

Scores: TypeAlias = "NDArray[np.floating[Any]]"


class AurocDifference(NamedTuple):
    """AUROC of score a − AUROC of score b, its confidence interval and its two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_auroc_difference(
    id_a: ArrayLike, ood_a: ArrayLike, id_b: ArrayLike, ood_b: ArrayLike, level: float = 0.95
) -> AurocDifference:
    """AUROC of score a − AUROC of score b on the same images, by DeLong's covariance (DeLong et al., 1988).

    The variance of the difference is that of the differences of placements, image by image: what both scores
    find hard cancels. Where the variance of one of the AUROCs is 0 or hangs on a single image, the
    interval combines their two intervals as if they were independent (Zou & Donner, 2008), and the p-value
    follows from its width.

    Args:
        id_a: (m,) score a of the ID images.
        ood_a: (n,) score a of the OoD images.
        id_b: (m,) score b of the same ID images, in the same order.
        ood_b: (n,) score b of the same OoD images, in the same order.
        level: confidence level of the interval.

    Raises:
        MetricError: an array is empty or holds NaN, or the two scores are not of as many images.
    """
    a = check_scores(id_a, "id_a"), check_scores(ood_a, "ood_a")
    b = check_scores(id_b, "id_b"), check_scores(ood_b, "ood_b")
    sizes_a, sizes_b = (len(a[0]), len(a[1])), (len(b[0]), len(b[1]))
    if sizes_a != sizes_b:
        raise MetricError(
            f"a paired difference needs two scores of the same images: "
            f"score a is of {sizes_a} ID and OoD images, score b of {sizes_b}"
        )
    (v10_a, v01_a), (v10_b, v01_b) = placements(*a), placements(*b)
    estimates = auroc_interval(*a, level), auroc_interval(*b, level)
    difference = estimates[0].value - estimates[1].value
    z = normal_quantile(level)
    if _variance(v10_a, v01_a).known and _variance(v10_b, v01_b).known:
        error = math.sqrt(_variance(v10_a - v10_b, v01_a - v01_b).value)
        low, high = max(difference - z * error, -1.0), min(difference + z * error, 1.0)
    else:
        low, high = _combined(estimates, np.array([1.0, -1.0]), np.eye(2))
        error = (difference - low if difference > 0 else high - difference) / z
    p_value = math.erfc(abs(difference) / error / math.sqrt(2)) if error > 0 else float(difference == 0)
    return AurocDifference(difference, low, high, p_value)


def mean_auroc(id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike], level: float = 0.95) -> Estimate:
    """Mean of the AUROCs of one ID set against each OoD set, as OpenOOD takes it, with a confidence interval.

    The sets share their ID images, so their AUROCs rise and fall together. With lower limits lᵢ of the S sets
    and DeLong's correlations rᵢⱼ, the lower limit is mean A − √(ΣΣ rᵢⱼ (Aᵢ − lᵢ)(Aⱼ − lⱼ)) / S (Zou & Donner,
    "Construction of confidence limits about effect measures", 2008); r is 1 where a variance is 0 or hangs on
    a single image. For one set this is `auroc_interval`.

    Args:
        id_scores: (m,) scores of ID images.
        ood_scores: name -> (n,) scores of an OoD set.
        level: confidence level of the interval.

    Raises:
        MetricError: there is no OoD set, or an array is empty or holds NaN.
    """
    if not ood_scores:
        raise MetricError("a mean AUROC needs at least one OoD set")
    id_values = check_scores(id_scores, "id_scores")
    sets = [check_scores(scores, f"ood_scores[{name!r}]") for name, scores in ood_scores.items()]
    estimates = [auroc_interval(id_values, values, level) for values in sets]
    correlation = _correlation([placements(id_values, values) for values in sets])
    low, high = _combined(estimates, np.full(len(sets), 1 / len(sets)), correlation)
    return Estimate(math.fsum(estimate.value for estimate in estimates) / len(sets), low, high)


def placements(id_scores: Scores, ood_scores: Scores) -> tuple[Floats, Floats]:
    """(m,) V₁₀ and (n,) V₀₁, in the order of the images."""
    return _share_below(id_scores, np.sort(ood_scores)), 1 - _share_below(ood_scores, np.sort(id_scores))


def _share_below(scores: Scores, ascending: Scores) -> Floats:
    """(N,) the share of `ascending` below each score, a tie counting half."""
    ends = np.searchsorted(ascending, scores, side="left") + np.searchsorted(ascending, scores, side="right")
    return np.asarray(ends / (2 * len(ascending)), dtype=np.float64)


def _variance(v10: Floats, v01: Floats) -> Variance:
    return delong_variance(v10, v01, np.ones(len(v10), dtype=np.int64), np.ones(len(v01), dtype=np.int64))


def _correlation(sets: Sequence[tuple[Floats, Floats]]) -> Floats:
    """(S, S) DeLong's correlation of S AUROCs that share their ID images; 1 where it is not known."""
    variances = [_variance(*pair) for pair in sets]
    known = np.array([variance.known for variance in variances])
    errors = np.sqrt([variance.value if variance.known else 1.0 for variance in variances])
    deviations = np.stack([v10 - v10.mean() for v10, _ in sets]) / errors[:, None]
    m = deviations.shape[1]
    correlation = np.where(np.outer(known, known), deviations @ deviations.T / max(m * (m - 1), 1), 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _combined(estimates: Sequence[Estimate], weights: Floats, correlation: Floats) -> tuple[float, float]:
    """Limits of Σ wᵢ Aᵢ from the limits of each Aᵢ and their correlations (Zou & Donner, 2008)."""
    value, low, high = np.array(estimates).T
    down = weights * np.where(weights > 0, value - low, high - value)
    up = weights * np.where(weights > 0, high - value, value - low)
    total = float(weights @ value)
    return total - math.sqrt(down @ correlation @ down), total + math.sqrt(up @ correlation @ up)
