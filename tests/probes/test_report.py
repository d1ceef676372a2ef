"""What probes say: means over families, blindness, and the choice."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from normgate import metrics, scores
from normgate.probes import PROBES, ProbeError, ProbeReport, probe
from samples import random_features

TRAIN, TUNING = random_features(90, 0), random_features(60, 1)


def report(**auroc: dict[str, float]) -> ProbeReport:
    return ProbeReport(auroc, 200, 200)


def test_families_count_once_however_many_variants_they_have() -> None:
    made = report(knn={"a/1": 0.9, "a/2": 0.7, "b/1": 0.6})
    assert made.families("knn") == pytest.approx({"a": 0.8, "b": 0.6})
    assert made.mean("knn") == pytest.approx(0.7)


def test_a_probe_that_no_score_sees_is_left_out_and_is_no_blindness() -> None:
    made = report(norm={"a/1": 0.9, "a/2": 0.5, "b/1": 0.59}, knn={"a/1": 0.8, "a/2": 0.61, "b/1": 0.55})
    assert made.informative == ("a/1", "a/2")
    assert made.uninformative == ("b/1",)
    assert made.blind("norm") == {"a/2": 0.5}
    assert made.blind("knn") == {}
    assert made.mean("norm") == pytest.approx(0.7)
    assert made.choice() == "knn"


def test_probes_that_were_trained_on_say_nothing() -> None:
    made = report(norm={"a/1": 1.0, "b/1": 0.6, "c/1": 0.55}, knn={"a/1": 0.4, "b/1": 0.9, "c/1": 0.3})
    assert made.choice() == "norm"
    trained = dataclasses.replace(made, trained_on=("a",))
    assert trained.informative == ("b/1",)
    assert trained.uninformative == ("c/1",)
    assert trained.probes == made.probes
    assert trained.choice() == "knn"
    assert trained.inverted("knn") == made.inverted("knn")
    assert ProbeReport.from_dict(json.loads(json.dumps(trained.to_dict()))) == trained
    for wrong in ("a", [1], None):
        with pytest.raises(ProbeError, match="no report"):
            ProbeReport.from_dict({**made.to_dict(), "trained_on": wrong})


@pytest.mark.parametrize(
    ("norm", "other", "chosen"),
    [
        ({"a/1": 0.90, "b/1": 0.80}, {"a/1": 0.91, "b/1": 0.80}, "norm"),  # within a point
        ({"a/1": 0.90, "b/1": 0.80}, {"a/1": 0.93, "b/1": 0.80}, "knn"),
        ({"a/1": 1.00, "b/1": 0.59}, {"a/1": 0.60, "b/1": 0.60}, "norm_blind"),  # the best mean, but blind: still best
        ({"a/1": 0.99, "b/1": 0.59}, {"a/1": 0.99, "b/1": 0.60}, "knn"),  # near, but blind
        ({"a/1": 0.50, "b/1": 0.55}, {"a/1": 0.51, "b/1": 0.52}, "norm"),  # nothing to choose by
    ],
)
def test_choice(norm: dict[str, float], other: dict[str, float], chosen: str) -> None:
    assert report(norm=norm, knn=other).choice() == chosen.removesuffix("_blind")
    assert report(knn=other).choice() == "knn"


def test_a_score_that_probes_flatter_is_never_chosen() -> None:
    made = report(norm_profile={"a/1": 0.99}, knn={"a/1": 0.9}, msp={"a/1": 0.8})
    assert made.ranking()[0] == "norm_profile"
    assert made.choice() == "knn"
    assert report(norm_profile={"a/1": 0.99}).choice() == "norm_profile"


def test_ties_go_to_the_earlier_score() -> None:
    same = {"a/1": 0.9}
    assert report(energy=same, knn=same, msp=same).choice() == "energy"


def test_no_score_no_choice() -> None:
    with pytest.raises(ProbeError, match="norm: hardly vary"):
        ProbeReport({}, 10, 10, {"norm": "hardly vary"}).choice()


def test_words() -> None:
    made = report(norm={"a/1": 0.39, "a/2": 0.41, "b/1": 0.9}, knn={"a/1": 0.9, "a/2": 0.9, "b/1": 0.9})
    inverted, blind, better = (line for line in made.warnings("norm") if "left out" not in line)
    assert "inverted on a/1 (AUROC 0.39)" in inverted
    assert "blind to a/2 (AUROC 0.41)" in blind
    assert "knn does best (mean AUROC 0.90 against 0.65)" in better
    assert "finite features for noise/uniform" in made.warnings("knn")[0]
    assert report(knn=dict.fromkeys(PROBES, 0.9)).warnings("knn") == []
    assert "only 10 tuning images" in ProbeReport(made.auroc, 10, 10).warnings("knn")[0]
    assert "hardly learned" in report(norm={"a/1": 0.5}).warnings("norm")[0]
    assert "was not probed: no stages" in ProbeReport({}, 200, 200, {"norm_gain": "no stages"}).warnings("norm_gain")[0]


def test_a_probe_that_every_score_takes_for_familiar_is_told() -> None:
    """It counts in no mean, for no score sees it, and yet the gate lets such images through."""
    made = report(norm={"noise/a": 0.02, "flat/b": 0.97}, knn={"noise/a": 0.1, "flat/b": 0.95})
    assert made.uninformative == ("noise/a",)
    assert made.choice() == "norm"
    assert made.inverted("norm") == {"noise/a": 0.02}
    assert any("inverted on noise/a (AUROC 0.02)" in line for line in made.warnings("norm"))


@pytest.mark.parametrize(("images", "informative"), [(12, 0.86), (50, 0.674), (200, 0.6)])
def test_few_images_must_be_told_apart_more_clearly(images: int, informative: float) -> None:
    """Three standard errors above chance: the best of some thirty blind scores comes near two."""
    for auroc, expected in ((informative + 0.01, ("a/1",)), (informative - 0.01, ())):
        assert ProbeReport({"knn": {"a/1": auroc}}, images, images).informative == expected


def test_chance_is_that_of_blind_scores() -> None:
    rng = np.random.default_rng(0)
    drawn = [metrics.auroc(rng.random(60), rng.random(40)) for _ in range(2000)]
    assert np.std(drawn) == pytest.approx(ProbeReport({}, 60, 40).chance / 3, rel=0.05)


def test_a_score_of_which_nothing_is_known_any_more() -> None:
    made = report(norm={"a/1": 0.9}, knn={"a/1": 0.8}).without("knn", "other settings")
    assert list(made.auroc) == ["norm"]
    assert made.refused == {"knn": "other settings"}


def test_back_from_json() -> None:
    made = ProbeReport({"norm": {"a/1": 0.5}}, 200, 100, {"norm_gain": "no stages"})
    assert ProbeReport.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    "bad",
    [
        {"auroc": {"norm": {"a/1": 2}}},
        {"auroc": {"norm": {"a": 0.5}}},
        {"auroc": {"norm": {"a/1": True}}},
        {"auroc": {"norm": [0.5]}},
        {"auroc": {"norm": {"a/1": 0.5}, "knn": {"b/1": 0.5}}},
        {"auroc": "norm"},
        {"images": "3"},
        {"images": -5},
        {"probed": 0},
        {"refused": None},
        {"refused": {"x": 5}},
        {"other": 1},
    ],
)
def test_what_is_no_report_is_refused(bad: dict[str, object]) -> None:
    good = {"images": 3, "probed": 3, "auroc": {"norm": {"a/1": 0.5}}, "refused": {}, "trained_on": []}
    ProbeReport.from_dict(good)
    with pytest.raises(ProbeError, match="no report"):
        ProbeReport.from_dict({**good, **bad})
    with pytest.raises(ProbeError, match="no report"):
        ProbeReport.from_dict("text")


def probes(count: int = 20) -> object:
    """Features of zero magnitude and of ID images, as two probes."""
    small, same = random_features(count, 5), random_features(count, 6)
    z = torch.cat([small.z / 100, same.z])
    ids = tuple(f"{name}#{i}" for name in ("tiny/1", "same/1") for i in range(count))
    logits = torch.nn.functional.linear(torch.nn.functional.normalize(z, dim=1) / 0.5, TRAIN.weight, TRAIN.bias)
    stage_norms = None if small.stage_norms is None else torch.cat([small.stage_norms, same.stage_norms])
    return dataclasses.replace(small, z=z, logits=logits, ids=ids, labels=None, stage_norms=stage_norms)


def test_every_score_is_probed_as_it_would_be_used() -> None:
    made = probe(TUNING, probes(), TRAIN)
    assert {*made.auroc, *made.refused} == set(scores.names())
    knn = scores.create("knn").fit(TRAIN)
    rows = {"tiny/1": range(20), "same/1": range(20, 40)}
    for name, own in rows.items():
        expected = metrics.auroc(knn(TUNING), knn(probes().select(list(own))))
        assert made.auroc["knn"][name] == expected
    assert made.auroc["norm"]["tiny/1"] == 1
    assert made.auroc["msp"]["tiny/1"] == pytest.approx(0.5, abs=0.15)


def test_without_training_features_fitted_scores_are_left_out() -> None:
    made = probe(TUNING, probes(), None)
    assert "knn" not in made.auroc
    assert "--train" in made.refused["knn"]
    assert "energy" in made.auroc


def test_a_gates_own_score_is_used_as_it_is() -> None:
    own = scores.create("knn", k=1).fit(TRAIN)
    assert probe(TUNING, probes(), TRAIN, own).auroc["knn"] != probe(TUNING, probes(), TRAIN).auroc["knn"]


def test_with_very_few_tuning_images_nothing_is_claimed() -> None:
    """An AUROC of so few is uncertain by ½, and says nothing of the network."""
    both = {"norm": dict.fromkeys(PROBES, 0.0), "knn": dict.fromkeys(PROBES, 1.0)}
    few = ProbeReport(both, 6, 6)
    assert few.too_few
    assert not ProbeReport(both, 7, 7).too_few
    assert few.choice() == "norm"
    (said,) = few.warnings("norm")
    assert "only 6 tuning images: too few for probes to tell" in said
    assert ProbeReport(both, 7, 7).choice() == "knn"
