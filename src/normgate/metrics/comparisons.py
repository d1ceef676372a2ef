"""AUROCs that share images: the difference between two scores, and the mean over several OoD sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from normgate.metrics.intervals import (
    FEWEST_IMAGES,
    Estimate,
    Variance,
    bounded_limits,
    bounded_p_value,
    delong_variance,
    group_auroc_interval,
    normal_quantile,
    variance_of_means,
)
from normgate.metrics.ties import Floats, MetricError, TieGroups, check_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


_SMALLEST_P = 1e-12
_P_PRECISION = 1e-6


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
    find hard cancels. Few images may make it up, so that the interval reaches Student's quantile, with the degrees of
    freedom that these differences show. It also reaches as far as the two AUROCs' own intervals and DeLong's
    correlation say (Zou & Donner, 2008), as if the two were independent where that correlation is not known: near 1 a
    difference can be much larger than it looks, and hardly smaller. The p-value follows from the interval's width at
    this level.

    With fewer than 10 images in a set nothing is known of that variance. Limits and p-value are then Hoeffding's for a
    mean of differences from −1 to 1 (`bounded_limits`), which hold for any scores and any number of images: one image
    proves nothing (p = 1), and 5 or fewer never make p as small as 0.05, whatever they show. Where more images are too
    much alike to tell the variance, p is the smallest 1 − level at which the interval leaves out 0, but no smaller than
    Hoeffding's: there it can be larger than the interval says.

    Simulated coverage at 95 % (400 draws of correlated normal scores a case): 94 to 100 % for 10:10 to 300:300, 58:12,
    and 1000:10 to 1000:300 and the other way round, AUROC 0.7 to 0.995, correlations 0.5 to 0.99. So it is too wide
    rather than too narrow near 1 and where one set is small.

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
    of each other: var = S(mean over sets of ΔV₁₀)/m + Σ S(ΔV₀₁)/(n S²) for S sets. A single set of fewer than 10
    images makes the interval as wide as if all were that small: leave it out of the mean.

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
    _check_sets(ood_a, "ood_a")
    _check_sets(ood_b, "ood_b")
    if ood_a.keys() != ood_b.keys():
        names = (", ".join(map(str, sets)) for sets in (ood_a, ood_b))
        raise MetricError(f"{same}score a is of the sets {next(names)}, score b of {next(names)}")
    a = _Sets.of(id_a, ood_a, level, "id_a", "ood_a")
    b = _Sets.of(id_b, {name: ood_b[name] for name in ood_a}, level, "id_b", "ood_b")
    if a.sizes != b.sizes:
        raise MetricError(f"{same}score a is of {a.sizes} ID and OoD images, score b of {b.sizes}")
    difference = a.mean.value - b.mean.value
    if (fewest := min(a.sizes)) < FEWEST_IMAGES:
        share = (1 + difference) / 2
        low, high = (2 * limit - 1 for limit in bounded_limits(share, fewest, level))
        return AurocDifference(difference, low, high, bounded_p_value(share, fewest))
    low, high, is_known = _limits(a, b, level)
    if is_known:
        error = (difference - low if difference > 0 else high - difference) / normal_quantile(level)
        p_value = math.erfc(abs(difference) / error / math.sqrt(2)) if error > 0 else float(difference == 0)
        return AurocDifference(difference, low, high, p_value)

    def leaves_out_0(level: float) -> bool:  # images that are all alike tell nothing of the width at another level
        low, high, _ = _limits(a.at(level), b.at(level), level)
        return low > 0 or high < 0

    if difference == 0:
        return AurocDifference(difference, low, high, 1.0)
    # A placement is from 0 to 1, so that a difference is no larger than either score's allow: ½ of a constant one.
    span = min(max(np.abs(part - 0.5).max() for pair in own.placements for part in pair) for own in (a, b)) + 0.5
    bound = bounded_p_value((1 + float(difference / span)) / 2, fewest)
    return AurocDifference(difference, low, high, max(_p_value(leaves_out_0, level), bound))


def _limits(a: _Sets, b: _Sets, level: float) -> tuple[float, float, bool]:
    """Limits of the difference of two means, and whether the variance of the difference is known."""
    difference = a.mean.value - b.mean.value
    z = normal_quantile(level)
    pairs = zip(a.placements, b.placements, strict=True)
    variance = _variance([[mine - theirs for mine, theirs in zip(*pair, strict=True)] for pair in pairs])
    low = high = difference
    if variance.known:
        low, high = difference - variance.reach(z), difference + variance.reach(z)
    own = [_variance(part.placements) for part in (a, b)]
    known = all(part.known for part in own)
    if variance.value > 0 or not known:  # or both rank the images alike
        shared = 0.0
        if variance.known and known:
            errors = math.sqrt(own[0].value * own[1].value)
            shared = min(max((own[0].value + own[1].value - variance.value) / (2 * errors), -1.0), 1.0)
        limits = _combined([a.mean, b.mean], np.array([1.0, -1.0]), np.array([[1.0, shared], [shared, 1.0]]))
        low, high = min(low, limits[0]), max(high, limits[1])
    return max(low, -1.0), min(high, 1.0), variance.known


def _p_value(leaves_out_0: Callable[[float], bool], level: float) -> float:
    """The smallest 1 − level at which an interval leaves out 0, found by halving; `level` is where to begin."""
    low, high = (_SMALLEST_P, 1 - level) if leaves_out_0(level) else (1 - level, 1.0)
    while high / low > 1 + _P_PRECISION:
        middle = math.sqrt(low * high)
        if leaves_out_0(1 - middle):
            high = middle
        else:
            low = middle
    return high


def mean_auroc(id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike], level: float = 0.95) -> Estimate:
    """Mean of the AUROCs of one ID set against each OoD set, as OpenOOD takes it, with a confidence interval.

    The sets share their ID images, so their AUROCs rise and fall together. With lower limits lᵢ of the S sets
    and DeLong's correlations rᵢⱼ, the lower limit is mean A − √(ΣΣ rᵢⱼ (Aᵢ − lᵢ)(Aⱼ − lⱼ)) / S (Zou & Donner,
    "Construction of confidence limits about effect measures", 2008); r is 1 where a variance is 0 or hangs on
    a single image, or a set has fewer than 10. For one set this is `auroc_interval`.

    Args:
        id_scores: (m,) scores of ID images.
        ood_scores: name -> (n,) scores of an OoD set.
        level: confidence level of the interval.

    Raises:
        MetricError: there is no OoD set, or an array is empty or holds NaN.
    """
    _check_sets(ood_scores, "ood_scores")
    return _Sets.of(id_scores, ood_scores, level, "id_scores", "ood_scores").mean


def _check_sets(ood_scores: Mapping[str, ArrayLike], name: str) -> None:
    if not isinstance(ood_scores, Mapping):
        kind = type(ood_scores).__name__
        raise MetricError(f"{name} holds the scores of OoD sets by name: pass a dict {{'name': scores}}, not {kind}")
    if not ood_scores:
        raise MetricError("a mean AUROC needs at least one OoD set")


@dataclass(frozen=True, eq=False)
class _Sets:
    """One score's AUROCs of S OoD sets against the same ID images.

    `sizes` are the numbers of ID and OoD images, `placements` V₁₀ (m,) and V₀₁ (n,) of each set.
    """

    sizes: tuple[int, ...]
    placements: tuple[tuple[Floats, Floats], ...]
    groups: tuple[TieGroups, ...]
    correlation: Floats
    mean: Estimate

    @classmethod
    def of(
        cls, id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike], level: float, id_name: str, ood_name: str
    ) -> _Sets:
        """From scores, and what a caller knows these two arguments as."""
        id_values = check_scores(id_scores, id_name)
        sets = [check_scores(scores, f"{ood_name}[{name!r}]") for name, scores in ood_scores.items()]
        placements, found, variances = [], [], []
        for values in sets:
            groups, id_numbers, ood_numbers = TieGroups.numbered(id_values, values)
            v10, v01 = groups.wins / (2 * groups.n_ood), groups.losses / (2 * groups.n_id)
            placements.append((v10[id_numbers], v01[ood_numbers]))
            found.append(groups)
            variances.append(delong_variance(v10, v01, groups.id, groups.ood))
        correlation = _correlation([v10 for v10, _ in placements], variances)
        return cls(
            sizes=(len(id_values), *map(len, sets)),
            placements=tuple(placements),
            groups=tuple(found),
            correlation=correlation,
            mean=_mean(found, correlation, level),
        )

    def at(self, level: float) -> _Sets:
        """The same with the interval of another level."""
        return replace(self, mean=_mean(self.groups, self.correlation, level))


def _mean(groups: Sequence[TieGroups], correlation: Floats, level: float) -> Estimate:
    estimates = [group_auroc_interval(own, level) for own in groups]
    low, high = _combined(estimates, np.full(len(estimates), 1 / len(estimates)), correlation)
    return Estimate(math.fsum(estimate.value for estimate in estimates) / len(estimates), low, high)


def _variance(placements: Sequence[Sequence[Floats]]) -> Variance:
    """The variance of a mean over S OoD sets, from V₁₀ and V₀₁ of each (or their differences).

    An ID image counts once for all sets, with the mean of what it says of each.
    """
    id_means = np.mean([v10 for v10, _ in placements], axis=0)
    parts = [(id_means, 1.0), *((v01, 1 / len(placements)) for _, v01 in placements)]
    return variance_of_means([(values, np.ones(len(values), dtype=np.int64), weight) for values, weight in parts])


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
