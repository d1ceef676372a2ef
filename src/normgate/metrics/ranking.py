"""AUROC, average precision and false-positive rates of scores that are to be larger for ID than for OoD.

All are exact under ties: images of equal score are accepted or rejected together, or count half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from normgate.metrics.ties import Counts, MetricError, TieGroups, number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


BLIND = 0.6
"""An AUROC below it ranks two of five pairs wrongly, where a coin ranks one of two: the score sees next to nothing."""
INVERTED = 0.4
"""An AUROC below it is wrong as clearly: the score takes outliers for more familiar than ID images."""


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """P(s_ID > s_OoD) + ½ P(s_ID = s_OoD): the Mann–Whitney statistic (Hanley & McNeil, 1982).

    Raises:
        MetricError: an array is empty, holds NaN or something else than numbers.
    """
    return group_auroc(TieGroups.of(id_scores, ood_scores))


def average_precision(id_scores: ArrayLike, ood_scores: ArrayLike, positive: Literal["id", "ood"] = "ood") -> float:
    """Average precision Σ (Rᵢ − Rᵢ₋₁) Pᵢ over the distinct scores; the share of positives if constant.

    Not the trapezoidal area under the precision-recall curve, which flatters constant scores.

    Args:
        id_scores: (m,) scores of ID images.
        ood_scores: (n,) scores of OoD images.
        positive: which images are to be found: "ood", from low scores up, or "id", from high scores down.

    Raises:
        MetricError: an array is empty, holds NaN or something else than numbers.
    """
    return group_average_precision(TieGroups.of(id_scores, ood_scores), positive)


def fpr_at_id_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Share of OoD images accepted at the highest threshold that accepts `tpr` or more of the ID images.

    The FPR95 of ODIN, CIDER and KNN: ID is the positive class.

    Raises:
        MetricError: an array is empty, holds NaN or something else than numbers, or `tpr` is no share.
    """
    return group_fpr_at_id_tpr(TieGroups.of(id_scores, ood_scores), tpr)


def fpr_at_ood_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Share of ID images flagged at the lowest threshold that flags `tpr` or more of the OoD images.

    The FPR95 of OpenOOD and pytorch-ood: OoD is the positive class.

    Raises:
        MetricError: an array is empty, holds NaN or something else than numbers, or `tpr` is no share.
    """
    return group_fpr_at_ood_tpr(TieGroups.of(id_scores, ood_scores), tpr)


def group_auroc(groups: TieGroups) -> float:
    """`auroc` of counted scores: one rounding, of a quotient of integers."""
    return int(groups.id @ groups.wins) / (2 * groups.n_id * groups.n_ood)


def group_average_precision(groups: TieGroups, positive: Literal["id", "ood"]) -> float:
    """`average_precision` of counted scores."""
    if not isinstance(positive, str) or positive not in ("id", "ood"):
        raise MetricError(f"positive is 'id' or 'ood', not {positive!r}")
    found, others = (groups.id[::-1], groups.ood[::-1]) if positive == "id" else (groups.ood, groups.id)
    true_positives = np.cumsum(found)
    precision = true_positives / (true_positives + np.cumsum(others))
    return float(found @ precision / true_positives[-1])


def group_fpr_at_id_tpr(groups: TieGroups, tpr: float) -> float:
    """`fpr_at_id_tpr` of counted scores."""
    return _fpr_at(groups.id[::-1], groups.ood[::-1], tpr)


def group_fpr_at_ood_tpr(groups: TieGroups, tpr: float) -> float:
    """`fpr_at_ood_tpr` of counted scores."""
    return _fpr_at(groups.ood, groups.id, tpr)


def _fpr_at(positives: Counts, negatives: Counts, tpr: float) -> float:
    """The share of negatives taken once whole tie groups, in order, hold a share `tpr` of the positives."""
    if not 0 < number(tpr) <= 1:
        raise MetricError(f"tpr, a true-positive rate, is above 0 and at most 1 (0.95 for 95 %), not {tpr!r}")
    found = np.cumsum(positives)
    stop = int(np.argmax(found / found[-1] >= number(tpr)))
    return int(negatives[: stop + 1].sum()) / int(negatives.sum())
