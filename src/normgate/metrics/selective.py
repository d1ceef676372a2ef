"""Selective prediction: how wrong the accepted answers are, at every share of answers accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normgate.metrics.ties import Floats, MetricError, as_array, check_scores, real_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False, repr=False)
class RiskCoverage:
    """The risk-coverage curve: one point for each distinct score, the highest score first.

    Attributes:
        thresholds: (G,) scores; an image is accepted when its score is at least this.
        coverage: (G,) share of the images' weight that is accepted, rising to 1.
        risk: (G,) share of the accepted weight that is wrong.
        aurc: the area under it.
    """

    thresholds: Floats
    coverage: Floats
    risk: Floats
    aurc: float

    def __repr__(self) -> str:
        """On one line."""
        return f"<RiskCoverage: {len(self.risk)} points, area {self.aurc:.4g}>"

    def at(self, coverages: Sequence[float]) -> tuple[float, ...]:
        """The risk where at least these shares are first accepted; images of equal score are accepted together.

        Raises:
            MetricError: they are no shares from 0 to 1.
        """
        # A coverage is a rounded quotient: 0.3 of the images may come out one rounding short of 0.3.
        shares = real_numbers(coverages, "coverages") * (1 - 1e-12)
        if shares.ndim != 1 or not ((shares >= 0) & (shares <= 1)).all():
            raise MetricError(f"coverages is a list of shares from 0 to 1 (0.95 for 95 %), not {coverages!r}")
        points = np.searchsorted(self.coverage, shares)
        return tuple(self.risk[np.minimum(points, len(self.risk) - 1)].tolist())


def risk_coverage(scores: ArrayLike, wrong: ArrayLike, weights: ArrayLike | None = None) -> RiskCoverage:
    """Accept images from the highest score down: the coverage and the risk after each distinct score.

    The area under the curve (AURC) is Σ wᵢ rᵢ / Σ wᵢ, rᵢ the risk once the i-th image is in: for equal
    weights the mean of the risk over the N coverages 1/N … 1 (Geifman & El-Yaniv, 2017; Geifman, Uziel &
    El-Yaniv, 2019). Images with equal scores come in any order; each stands for the mean of its tie group,
    which for equal weights is exactly the expectation over those orders.

    Args:
        scores: (N,) scores, larger = accepted sooner.
        wrong: (N,) bool, whether the answer would be an error: a wrong label, or any label for an outlier.
        weights: (N,) positive and finite; None gives each image the same.

    Raises:
        MetricError: an array is empty or not of numbers, of true and false or of weights, or they differ in length.
    """
    values = check_scores(scores, "scores")
    errors = _flags(wrong, "wrong", len(values))
    mass = np.ones(len(values)) if weights is None else _weights(weights, len(values))
    order = np.argsort(values)[::-1]
    descending = values[order]
    starts = np.flatnonzero(np.append(True, descending[1:] != descending[:-1]))
    sizes = np.diff(starts, append=len(values))
    ordered = mass[order]
    group_mass = np.add.reduceat(ordered, starts)
    group_wrong = np.add.reduceat(ordered * errors[order], starts)
    accepted = np.cumsum(group_mass)
    tied = len(starts) < len(values)
    image_mass = np.repeat(group_mass / sizes, sizes) if tied else group_mass
    image_wrong = np.repeat(group_wrong / sizes, sizes) if tied else group_wrong
    image_risk = np.cumsum(image_wrong) / np.cumsum(image_mass)
    return RiskCoverage(
        thresholds=descending[starts].astype(np.float64),
        coverage=accepted / accepted[-1],
        risk=np.cumsum(group_wrong) / accepted,
        aurc=float(image_mass @ image_risk / accepted[-1]),
    )


def aurc(scores: ArrayLike, wrong: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the risk-coverage curve: see `risk_coverage`.

    Raises:
        MetricError: as of `risk_coverage`.
    """
    return risk_coverage(scores, wrong, weights).aurc


def open_set_risk_coverage(
    id_scores: ArrayLike, ood_scores: ArrayLike, id_wrong: ArrayLike | None = None
) -> RiskCoverage:
    """Risk and coverage of ID and OoD images together: every accepted outlier is an error.

    The outliers together weigh as much as the ID images together, however many there are of either.

    Args:
        id_scores: (m,) scores of ID images.
        ood_scores: (n,) scores of OoD images.
        id_wrong: (m,) bool, whether an ID image's label is wrong; None counts outliers as the only errors.

    Raises:
        MetricError: as of `risk_coverage`.
    """
    id_values, ood_values = check_scores(id_scores, "id_scores"), check_scores(ood_scores, "ood_scores")
    m, n = len(id_values), len(ood_values)
    id_errors = np.zeros(m, dtype=np.bool_) if id_wrong is None else _flags(id_wrong, "id_wrong", m)
    return risk_coverage(
        np.concatenate([id_values, ood_values]),
        np.concatenate([id_errors, np.ones(n, dtype=np.bool_)]),
        np.concatenate([np.ones(m), np.full(n, m / n)]),
    )


def accuracy_among_accepted(correct: ArrayLike, accepted: ArrayLike) -> float | None:
    """Share of accepted images whose label is correct; None, for want of a share, where none is accepted.

    Args:
        correct: (N,) bool.
        accepted: (N,) bool.

    Raises:
        MetricError: the arrays are not of true and false, or differ in length.
    """
    taken = _flags(accepted, "accepted", None)
    right = _flags(correct, "correct", len(taken))
    return float(right[taken].mean()) if taken.any() else None


def _flags(values: ArrayLike, name: str, count: int | None) -> NDArray[np.bool_]:
    flags = as_array(values, name)
    if flags.dtype != np.bool_ or flags.ndim != 1 or len(flags) == 0:
        raise MetricError(f"{name} is a 1-D array of bool, one an image, not {flags.dtype} of shape {flags.shape}")
    if count is not None and len(flags) != count:
        raise MetricError(f"{name} has {len(flags)} values for {count} images: pass one an image, in the same order")
    return flags


def _weights(weights: ArrayLike, count: int) -> Floats:
    values = check_scores(weights, "weights").astype(np.float64)  # they are summed
    if len(values) != count:
        raise MetricError(f"weights has {len(values)} values for {count} images: pass one an image, in the same order")
    if not (values > 0).all() or np.isinf(values).any():
        raise MetricError("weights must be positive and finite: leave images of no weight out")
    return values
