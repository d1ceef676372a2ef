"""All figures of a score: they are those of the metrics, and the means those over sets."""

from __future__ import annotations

import numpy as np
import pytest

from normgate import metrics
from normgate.evaluation.comparison import compared
from normgate.evaluation.figures import COVERAGES, DEFINITIONS, score_figures

RNG = np.random.default_rng(0)
VALUES = {"id": RNG.normal(1, 1, 80), "a": RNG.normal(size=50), "b": RNG.normal(-1, 1, 300)}
WRONG = RNG.random(80) < 0.2
GROUPS = {"near": ("a",), "far": ("a", "b")}


def test_sets_and_means() -> None:
    found = score_figures(VALUES, WRONG, GROUPS)
    for name in ("a", "b"):
        plain = metrics.ood_metrics(VALUES["id"], VALUES[name])
        assert {key: getattr(found.sets[name], key) for key in vars(plain)} == vars(plain)
        assert found.sets[name].aurc_outliers == metrics.open_set_risk_coverage(VALUES["id"], VALUES[name]).aurc
        assert found.sets[name].aurc_both == metrics.open_set_risk_coverage(VALUES["id"], VALUES[name], WRONG).aurc
    assert found.aurc_wrong == metrics.aurc(VALUES["id"], WRONG)
    far = found.means["far"]
    both = {name: VALUES[name] for name in ("a", "b")}
    assert (far.auroc, far.auroc_low, far.auroc_high) == metrics.mean_auroc(VALUES["id"], both)
    for key in ("ap_id", "ap_ood", "fpr_at_id_tpr95", "fpr_at_ood_tpr95", "aurc_outliers", "aurc_both"):
        mean = (getattr(found.sets["a"], key) + getattr(found.sets["b"], key)) / 2
        assert getattr(far, key) == pytest.approx(mean, abs=1e-15)
        assert getattr(found.means["near"], key) == getattr(found.sets["a"], key)
    assert set(DEFINITIONS) == {key for key in vars(far) if not key.endswith(("_low", "_high"))} | {"aurc_wrong"}


def test_risks_at_tenths_of_coverage() -> None:
    found = score_figures(VALUES, WRONG, GROUPS)
    order = np.argsort(-VALUES["id"])
    expected = [WRONG[order[: round(80 * coverage)]].mean() for coverage in COVERAGES]
    assert found.risks["wrong"]["id"] == pytest.approx(expected, abs=1e-15)
    assert found.risks["outliers"]["b"][-1] == pytest.approx(0.5)
    assert found.risks["both"]["b"][-1] == pytest.approx((WRONG.mean() + 1) / 2)


def test_without_labels_nothing_is_wrong() -> None:
    found = score_figures(VALUES, None, GROUPS)
    assert found.aurc_wrong is None
    assert found.sets["a"].aurc_both is None
    assert found.means["far"].aurc_both is None
    assert set(found.risks) == {"outliers"}


def test_comparisons_are_paired() -> None:
    other = {name: values + RNG.normal(size=len(values)) for name, values in VALUES.items()}
    found = compared("x", "y", VALUES, other, GROUPS)
    assert found.sets["b"] == metrics.paired_auroc_difference(VALUES["id"], VALUES["b"], other["id"], other["b"])
    assert found.means["near"] == pytest.approx(found.sets["a"])
    mean = (found.sets["a"].difference + found.sets["b"].difference) / 2
    assert found.means["far"].difference == pytest.approx(mean, abs=1e-15)
    assert found.to_dict()["sets"]["a"]["p_value"] == found.sets["a"].p_value
