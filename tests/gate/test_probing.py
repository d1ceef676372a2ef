"""A score chosen by probes, from tuning images alone, and what the gate says of it."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import normgate
from normgate import Gate, ProbeWarning, metrics, scores
from normgate.data.sources import Record, Records
from normgate.gate import GateError
from normgate.gate.probing import IMAGES
from normgate.probes import PROBES
from normgate.scores.knn import KNN
from normgate.scores.norm import Norm
from samples import CLASSES, PREPROCESSING, random_records, small_network


def calibrated(**options: object) -> Gate:
    sets = {"train": random_records(60, 1), "tuning": random_records(30, 2), "calibration": random_records(40, 3)}
    return Gate.calibrate(small_network(), **{"preprocessing": PREPROCESSING, **sets, **options})


def test_auto_takes_what_the_report_chooses(tmp_path: Path) -> None:
    gate = calibrated(score="auto")
    assert gate.probes is not None
    assert gate.score.name == gate.probes.choice()
    assert {*gate.probes.auroc, *gate.probes.refused} == set(scores.names())
    assert all(list(own) == list(PROBES) for own in gate.probes.auroc.values())
    gate.save(tmp_path / "gate")
    again = Gate.load(tmp_path / "gate", model=small_network(5))
    assert again.probes == gate.probes
    assert again.recalibrate(score="auto").score.name == gate.score.name


def test_the_report_is_of_the_gates_own_score() -> None:
    gate = calibrated(score=scores.create("knn", k=2))
    assert gate.probes is not None
    kept = gate.kept["probes"]
    black = kept.select([name.startswith("flat/black#") for name in kept.ids])
    expected = metrics.auroc(gate.score(gate.kept["tuning"]), gate.score(black))
    assert gate.probes.auroc["knn"]["flat/black"] == expected
    assert gate.probes.auroc["knn"] != calibrated(score="knn").probes.auroc["knn"]


def test_another_score_is_probed_without_the_images() -> None:
    gate = calibrated(score="norm")
    other = gate.recalibrate(score=scores.create("knn", k=2))
    assert other.probes.auroc["norm"] == gate.probes.auroc["norm"]
    assert other.probes.auroc["knn"] != gate.probes.auroc["knn"]


def test_new_tuning_images_are_probed() -> None:
    gate = calibrated(score="norm")
    other = gate.recalibrate(tuning=random_records(20, 7))
    assert other.probes.images == 20
    assert len(other.kept["tuning"]) == 20
    assert len(other.kept["probes"]) == 20 * len(PROBES)
    assert np.array_equal(other.calibration.scores, gate.calibration.scores)
    untuned = calibrated(tuning=None)
    assert untuned.probes is None
    assert untuned.recalibrate(tuning=random_records(30, 2), score="auto").probes == calibrated(score="auto").probes


def test_families_that_were_trained_on_stay_out_of_the_choice(tmp_path: Path) -> None:
    gate = calibrated(score="auto", trained_on_probes=["noise", "flat"])
    assert gate.probes.trained_on == ("noise", "flat")
    assert {name.partition("/")[0] for name in gate.probes.informative}.isdisjoint({"noise", "flat"})
    assert len(gate.kept["probes"]) == 30 * len(PROBES)
    gate.save(tmp_path / "gate")
    again = Gate.load(tmp_path / "gate", model=small_network())
    for other in (again, again.recalibrate(score="auto"), again.recalibrate(tuning=random_records(20, 7))):
        assert other.probes.trained_on == ("noise", "flat")
    untuned = calibrated(score="norm", tuning=None, trained_on_probes=["noise"])
    assert untuned.recalibrate(tuning=random_records(20, 7), score="auto").probes.trained_on == ("noise",)
    for wrong in ("noise", ["nose"]):
        with pytest.raises(GateError, match="families of probes are some of noise, flat"):
            calibrated(trained_on_probes=wrong)


def test_a_lean_gate_keeps_the_report_and_can_choose_by_it() -> None:
    lean = calibrated(lean=True, score="norm")
    assert lean.kept == {}
    chosen = lean.recalibrate(random_records(40, 8), train=random_records(60, 1), score="auto")
    assert chosen.score.name == calibrated(score="auto").score.name


@pytest.mark.parametrize("score", ["auto", "polar"])
def test_calibration_images_never_stand_in(score: str) -> None:
    with pytest.raises(GateError, match=r"tuning images, and there are none.*--tuning.*calibration images are for"):
        calibrated(tuning=None, score=score)
    with pytest.raises(GateError, match=r"tuning images, and there are none"):
        calibrated(tuning=None, score="norm").recalibrate(score=score)


def test_images_that_cannot_be_read_or_repeat_are_no_probes() -> None:
    tuning = Records([Record("bad", b"no image"), *random_records(10, 2), random_records(60, 1)[0]])
    gate = calibrated(tuning=tuning, skip_unreadable=True, drop_duplicates=True)
    assert len(gate.kept["tuning"]) == 10
    assert len(gate.kept["probes"]) == 10 * len(PROBES)


def test_no_image_left_is_an_error_that_names_the_set() -> None:
    with pytest.raises(GateError, match="every tuning image is in another set, too"):
        calibrated(tuning=random_records(10, 1), drop_duplicates=True)


def test_a_probe_without_finite_features_is_left_out_and_told() -> None:
    class Standardized(torch.nn.Module):
        """Divides each image by its own deviation: 0/0 for a flat one."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x.mean(dim=(1, 2, 3), keepdim=True)) / x.std(dim=(1, 2, 3), keepdim=True)

    torch.manual_seed(0)
    network = torch.nn.Sequential(Standardized(), torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.Linear(8, 3))
    sets = {"tuning": random_records(60, 2), "calibration": random_records(40, 3)}
    with pytest.warns(ProbeWarning, match="no finite features for flat/black, flat/white"):
        gate = Gate.calibrate(network, preprocessing=PREPROCESSING, classes=CLASSES, score="energy", head="3", **sets)
    assert gate.probes is not None
    assert "flat/black" not in gate.probes.probes
    assert "noise/uniform" in gate.probes.probes


class Other(Norm):
    """A score of somebody else's."""


def test_new_tuning_images_leave_a_score_alone_that_is_not_scaled_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normgate.gate.sets.KEPT_ROWS", 30)
    gate = calibrated(score="knn")
    other = gate.recalibrate(tuning=random_records(20, 7))
    assert other.score is gate.score
    assert np.array_equal(other.calibration.scores, gate.calibration.scores)
    assert other.probes != gate.probes
    polar = calibrated(score="polar").recalibrate(tuning=random_records(20, 7))
    assert not torch.equal(polar.score.state["knots"], calibrated(score="polar").score.state["knots"])


def test_other_settings_than_those_that_were_probed(tmp_path: Path) -> None:
    lean = calibrated(lean=True, score="knn")
    again = lean.recalibrate(random_records(40, 8), train=random_records(60, 1), score=scores.create("knn", k=1))
    assert "knn" not in again.probes.auroc
    assert "other settings" in again.probes.refused["knn"]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (KNN("norm"), "a gate cannot hold norm"),
        (KNN("knn", space="z"), "a gate cannot hold knn"),
        (Other("norm"), "what is called norm is not the score of that name"),
        (KNN("knn_3"), "a gate cannot hold knn_3"),
        (scores.create("energy", temperature=np.float32(2)), "a gate cannot hold energy with these settings"),
    ],
)
def test_a_score_that_could_not_be_loaded_again_is_refused_before_any_work(
    score: scores.Score, message: str, class_folders: Path
) -> None:
    with pytest.raises(GateError, match=message):
        calibrated(score=score)
    with pytest.raises(GateError, match=message):
        normgate.train(class_folders, score=score, model="no such network")


def test_a_gate_from_before_there_were_probes(tmp_path: Path) -> None:
    gate = calibrated(score="norm")
    older = dataclasses.replace(
        gate, probes=None, kept={name: part for name, part in gate.kept.items() if name != "probes"}
    )
    older.save(tmp_path / "gate")
    again = Gate.load(tmp_path / "gate", model=small_network(5))
    with pytest.raises(GateError, match="--tuning"):
        again.recalibrate(score="auto")
    assert again.recalibrate(score="polar").probes is None
    assert again.recalibrate(tuning=random_records(30, 2), score="auto").probes is not None


def test_at_most_so_many_images_are_probed() -> None:
    gate = calibrated(tuning=random_records(IMAGES + 50, 2))
    assert len(gate.kept["probes"]) == IMAGES * len(PROBES)
    assert gate.probes.images == IMAGES + 50


def test_an_image_goes_through_the_network_once() -> None:
    network, seen = small_network(), []
    network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    sets = {"train": random_records(60, 1), "tuning": random_records(30, 2), "calibration": random_records(40, 3)}
    Gate.calibrate(network, preprocessing=PREPROCESSING, score="auto", **sets)
    example = 2
    assert sum(seen) == 60 + 30 + 40 + 30 * len(PROBES) + example * seen.count(example)


def test_no_score_is_fitted_more_often_than_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once to be probed; what is chosen once more, to all training images."""
    fits: list[str] = []
    fit = scores.Score.fit

    def counted(self: scores.Score, *given: object) -> scores.Score:
        fits.append(self.name)
        return fit(self, *given)

    monkeypatch.setattr(scores.Score, "fit", counted)
    chosen = calibrated(score="auto").score.name
    for name in scores.names():
        # A part of polar is fitted by it.
        assert fits.count(name) <= 1 + (name == chosen) + (name == "mahalanobis") * (1 + (chosen == "polar"))


def test_a_blind_or_inverted_score_is_told() -> None:
    """A network whose norm is the brightness: it takes white for most familiar."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    with torch.no_grad():
        network[1].weight.fill_(0.01)
        network[1].bias.fill_(5.0)
    sets = {"tuning": random_records(60, 2), "calibration": random_records(40, 3)}
    options = {"preprocessing": PREPROCESSING, "classes": ("cat", "dog", "owl"), **sets}
    with pytest.warns(ProbeWarning, match=r"norm is inverted on .*flat/white \(AUROC 0\.00\)"):
        gate = Gate.calibrate(network, score="norm", **options)
    assert gate.probes is not None
    assert gate.probes.auroc["norm"]["flat/white"] == 0
    assert gate.probes.auroc["norm"]["flat/black"] == 1


def test_a_gate_without_probes_says_so() -> None:
    with pytest.warns(ProbeWarning, match="not probed, for want of tuning images.*tuning=") as said:
        gate = calibrated(tuning=None)
    assert [str(warning.message) for warning in said] == gate.caveats
    with warnings.catch_warnings():  # once, and not again with each new threshold
        warnings.simplefilter("error", ProbeWarning)
        gate.recalibrate(false_alarm_rate=0.2)


def test_the_choice_does_not_spend_the_promise() -> None:
    """False alarms over many gates, each with tuning, calibration and test images and a choice of its own.

    With n = 19 and α = 0.1 a gate's chance of a false alarm is Beta(2, 18) over calibration sets, and the rejections
    among its m test images beta-binomial; a score chosen on the calibration images would not keep to that.
    """
    network = normgate.l2norm(small_network())
    runs, m = 60, 50
    train = random_records(30, 1)
    chosen, rates = set(), []
    for run in range(runs):
        gate = Gate.calibrate(
            network,
            train=train,
            tuning=random_records(12, 1000 + run),
            calibration=random_records(19, 2000 + run),
            preprocessing=PREPROCESSING,
            score="auto",
            false_alarm_rate=0.1,
            lean=True,
            workers=0,
        )
        chosen.add(gate.score.name)
        rates.append(1 - gate([record.payload for record in random_records(m, 3000 + run)], workers=0).accepted.mean())
    assert len(chosen) > 1
    error = stats.betabinom(m, 2, 18).std() / m / np.sqrt(runs)
    assert abs(np.mean(rates) - 2 / 20) < stats.norm.isf(0.0005) * error
