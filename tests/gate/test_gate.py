"""Gates: calibrated, asked, asked again, saved and loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn

import normgate
from normgate import Gate
from normgate.calibration import CalibrationError
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record, Records
from normgate.errors import NormgateError
from normgate.files import OutputError
from normgate.gate import GateError, GateFolderError
from normgate.gate.duplicates import DuplicateError
from samples import CLASSES, random_records, small_network

PREPROCESSING = Preprocessing((8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def calibrated(network: nn.Module | None = None, **options: object) -> Gate:
    sets = {"train": random_records(60, 1), "tuning": random_records(30, 2), "calibration": random_records(40, 3)}
    return Gate.calibrate(network or small_network(), **{"preprocessing": PREPROCESSING, **sets, **options})


def same(one: normgate.Verdicts, other: normgate.Verdicts) -> bool:
    return (
        list(one.label) == list(other.label)
        and np.array_equal(one.score, other.score)
        and np.array_equal(one.p_value, other.p_value)
        and np.array_equal(one.accepted, other.accepted)
    )


def pixels(count: int = 15) -> list[np.ndarray]:
    return [record.payload for record in random_records(count, 9)]


def test_verdicts_follow_the_calibration_scores() -> None:
    gate = calibrated()
    verdicts = gate(pixels())
    for verdict in verdicts:
        rank = 1 + (gate.calibration.scores <= verdict.score).sum()
        assert verdict.p_value == rank / 41
        assert verdict.accepted == (verdict.p_value > 0.05)
        assert verdict.label in CLASSES
        assert 1 / 3 < verdict.probability <= 1


def test_images_may_come_in_many_forms(tmp_path: Path) -> None:
    gate, arrays = calibrated(), pixels(3)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    expected = gate(arrays)
    assert same(gate([Image.fromarray(array) for array in arrays]), expected)
    assert same(gate(sorted(tmp_path.iterdir())), expected)
    assert same(gate(tmp_path), expected)
    assert same(gate([path.read_bytes() for path in sorted(tmp_path.iterdir())]), expected)
    prepared = torch.from_numpy(PREPROCESSING(arrays))
    assert same(gate(prepared, preprocessed=True), expected)
    with pytest.raises(GateError, match="preprocessed=True"):
        gate(prepared)


def test_an_unreadable_image_is_a_row_with_an_error() -> None:
    verdicts = calibrated()([pixels()[0], b"no image", pixels()[1]])
    assert [verdict.error is None for verdict in verdicts] == [True, False, True]
    assert np.isnan(verdicts.score[1])
    assert not verdicts.accepted[1]
    assert verdicts[1].label is None


@pytest.mark.parametrize("tau", [None, 1.0, 0.1, "learned"])
@pytest.mark.parametrize("score", ["norm", "knn", "mahalanobis"])
def test_a_saved_gate_gives_the_same_verdicts(tmp_path: Path, tau: float | str | None, score: str) -> None:
    network = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]}).build()
    if tau is not None:
        normgate.l2norm(network, temperature=tau)
    backbone = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]})
    gate = calibrated(network, backbone=backbone, score=score)
    gate.save(tmp_path / "gate")
    (tmp_path / "gate").rename(tmp_path / "moved")
    again = Gate.load(tmp_path / "moved")
    assert same(again(pixels()), gate(pixels()))
    assert again.digests == gate.digests
    assert again.classes == gate.classes


def test_a_fresh_process_gives_the_same_verdicts(tmp_path: Path) -> None:
    network = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]}).build()
    gate = calibrated(network, backbone=normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]}))
    gate.save(tmp_path / "gate")
    np.save(tmp_path / "pixels.npy", np.stack(pixels()))
    code = (
        "import sys, json, numpy, torch, normgate; torch.set_num_threads(1);"
        "gate = normgate.Gate.load(sys.argv[1]); print(json.dumps(gate(numpy.load(sys.argv[2])).score.tolist()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "gate"), str(tmp_path / "pixels.npy")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    assert json.loads(printed) == gate(pixels()).score.tolist()


def test_a_network_that_timm_cannot_rebuild_must_be_given(tmp_path: Path) -> None:
    gate = calibrated(normgate.l2norm(small_network(), temperature=0.5))
    gate.save(tmp_path / "gate")
    with pytest.raises(GateFolderError, match="model="):
        Gate.load(tmp_path / "gate")
    assert same(Gate.load(tmp_path / "gate", model=small_network(7))(pixels()), gate(pixels()))
    with pytest.raises(NormgateError, match="no module named '5'"):
        Gate.load(tmp_path / "gate", model=nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.Linear(9, 3)))


def test_a_timm_network_is_recognised_unless_it_was_changed() -> None:
    import timm

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=3)
    state = torch.random.get_rng_state()
    preprocessing = Preprocessing((32, 32))
    gate = calibrated(network, preprocessing=preprocessing)
    assert gate.backbone == normgate.Backbone("resnet10t", 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    network.maxpool = nn.Identity()
    assert calibrated(network, preprocessing=preprocessing).backbone is None


def test_asked_again_without_the_images(tmp_path: Path) -> None:
    gate = calibrated()
    looser = gate.recalibrate(false_alarm_rate=0.2)
    assert looser.calibration.alpha == 0.2
    assert np.array_equal(looser.calibration.scores, gate.calibration.scores)
    other = gate.recalibrate(score="knn")
    assert np.array_equal(other.calibration.scores, calibrated(score="knn").calibration.scores)
    new = gate.recalibrate(random_records(50, 12))
    assert new.calibration.n == 50
    assert gate.calibration.n == 40
    with pytest.raises(DuplicateError, match="train and calibration"):
        gate.recalibrate(Records([*random_records(40, 12), random_records(60, 1)[0]]))


def test_a_lean_gate_keeps_no_features() -> None:
    gate = calibrated(lean=True)
    assert gate.kept == {}
    assert gate.recalibrate(false_alarm_rate=0.2).calibration.alpha == 0.2
    with pytest.raises(GateError, match="lean"):
        gate.recalibrate(score="energy")


def test_thresholds_by_predicted_class() -> None:
    gate = calibrated(by_class=True, false_alarm_rate=0.2, calibration=random_records(300, 3))
    verdicts = gate(pixels(40))
    for number, name in enumerate(CLASSES):
        own = gate.calibration.scores[gate.calibration.predicted == number]
        for verdict in (verdict for verdict in verdicts if verdict.label == name):
            assert verdict.p_value == (1 + (own <= verdict.score).sum()) / (len(own) + 1)


def test_shared_images_are_counted_or_dropped_from_the_later_set() -> None:
    shared = random_records(60, 1)
    mixed = Records([*random_records(40, 3), *shared[:5]], CLASSES)
    with pytest.raises(DuplicateError, match="5 in train and calibration"):
        calibrated(calibration=mixed)
    assert calibrated(calibration=mixed, drop_duplicates=True).calibration.n == 40


def test_bad_input_names_the_fix() -> None:
    with pytest.raises(CalibrationError, match="at least 19"):
        calibrated(calibration=random_records(10, 3))
    with pytest.raises(GateError, match="--train"):
        calibrated(train=None, classes=CLASSES, score="knn")
    with pytest.raises(GateError, match="classes="):
        calibrated(train=None)
    with pytest.raises(GateError, match="3 outputs"):
        calibrated(classes=["a", "b"])
    with pytest.raises(GateError, match="--skip-unreadable"):
        calibrated(tuning=[b"no image", *pixels(3)])
    assert len(calibrated(tuning=[b"no image", *pixels(3)], skip_unreadable=True).kept["tuning"]) == 3


def test_damage_is_found(tmp_path: Path) -> None:
    gate = calibrated(normgate.l2norm(small_network()))
    folder = tmp_path / "gate"
    gate.save(folder)
    with pytest.raises(OutputError, match="--overwrite"):
        gate.save(folder)
    gate.save(folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["gate"]

    def refused(match: str) -> None:
        with pytest.raises(GateFolderError, match=match):
            Gate.load(folder, model=small_network())

    (folder / "extra").touch()
    refused("extra does not belong")
    (folder / "extra").unlink()
    weights = (folder / "network.safetensors").read_bytes()
    (folder / "network.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    refused("network.safetensors has changed")
    (folder / "network.safetensors").unlink()
    refused("network.safetensors is missing")
    (folder / "network.safetensors").write_bytes(weights)
    text = (folder / "gate.json").read_text()
    (folder / "gate.json").write_text(text.replace('"format": 1', '"format": 2'))
    refused("upgrade")
    (folder / "gate.json").write_text(text[:100])
    refused("no description")
    (folder / "gate.json").unlink()
    refused("holds no gate.json")
    with pytest.raises(GateFolderError, match="does not exist"):
        Gate.load(tmp_path / "nothing")


def leaves(value: object, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [leaf for key, child in items for leaf in leaves(child, (*path, key))]


@pytest.mark.parametrize("odd", [None, -1, 1.5e308, "x", [], {}, [None], True])
def test_odd_descriptions_never_crash(tmp_path: Path, odd: object) -> None:
    folder = tmp_path / "gate"
    calibrated(normgate.l2norm(small_network())).save(folder)
    text = (folder / "gate.json").read_text()
    for path in leaves(json.loads(text))[1:]:
        if path[0] in ("versions", "provenance"):
            continue
        description = json.loads(text)
        place = description
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = odd
        (folder / "gate.json").write_text(json.dumps(description))
        try:
            Gate.load(folder, model=small_network())
        except NormgateError as error:
            assert len(str(error)) > 10  # noqa: PT017


def test_the_promise_holds_through_all_of_calibrate() -> None:
    """Fresh calibration and one fresh test image, many times: rejections are binomial around k/(n+1)."""
    gate = calibrated(calibration=random_records(3000, 3), false_alarm_rate=0.1)
    pool = gate.calibration.scores
    rng = np.random.default_rng(0)
    draws, n = 4000, 29
    rejected = 0
    for _ in range(draws):
        sample = rng.choice(pool, n + 1, replace=False)
        rejected += not normgate.gate.gate.Calibration(sample[:n], 0.1).accepts(sample[n:])[0]
    low, high = stats.binom.interval(0.999, draws, 3 / 30)
    assert low <= rejected <= high


def test_records_of_one_class_only_are_fine_to_judge() -> None:
    gate = calibrated()
    assert len(gate([Record("x", pixels()[0]).payload])) == 1
