"""The figures of one ID set against one OoD set, all from one sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normgate.metrics.intervals import group_auroc_interval
from normgate.metrics.ranking import group_average_precision, group_fpr_at_id_tpr, group_fpr_at_ood_tpr
from normgate.metrics.ties import TieGroups

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class RankingMetrics:
    """How well a score tells ID from OoD images; all are shares from 0 to 1.

    Attributes:
        auroc: chance that an ID image outranks an OoD image.
        auroc_low: lower end of its confidence interval.
        auroc_high: upper end of its confidence interval.
        ap_id: average precision with ID as the positive class.
        ap_ood: average precision with OoD as the positive class.
        fpr_at_id_tpr95: share of OoD images accepted when 95 % of the ID images are (ID positive).
        fpr_at_ood_tpr95: share of ID images flagged when 95 % of the OoD images are (OoD positive).
    """

    auroc: float
    auroc_low: float
    auroc_high: float
    ap_id: float
    ap_ood: float
    fpr_at_id_tpr95: float
    fpr_at_ood_tpr95: float


@dataclass(frozen=True)
class OodMetrics(RankingMetrics):
    """The figures of one ID set against one OoD set.

    Attributes:
        n_id: number of ID images.
        n_ood: number of OoD images.
    """

    n_id: int
    n_ood: int


def ood_metrics(id_scores: ArrayLike, ood_scores: ArrayLike, level: float = 0.95) -> OodMetrics:
    """All ranking metrics of (m,) ID scores against (n,) OoD scores, larger = more familiar.

    Args:
        id_scores: (m,) scores of ID images.
        ood_scores: (n,) scores of OoD images.
        level: confidence level of the interval for AUROC.

    Raises:
        MetricError: an array is empty or holds NaN; infinities are ordered like any number.
    """
    groups = TieGroups.of(id_scores, ood_scores)
    auroc = group_auroc_interval(groups, level)
    return OodMetrics(
        auroc=auroc.value,
        auroc_low=auroc.low,
        auroc_high=auroc.high,
        ap_id=group_average_precision(groups, "id"),
        ap_ood=group_average_precision(groups, "ood"),
        fpr_at_id_tpr95=group_fpr_at_id_tpr(groups, 0.95),
        fpr_at_ood_tpr95=group_fpr_at_ood_tpr(groups, 0.95),
        n_id=groups.n_id,
        n_ood=groups.n_ood,
    )
