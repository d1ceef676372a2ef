"""The figures of one score: on each OoD set, and as means over sets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate import metrics
from normgate.metrics import OodMetrics, RankingMetrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COVERAGES = tuple(tenth / 10 for tenth in range(1, 11))

DEFINITIONS = {
    "auroc": "chance that a known image scores above an unknown one, ties counting half",
    "ap_id": "average precision, known images positive",
    "ap_ood": "average precision, unknown images positive",
    "fpr_at_id_tpr95": "share of unknown images accepted when 95 % of the known images are",
    "fpr_at_ood_tpr95": "share of known images flagged when 95 % of the unknown images are",
    "aurc_wrong": "area under the risk-coverage curve of the known images; errors are wrong predictions",
    "aurc_outliers": "area under the risk-coverage curve of known and unknown images; errors are unknown images, which "
    "together weigh as much as the known images together",
    "aurc_both": "area under the risk-coverage curve of known and unknown images; errors are wrong predictions and "
    "unknown images, which together weigh as much as the known images together",
}
"""Every metric by its name in tables, JSON and CSV."""


@dataclasses.dataclass(frozen=True)
class SetMetrics(OodMetrics):
    """One score on one OoD set; all are shares from 0 to 1.

    Attributes:
        aurc_outliers: area under the risk-coverage curve of ID and OoD images together, every accepted outlier an
            error; the outliers together weigh as much as the ID images together.
        aurc_both: the same with wrong predictions as errors too; None without labels.
    """

    aurc_outliers: float
    aurc_both: float | None


@dataclasses.dataclass(frozen=True)
class MeanMetrics(RankingMetrics):
    """Means over OoD sets, each set counting once as in OpenOOD; the interval has their joint covariance."""

    aurc_outliers: float
    aurc_both: float | None


@dataclasses.dataclass(frozen=True)
class ScoreFigures:
    """All figures of one score.

    Attributes:
        sets: by OoD set.
        means: by group of OoD sets.
        aurc_wrong: area under the risk-coverage curve of the ID images; None without labels.
        risks: the risk at each of `COVERAGES`, by kind of error (wrong, outliers, both) and set.
    """

    sets: dict[str, SetMetrics]
    means: dict[str, MeanMetrics]
    aurc_wrong: float | None
    risks: dict[str, dict[str, tuple[float, ...]]]


def score_figures(
    values: Mapping[str, np.ndarray], wrong: np.ndarray | None, groups: Mapping[str, Sequence[str]]
) -> ScoreFigures:
    """The figures of one score.

    Args:
        values: scores (N,) by set; the ID set is `id`.
        wrong: (m,) bool, whether the predicted class of each ID image is wrong; None without labels.
        groups: names of OoD sets whose means are taken.
    """
    known = values["id"]
    risks: dict[str, dict[str, tuple[float, ...]]] = {}
    aurc_wrong = None
    if wrong is not None:
        curve = metrics.risk_coverage(known, wrong)
        aurc_wrong, risks["wrong"] = curve.aurc, {"id": curve.at(COVERAGES)}
    sets = {}
    for name in values:
        if name == "id":
            continue
        outliers = metrics.open_set_risk_coverage(known, values[name])
        risks.setdefault("outliers", {})[name] = outliers.at(COVERAGES)
        aurc_both = None
        if wrong is not None:
            both = metrics.open_set_risk_coverage(known, values[name], wrong)
            aurc_both, risks.setdefault("both", {})[name] = both.aurc, both.at(COVERAGES)
        ranking = metrics.ood_metrics(known, values[name])
        sets[name] = SetMetrics(**vars(ranking), aurc_outliers=outliers.aurc, aurc_both=aurc_both)
    means = {group: _means(values, {name: sets[name] for name in names}) for group, names in groups.items()}
    return ScoreFigures(sets, means, aurc_wrong, risks)


def _means(values: Mapping[str, np.ndarray], sets: Mapping[str, SetMetrics]) -> MeanMetrics:
    names = [field.name for field in dataclasses.fields(MeanMetrics)]
    parts = list(sets.values())
    if len(parts) == 1:
        return MeanMetrics(**{name: getattr(parts[0], name) for name in names})
    auroc = metrics.mean_auroc(values["id"], {name: values[name] for name in sets})
    found: dict[str, Any] = {"auroc": auroc.value, "auroc_low": auroc.low, "auroc_high": auroc.high}
    for name in names:
        shares = [getattr(part, name) for part in parts]
        found.setdefault(name, None if None in shares else float(np.mean(shares)))
    return MeanMetrics(**found)
