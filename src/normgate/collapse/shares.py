"""Shares of the separation between known and unknown images that magnitude and direction carry."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.collapse.classes import CollapseError
from normgate.metrics import auroc
from normgate.metrics.ties import check_scores

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from normgate.collapse.classes import Floats

# A separation this unlikely by chance is there to be shared; a weaker one would share out noise.
CHANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Separation:
    """Who separates an OoD set from the ID images; larger scores = more familiar.

    Attributes:
        auroc_magnitude: AUROC of the norm alone; below 0.5 unfamiliar images have the larger norms.
        auroc_direction: AUROC of a score of directions alone.
        auroc_joint: AUROC of the best linear combination of both ranks, on these very images.
        explained: R² of the joint ranks for "known or unknown"; about 0.75 where a score without ties separates fully.
        magnitude: magnitude's share of `explained`; None where `explained` is no more than chance.
        direction: direction's share; both sum to 1.
    """

    auroc_magnitude: float
    auroc_direction: float
    auroc_joint: float
    explained: float
    magnitude: float | None
    direction: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def separation(
    id_magnitude: ArrayLike, id_direction: ArrayLike, ood_magnitude: ArrayLike, ood_direction: ArrayLike
) -> Separation:
    """Shapley values of R² for two regressors, the ranks of a magnitude and of a direction score.

    Both scores become ranks in an equal mixture of the two sets. With R²(S) the share of the variance of "known or
    unknown" that linear regression on the ranks in S explains (Fisher's discriminant of two groups), magnitude's value
    is the mean of what it adds alone and what it adds to direction, `½ [R²(m) + R²(m, d) − R²(d)]` (Shapley 1953; for
    R²: Lindeman, Merenda & Gold 1980). Neither value is negative, they sum to R²(m, d), and no increasing function of
    either score changes them. For one score without ties R² is `3 (AUROC − ½)²`, so that an AUROC of 0.5 alone carries
    nothing.

    Args:
        id_magnitude: (n,) norms of ID images.
        id_direction: (n,) a score of their directions.
        ood_magnitude: (m,) norms of OoD images.
        ood_direction: (m,) the score of their directions.

    Raises:
        CollapseError: the two scores of a set are of different lengths.
        MetricError: a set is empty, or a score is NaN or no real number.
    """
    magnitudes = check_scores(id_magnitude, "id_magnitude"), check_scores(ood_magnitude, "ood_magnitude")
    directions = check_scores(id_direction, "id_direction"), check_scores(ood_direction, "ood_direction")
    n_id, n_ood = map(len, magnitudes)
    if [n_id, n_ood] != [*map(len, directions)]:
        raise CollapseError(
            "an image has one norm and one direction score: pass arrays of the same length for each set"
        )
    aurocs = auroc(*magnitudes), auroc(*directions)
    known = np.repeat([0.5, -0.5], [n_id, n_ood])
    weights = np.repeat([0.5 / n_id, 0.5 / n_ood], [n_id, n_ood])
    ranks = np.stack([_mixture_ranks(*magnitudes), _mixture_ranks(*directions)], axis=1)
    alone = _explained(ranks[:, :1], known, weights)[0], _explained(ranks[:, 1:], known, weights)[0]
    joint, combined = _explained(ranks, known, weights)
    magnitude = direction = None
    if joint > _by_chance(n_id, n_ood):
        # Clipped, since rounding may put R² of both a little below R² of one.
        magnitude = float(np.clip((alone[0] + joint - alone[1]) / (2 * joint), 0, 1))
        direction = 1 - magnitude
    return Separation(*aurocs, auroc(combined[:n_id], combined[n_id:]), joint, magnitude, direction)


def _mixture_ranks(id_scores: ArrayLike, ood_scores: ArrayLike) -> Floats:
    """Mid-distribution function of an equal mixture of both samples, at ID and then at OoD scores, minus ½."""
    parts = [np.asarray(id_scores, dtype=np.float64), np.asarray(ood_scores, dtype=np.float64)]
    values = np.concatenate(parts)
    ranks = np.zeros(len(values))
    for part in map(np.sort, parts):
        up_to = np.searchsorted(part, values, side="left") + np.searchsorted(part, values, side="right")
        ranks += up_to / (4 * len(part))
    return ranks - 0.5


def _explained(ranks: Floats, known: Floats, weights: Floats) -> tuple[float, Floats]:
    """R² of the weighted regression of `known` on (n, p) ranks, both of weighted mean 0, and its fitted values."""
    covariance = (ranks.T * weights) @ ranks
    with_known = (ranks.T * weights) @ known
    # The same ranking twice makes this singular: the pseudo-inverse splits it evenly.
    coefficients = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ with_known
    return float(with_known @ coefficients / (weights @ np.square(known))), ranks @ coefficients


def _by_chance(n_id: int, n_ood: int) -> float:
    """The R² of two regressors that chance exceeds with probability `CHANCE`, for n = 4 n_id n_ood/(n_id + n_ood).

    Without association R² is Beta(1, (n − 3)/2) for normal regressors, so that P(R² > r) = (1 − r)^((n − 3)/2).
    """
    n = 4 * n_id * n_ood / (n_id + n_ood)
    return 1.0 if n <= 3 else float(1 - CHANCE ** (2 / (n - 3)))
