"""Scores by name and as objects: fitted once, never somebody else's, and refused with a reason."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from normgate import scores
from normgate.evaluation import EvaluationError, evaluate_features
from normgate.evaluation.scoring import chosen, computed
from normgate.features import Features
from normgate.scores import Score, ScoreError
from samples import random_features


@dataclasses.dataclass
class FirstNumber(Score):
    """A score of somebody's own."""

    needs_fit = True
    sign: float = 1.0

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        return {"mean": features.z[:, 0].mean()}

    def _score(self, features: Features) -> torch.Tensor:
        return self.sign * (features.z[:, 0] - self.state["mean"])


FEATURES = {"id": random_features(40, 1), "odd": random_features(20, 2)}
TRAIN = random_features(60, 3)


def test_a_copy_of_an_object_is_fitted() -> None:
    mine = FirstNumber("first")
    values, refused = computed(chosen([mine, "energy"], None), FEATURES, train=TRAIN, tuning=None)
    assert mine.state == {}
    assert refused == {}
    assert np.array_equal(values["first"]["odd"], (FEATURES["odd"].z[:, 0] - TRAIN.z[:, 0].mean()).double().numpy())
    assert np.array_equal(values["energy"]["id"], scores.create("energy")(FEATURES["id"]).numpy())


def test_the_gates_score_is_used_as_it_was_fitted() -> None:
    own = scores.create("knn", k=3).fit(TRAIN)
    other = random_features(60, 9)
    for wanted in ("knn", own, scores.create("knn", k=3), "all"):
        values, _ = computed(chosen(wanted, own), FEATURES, train=other, tuning=None, own=own)
        assert np.array_equal(values["knn"]["odd"], own(FEATURES["odd"]).numpy())
    fresh, _ = computed(chosen("knn", None), FEATURES, train=other, tuning=None)
    assert not np.array_equal(fresh["knn"]["odd"], values["knn"]["odd"])


def test_a_gates_score_without_a_registered_name_is_among_all() -> None:
    own = FirstNumber("first").fit(TRAIN)
    assert [score.name for score in chosen("all", own)] == ["first", *scores.names()]


def test_two_scores_need_two_names() -> None:
    own = scores.create("knn", k=3).fit(TRAIN)
    with pytest.raises(EvaluationError, match="two scores are called knn"):
        chosen([scores.create("knn", k=5)], own)
    wide = dataclasses.replace(scores.create("knn", k=5), name="knn_5")
    values, _ = computed(chosen([wide, "knn"], own), FEATURES, train=TRAIN, tuning=None, own=own)
    assert set(values) == {"knn_5", "knn"}


@pytest.mark.parametrize(
    ("fitted", "scored", "said"),
    [
        ({"mean": torch.zeros(1)}, torch.zeros(10), r"of 40 images a float32 tensor of shape \(10,\)"),
        ({"mean": torch.zeros(1)}, torch.zeros(40, 1), r"of 40 images a float32 tensor of shape \(40, 1\)"),
        ({"mean": torch.zeros(1)}, torch.zeros(40) * 1j, "of 40 images a complex64 tensor"),
        ({"mean": torch.zeros(1)}, np.zeros(40), "of 40 images a ndarray"),
        (None, torch.zeros(40), "has learned a NoneType; _fit and _scale return tensors by name"),
        ({"mean": [0.0]}, torch.zeros(40), "has learned a dict"),
    ],
)
def test_a_score_of_ones_own_that_gives_something_else_is_told(fitted: Any, scored: Any, said: str) -> None:
    @dataclasses.dataclass
    class Own(FirstNumber):
        def _fit(self, features: Features) -> dict[str, torch.Tensor]:
            return fitted

        def _score(self, features: Features) -> torch.Tensor:
            return scored

    with pytest.raises(EvaluationError, match=f"own cannot be had: own .*{said}"):
        evaluate_features(None, FEATURES, scores=Own("own"), train=TRAIN)
    found = evaluate_features(None, FEATURES, scores=["all", Own("own")], train=TRAIN)
    assert "own" in found.refused
    assert "norm" in found.metrics


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "scores= takes names and scores, or 'all', and not None"),
        (FirstNumber, r"make one: FirstNumber\('name'\)"),
        ([FirstNumber], r"make one: FirstNumber\('name'\)"),
        ([lambda features: features.z], "a score is a subclass of Score"),
        (["all", FirstNumber], r"make one: FirstNumber\('name'\)"),
        (["all", 3], "3 is neither the name of a score nor a score"),
        (["knn", "knn"], "two scores are called knn; name it once"),
    ],
)
def test_what_is_no_score(given: Any, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        evaluate_features(None, FEATURES, scores=given)


def test_a_name_beside_all_is_among_them_or_none() -> None:
    assert [score.name for score in chosen(["all", "knn"], None)] == [*scores.names()]
    own = scores.create("knn", k=3).fit(TRAIN)
    found = chosen(["all", own, scores.create("knn", k=3)], own)
    assert [score.name for score in found] == [*scores.names()]
    assert own in found
    with pytest.raises(ScoreError, match="did you mean 'knn'"):
        chosen(["all", "knnn"], None)


def test_settings_of_any_kind_are_said_as_json_has_them() -> None:
    @dataclasses.dataclass
    class Own(FirstNumber):
        by: Any = None

    for value, said in (
        (3, 3),
        ([1, "a"], [1, "a"]),
        (np.zeros(3), "ndarray"),
        (math.inf, "float"),
        (print, type(print).__name__),
    ):
        found = evaluate_features(None, FEATURES, scores=Own("own", by=value), train=TRAIN)
        assert found.settings["own"] == {"sign": 1.0, "by": said}
        json.dumps(found.to_dict(), allow_nan=False)
    long = evaluate_features(None, FEATURES, scores=Own("own", by={str(i): i for i in range(1000)}), train=TRAIN)
    assert long.settings["own"]["by"] == "dict"


def test_what_cannot_be_had_says_why() -> None:
    _, refused = computed(chosen("all", None), FEATURES, train=None, tuning=None)
    assert "train=" in refused["knn"]
    assert "energy" not in refused
    _, refused = computed(chosen("polar", None), FEATURES, train=TRAIN, tuning=None)
    assert "tuning" in refused["polar"]


def test_a_detector_of_pytorch_ood_is_one_more_score() -> None:
    detectors = pytest.importorskip("pytorch_ood.detector")
    from normgate.scores.pytorch_ood import adapt

    theirs = adapt(detectors.KNN(encoder=None, k=5), space="u")
    found = evaluate_features(None, FEATURES, scores=[theirs, scores.create("knn", k=5)], train=TRAIN)
    assert found.metrics["pytorch_ood.KNN"].keys() == {"odd"}
    assert found.compare("pytorch_ood.KNN", "knn").sets["odd"].difference == pytest.approx(0, abs=0.01)
    assert not theirs.state


def test_scores_and_groups_are_gone_through_once() -> None:
    found = evaluate_features(
        None, FEATURES, scores=map(str, ["norm", "msp"]), groups={"far": (name for name in ["odd"])}, train=TRAIN
    )
    assert list(found.metrics) == ["norm", "msp"]
    assert found.groups == {"far": ("odd",)}
    assert set(scores.names()) >= set(evaluate_features(None, FEATURES, scores=iter(["all"]), train=TRAIN).metrics)
    with pytest.raises(EvaluationError, match="names no score"):
        evaluate_features(None, FEATURES, scores=[])


@pytest.mark.parametrize("name", ["set", "id", "wrong", "", 3])
def test_a_score_has_a_name_that_a_table_of_images_can_have(name: Any) -> None:
    with pytest.raises(EvaluationError, match="is no name for a score"):
        evaluate_features(None, FEATURES, scores=[FirstNumber(name)], train=TRAIN)


def test_known_images_that_are_alike_do_not_refuse_a_norm_that_varies_over_tuning_images() -> None:
    alike = dataclasses.replace(FEATURES["id"], z=torch.nn.functional.normalize(FEATURES["id"].z, dim=1))
    sets = {"id": alike, "odd": FEATURES["odd"]}
    found = evaluate_features(None, sets, scores=["norm"], tuning=random_features(30, 5))
    assert "norm" in found.metrics
    with pytest.raises(EvaluationError, match="norms of this network hardly vary"):
        evaluate_features(None, sets, scores=["norm"])
    few = random_features(2, 5)
    few.z.copy_(few.z[:1].expand(2, -1))  # nor do two tuning images
    assert "norm" in evaluate_features(None, FEATURES, scores=["norm"], tuning=few).metrics
    with pytest.raises(EvaluationError, match="norms of this network hardly vary"):
        evaluate_features(None, sets, scores=["norm"], tuning=few)
    unseen = dataclasses.replace(random_features(30, 5), stage_norms=None)
    assert "norm_gain" in evaluate_features(None, FEATURES, scores=["norm_gain"], tuning=unseen).metrics


def test_the_whole_curve_of_outliers_is_of_one_set() -> None:
    found = evaluate_features(None, FEATURES, scores=["norm"], train=TRAIN)
    with pytest.raises(EvaluationError, match=r"say of which OoD set with ood=; choose from: odd"):
        found.risk_coverage("norm", "outliers")
