"""How well scores tell ID from OoD images and right from wrong answers: ties exact, intervals honest."""

from normgate.metrics.comparisons import (
    AurocDifference,
    mean_auroc,
    paired_auroc_difference,
    paired_mean_difference,
)
from normgate.metrics.intervals import Estimate, auroc_interval
from normgate.metrics.over_seeds import paired_difference_over_seeds
from normgate.metrics.ranking import BLIND, INVERTED, auroc, average_precision, fpr_at_id_tpr, fpr_at_ood_tpr
from normgate.metrics.selective import (
    RiskCoverage,
    accuracy_among_accepted,
    aurc,
    open_set_risk_coverage,
    risk_coverage,
)
from normgate.metrics.summary import OodMetrics, RankingMetrics, ood_metrics
from normgate.metrics.ties import MetricError

__all__ = [
    "BLIND",
    "INVERTED",
    "AurocDifference",
    "Estimate",
    "MetricError",
    "OodMetrics",
    "RankingMetrics",
    "RiskCoverage",
    "accuracy_among_accepted",
    "aurc",
    "auroc",
    "auroc_interval",
    "average_precision",
    "fpr_at_id_tpr",
    "fpr_at_ood_tpr",
    "mean_auroc",
    "ood_metrics",
    "open_set_risk_coverage",
    "paired_auroc_difference",
    "paired_difference_over_seeds",
    "paired_mean_difference",
    "risk_coverage",
]
