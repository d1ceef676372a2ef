"""AUROCs that share images: the difference between two scores, and the mean over several OoD sets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from normgate.metrics.intervals import Estimate, Variance, delong_variance, group_auroc_interval, normal_quantile
from normgate.metrics.ties import Floats, MetricError, TieGroups, check_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray


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
    checked = [check_scores(values, name) for values, name in ((id_a, "id_a"), (ood_a, "ood_a"))]
    checked += [check_scores(values, name) for values, name in ((id_b, "id_b"), (ood_b, "ood_b"))]
    return paired_mean_difference(checked[0], {"a": checked[1]}, checked[2], {"a": checked[3]}, level)


def paired_mean_difference(
    id_a: ArrayLike,
    ood_a: Mapping[str, ArrayLike],
    id_b: ArrayLike,
    ood_b: Mapping[str, ArrayLike],
    level: float = 0.95,
) -> AurocDifference:
    """Mean AUROC over OoD sets of score a − that of score b on the same images: see `paired_auroc_difference`.

    An ID image counts once for all sets, with the mean of its differences of placements; the OoD sets are independent
    of each other: var = S(mean over sets of ΔV₁₀)/m + Σ S(ΔV₀₁)/(n S²) for S sets.

    Args:
        id_a: (m,) score a of the ID images.
        ood_a: name -> (n,) score a of an OoD set.
        id_b: (m,) score b of the same ID images, in the same order.
        ood_b: name -> (n,) score b of the same OoD images, in the same order.
        level: confidence level of the interval.

    Raises:
        MetricError: there is no OoD set, an array is empty or holds NaN, or the two scores are not of as many images.
    """
    same = "a paired difference needs two scores of the same images: "
    if ood_a.keys() != ood_b.keys():
        raise MetricError(f"{same}score a is of the sets {', '.join(ood_a)}, score b of {', '.join(ood_b)}")
    a, b = _Sets.of(id_a, ood_a, level), _Sets.of(id_b, {name: ood_b[name] for name in ood_a}, level)
    if a.sizes != b.sizes:
        raise MetricError(f"{same}score a is of {a.sizes} ID and OoD images, score b of {b.sizes}")
    difference = a.mean.value - b.mean.value
    z = normal_quantile(level)
    if a.known.all() and b.known.all():
        v10 = np.mean(
            [mine - theirs for (mine, _), (theirs, _) in zip(a.placements, b.placements, strict=True)], axis=0
        )
        v01 = [mine - theirs for (_, mine), (_, theirs) in zip(a.placements, b.placements, strict=True)]
        variance = _sample_variance(v10) + sum(map(_sample_variance, v01)) / len(v01) ** 2
        error = math.sqrt(variance)
        low, high = max(difference - z * error, -1.0), min(difference + z * error, 1.0)
    else:
        low, high = _combined([a.mean, b.mean], np.array([1.0, -1.0]), np.eye(2))
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
    return _Sets.of(id_scores, ood_scores, level).mean


@dataclass(frozen=True, eq=False)
class _Sets:
    """One score's AUROCs of S OoD sets against the same ID images.

    `sizes` are the numbers of ID and OoD images, `placements` V₁₀ (m,) and V₀₁ (n,) of each set, and `known` (S,) says
    whether an AUROC has a variance to work with.
    """

    sizes: tuple[int, ...]
    placements: tuple[tuple[Floats, Floats], ...]
    known: NDArray[np.bool_]
    mean: Estimate

    @classmethod
    def of(cls, id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike], level: float) -> _Sets:
        if not ood_scores:
            raise MetricError("a mean AUROC needs at least one OoD set")
        id_values = check_scores(id_scores, "id_scores")
        sets = [check_scores(scores, f"ood_scores[{name!r}]") for name, scores in ood_scores.items()]
        placements, estimates, variances = [], [], []
        for values in sets:
            groups, id_numbers, ood_numbers = TieGroups.numbered(id_values, values)
            v10, v01 = groups.wins / (2 * groups.n_ood), groups.losses / (2 * groups.n_id)
            placements.append((v10[id_numbers], v01[ood_numbers]))
            estimates.append(group_auroc_interval(groups, level))
            variances.append(delong_variance(v10, v01, groups.id, groups.ood))
        low, high = _combined(
            estimates, np.full(len(sets), 1 / len(sets)), _correlation([v10 for v10, _ in placements], variances)
        )
        mean = math.fsum(estimate.value for estimate in estimates) / len(sets)
        return cls(
            sizes=(len(id_values), *map(len, sets)),
            placements=tuple(placements),
            known=np.array([variance.known for variance in variances]),
            mean=Estimate(mean, low, high),
        )


def _sample_variance(values: Floats) -> float:
    """The variance of the mean of (N,) values."""
    return float(values.var(ddof=1)) / len(values)


def _correlation(v10: Sequence[Floats], variances: Sequence[Variance]) -> Floats:
    """(S, S) DeLong's correlation of S AUROCs that share their ID images; 1 where it is not known."""
    known = np.array([variance.known for variance in variances])
    errors = np.sqrt([variance.value if variance.known else 1.0 for variance in variances])
    deviations = np.stack([values - values.mean() for values in v10]) / errors[:, None]
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
