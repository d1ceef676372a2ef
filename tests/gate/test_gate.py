"""Gates: calibrated, asked, and asked again."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn
from torchvision import transforms

import normgate
from normgate import Gate, scores
from normgate.calibration import CalibrationError
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record, Records, SourceError
from normgate.errors import NormgateError, NormgateWarning
from normgate.export import export
from normgate.features import FeatureError
from normgate.gate import GateError, Verdicts
from normgate.gate.duplicates import DuplicateError
from normgate.probes import PROBES
from normgate.report import gate_figure
from normgate.runtime import PortableGate
from normgate.scores import ScoreError
from normgate.verdicts import NOT_FINITE
from samples import CLASSES, FLAT, PREPROCESSING, overflowing_network, random_records, small_network, transformers_vit

SLIM = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]})


def calibrated(network: nn.Module | None = None, **options: Any) -> Gate:
    sets = {"train": random_records(60, 1), "tuning": random_records(30, 2), "calibration": random_records(40, 3)}
    return Gate.calibrate(
        small_network() if network is None else network, **{"preprocessing": PREPROCESSING, **sets, **options}
    )


def pixels(count: int = 15) -> list[np.ndarray]:
    return [record.payload for record in random_records(count, 9)]


def same(one: Verdicts, other: Verdicts) -> bool:
    columns = ("probability", "score", "p_value", "accepted")
    return list(one.label) == list(other.label) and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name != "accepted") for name in columns
    )


def test_an_image_that_cannot_be_judged_costs_the_others_nothing() -> None:
    own = calibrated(overflowing_network())
    images = pixels(6)
    verdicts = own([images[0], FLAT, b"no image", *images[1:]])
    assert [error is None for error in verdicts.error] == [True, False, False, *[True] * 5]
    assert verdicts.error[1] == NOT_FINITE
    assert verdicts[1].label is None
    assert not verdicts[1].accepted
    assert np.isnan([verdicts[1].score, verdicts[1].probability, verdicts[1].p_value]).all()
    np.testing.assert_allclose(np.delete(verdicts.score, [1, 2]), own(images).score, rtol=1e-5)
    prepared = torch.from_numpy(PREPROCESSING(np.stack([FLAT, images[0]])))
    assert [error is None for error in own(prepared, preprocessed=True).error] == [False, True]
    assert list(own([FLAT]).error) == [NOT_FINITE]


def test_a_score_that_is_not_finite_is_the_error_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    own = calibrated()
    before = own(pixels(3))
    real = type(own.score)._score

    def second_is_infinite(self: Any, features: Any) -> torch.Tensor:
        values = real(self, features).clone()
        values[1] = torch.inf
        return values

    monkeypatch.setattr(type(own.score), "_score", second_is_infinite)
    after = own(pixels(3))
    assert list(after.error) == [None, NOT_FINITE, None]
    assert (np.delete(after.score, 1) == np.delete(before.score, 1)).all()
    with pytest.raises(ScoreError, match="1 of 40 images are NaN or infinite"):
        calibrated()


# ------------------------------------------------------------------------------------------ any network


def learned() -> nn.Module:
    network = normgate.l2norm(small_network(), temperature="learned")
    with torch.no_grad():
        network[-1].log_temperature.fill_(-2.0)
    return network


def slim() -> nn.Module:
    torch.manual_seed(0)
    return SLIM.build()


def timm_network(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        torch.manual_seed(0)
        return timm.create_model(name, num_classes=3, **options)

    return make


def torchvision_resnet() -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    return normgate.l2norm(torchvision.models.resnet18(num_classes=3))


def normalized_vit() -> nn.Module:
    return normgate.l2norm(transformers_vit(), temperature=0.1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain": (small_network, 8),
    "normalised": (lambda: normgate.l2norm(small_network(), temperature=0.1), 8),
    "learned": (learned, 8),
    "slim resnet": (slim, 8),
    "convnext": (timm_network("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), 32),
    "vit": (timm_network("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2), 32),
    "torchvision": (torchvision_resnet, 32),
    "transformers": (normalized_vit, 8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_verdicts_follow_the_network_and_the_calibration_scores(name: str) -> None:
    make, side = NETWORKS[name]
    network, preprocessing = make().eval(), Preprocessing((side, side), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    try:
        gate = calibrated(network, preprocessing=preprocessing, false_alarm_rate=0.25)
    except GateError as error:  # norms of a network that was never trained may hardly vary
        assert "hardly vary" in str(error)  # noqa: PT017
        gate = calibrated(network, preprocessing=preprocessing, false_alarm_rate=0.25, score="energy")
    verdicts = gate(pixels(30))
    with torch.inference_mode():
        output = network(torch.from_numpy(preprocessing(pixels(30))))
    probabilities = getattr(output, "logits", output).double().softmax(dim=1)
    assert verdicts.label == [CLASSES[i] for i in probabilities.argmax(dim=1)]
    assert torch.equal(torch.from_numpy(verdicts.probability), probabilities.amax(dim=1))
    assert gate.calibration.n == 40
    for verdict in verdicts:
        rank = 1 + int((gate.calibration.scores <= verdict.score).sum())
        assert verdict.p_value == rank / 41
        assert verdict.accepted == (rank / 41 > 0.25)
        assert verdict.error is None


def test_calibration_scores_are_those_of_the_calibration_images() -> None:
    gate = calibrated()
    again = gate([record.payload for record in random_records(40, 3)])
    assert np.array_equal(again.score, gate.calibration.scores)
    assert (~again.accepted).sum() == 1  # those below the second smallest


def test_the_promise_holds_through_all_of_calibrate() -> None:
    """Fresh calibration images for each of many gates: the rejections of fresh test images are beta-binomial."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    rng = np.random.default_rng(0)
    gates, n, m, alpha = 300, 39, 20, 0.1
    rejected = 0
    for _ in range(gates):
        images = rng.integers(0, 256, (n + m, 2, 2, 3), dtype=np.uint8)
        gate = Gate.calibrate(
            network,
            calibration=images[:n],
            preprocessing=Preprocessing((2, 2)),
            classes=("a", "b"),
            false_alarm_rate=alpha,
            workers=0,
        )
        rejected += int((~gate(images[n:], workers=0).accepted).sum())
    one = stats.betabinom(m, 4, n - 3).pmf(np.arange(m + 1))  # k = 4
    length = gates * m + 1
    total = np.cumsum(np.fft.irfft(np.fft.rfft(one, length) ** gates, length))
    low, high = np.searchsorted(total, [0.0005, 0.9995])
    assert low <= rejected <= high


def test_thresholds_by_predicted_class() -> None:
    gate = calibrated(by_class=True, false_alarm_rate=0.2, calibration=random_records(300, 3))
    verdicts = gate(pixels(300))
    assert len(set(verdicts.label)) == 3
    assert gate.calibration.predicted is not None
    for number, name in enumerate(CLASSES):
        own = gate.calibration.scores[gate.calibration.predicted == number]
        for verdict in (verdict for verdict in verdicts if verdict.label == name):
            assert verdict.p_value == (1 + (own <= verdict.score).sum()) / (len(own) + 1)
            assert verdict.accepted == (verdict.p_value > 0.2)


# -------------------------------------------------------------------------------------------- any image


def test_images_may_come_in_many_forms(tmp_path: Path) -> None:
    gate, arrays = calibrated(), pixels(3)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    expected = gate(arrays)
    assert expected.id == ["array#0", "array#1", "array#2"]
    assert same(gate(np.stack(arrays)), expected)
    assert same(gate([Image.fromarray(array) for array in arrays]), expected)
    assert same(gate([path.read_bytes() for path in paths]), expected)
    assert same(gate(paths), expected)
    assert same(gate([str(path) for path in paths]), expected)
    assert same(gate(random_records(15, 9)[:3]), expected)
    folder = gate(tmp_path)
    assert same(folder, expected)
    assert folder.id == ["0.png", "1.png", "2.png"]
    for one in (paths[0], arrays[0], Image.fromarray(arrays[0])):
        assert gate(one)[0].score == pytest.approx(expected[0].score, rel=1e-6)


def test_prepared_tensors_must_be_called_so() -> None:
    gate, arrays = calibrated(), pixels(7)
    prepared = torch.from_numpy(PREPROCESSING(arrays))
    verdicts = gate(prepared, preprocessed=True, batch_size=3)
    assert same(verdicts, gate(arrays, batch_size=3))
    assert verdicts.id == [f"tensor#{i}" for i in range(7)]
    assert same(gate(prepared.double(), preprocessed=True, batch_size=3), verdicts)
    assert len(gate(prepared[:0], preprocessed=True)) == 0
    for tensor in (prepared, torch.from_numpy(np.stack(arrays))):
        with pytest.raises(GateError, match="preprocessed=True"):
            gate(tensor)
    odd: list[Any] = [arrays, prepared[0], prepared[:, :1], prepared[..., :4], torch.from_numpy(np.stack(arrays))]
    for images in odd:
        with pytest.raises(GateError, match=r"takes a float tensor of shape \(N, 3, 8, 8\)"):
            gate(images, preprocessed=True)


def test_an_unreadable_image_is_a_row_with_an_error(tmp_path: Path) -> None:
    gate, images = calibrated(), pixels()
    missing = tmp_path / "gone.png"
    verdicts = gate([images[0], b"no image", images[1], missing, images[2].astype(float)], batch_size=2)
    assert [verdict.error is None for verdict in verdicts] == [True, False, True, False, False]
    assert "not an image" in str(verdicts.error[1])
    assert "gone.png" in str(verdicts.error[3])
    assert "float64" in str(verdicts.error[4])
    for row in (1, 3, 4):
        assert verdicts[row].label is None
        assert not verdicts[row].accepted
        assert np.isnan([verdicts[row].score, verdicts[row].p_value, verdicts[row].probability]).all()
    assert verdicts.score[[0, 2]].tolist() == pytest.approx(gate(images[:2]).score.tolist(), rel=1e-6)
    assert len(gate([b"no image"])) == 1


def test_of_no_images_there_are_no_verdicts(tmp_path: Path) -> None:
    gate = calibrated()
    assert len(gate([])) == len(gate(np.zeros((0, 8, 8, 3), np.uint8))) == 0
    with pytest.raises(SourceError, match="no image"):
        gate(tmp_path)
    with pytest.raises(SourceError, match="no image"):
        calibrated(calibration=[])


def test_sources_are_opened_once() -> None:
    """To find the classes, a data set without their names is read once, and once more for its images."""
    seen: Counter[int] = Counter()
    records = random_records(60, 1)

    class Images:
        def __len__(self) -> int:
            return len(records)

        def __getitem__(self, index: int) -> tuple[Any, str]:
            seen[index] += 1
            return records[index].payload, str(records[index].label)

    made = calibrated(train=Images())
    assert made.classes == CLASSES
    assert {seen[index] for index in range(1, 60)} == {2}
    seen.clear()
    normgate.evaluate(small_network(), Images(), {}, preprocessing=PREPROCESSING, scores=["msp"])
    assert {seen[index] for index in range(1, 60)} == {2}


def test_labels_may_be_class_numbers() -> None:
    train = random_records(60, 1)
    numbers = [CLASSES.index(str(record.label)) for record in train]
    images = [record.payload for record in train]
    named = calibrated(classes=CLASSES)
    numbered = calibrated(train=(images, numbers), classes=CLASSES)
    assert torch.equal(named.kept["train"].labels, numbered.kept["train"].labels)
    found = normgate.evaluate(named, (images, np.array(numbers)), {}, scores=["msp"])
    assert found.accuracy == normgate.evaluate(named, train, {}, scores=["msp"]).accuracy
    with pytest.raises(FeatureError, match="label '3', which is none of the 3 classes"):
        calibrated(train=(images, [number + 1 for number in numbers]), classes=CLASSES)
    with pytest.raises(FeatureError, match="label '2', which is none"):  # here numbers are names
        calibrated(train=(images, numbers), classes=("0", "1", "7"))


def test_outputs_in_another_order_than_the_names_are_pointed_out() -> None:
    network = small_network()
    images = [record.payload for record in random_records(200, 1)]
    said = calibrated(network, classes=CLASSES)(images).label
    with pytest.warns(normgate.NormgateWarning, match="right on 0% of the labelled images, .* on 100%"):
        calibrated(network, train=(images, said), classes=CLASSES[1:] + CLASSES[:1])


def test_modes_and_autocast_around_change_nothing() -> None:
    network = small_network()
    gate = calibrated(network, score="knn")
    expected = gate(pixels())
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(gate(pixels()), expected)
        assert np.array_equal(calibrated(network, score="knn").calibration.scores, gate.calibration.scores)
    assert network.training


# -------------------------------------------------------------------------------------------- what is kept


def test_held_out_images_with_labels_tell_how_often_the_network_is_right() -> None:
    gate = calibrated()
    own = [*random_records(30, 2), *random_records(40, 3)]
    found = gate([record.payload for record in own]).label
    assert gate.held_out == (sum(label == record.label for label, record in zip(found, own, strict=True)), 70)
    some = Records([*random_records(10, 3), *(Record(str(i), image) for i, image in enumerate(pixels(30)))], CLASSES)
    assert calibrated(tuning=None, calibration=some).held_out is None  # not all have a label
    bare = calibrated(tuning=pixels(30), calibration=random_records(40, 3))
    assert bare.kept["tuning"].labels is None
    assert bare.held_out is not None
    assert bare.held_out[1] == 40
    assert calibrated(tuning=None, calibration=pixels(40)).held_out is None
    assert calibrated(lean=True).held_out is None


def test_gates_features_and_results_are_shown_on_one_line() -> None:
    gate = calibrated()
    assert repr(gate) == "<Gate: Sequential, 3 classes, norm, α 0.05, 40 calibration images>"
    width = gate.kept["train"].z.shape[1]
    assert repr(gate.kept["train"]) == f"<Features: 60 images, {width} dimensions, 3 classes>"
    unlabelled = dataclasses.replace(gate.kept["train"], labels=None)
    assert repr(unlabelled) == f"<Features: 60 images, {width} dimensions, 3 classes, no labels>"
    found = normgate.evaluate(gate, random_records(20, 5), {"far": [FLAT]}, scores=["msp"])
    assert repr(found) == f"<Evaluation: 1 score of 20 images against far, accuracy {found.accuracy:.1%}>"
    assert repr(found.risk_coverage("msp", "outliers", "far")).startswith("<RiskCoverage: ")


def test_what_a_gate_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normgate.gate.sets.KEPT_ROWS", 30)
    gate = calibrated()
    sizes = {"train": 30, "tuning": 30, "probes": 30 * len(PROBES), "calibration": 40}
    assert {name: len(part) for name, part in gate.kept.items()} == sizes
    labels = gate.kept["train"].labels
    assert labels is not None
    assert torch.bincount(labels).tolist() == [10, 10, 10]
    assert gate.kept["tuning"].labels is not None  # its images have the gate's classes
    assert all(part.digests is None for part in gate.kept.values())
    assert {name: len(part) for name, part in gate.digests.items()} == {"train": 60, "tuning": 30, "calibration": 40}


def test_scores_are_fitted_to_all_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrated(score="mahalanobis")
    monkeypatch.setattr("normgate.gate.sets.KEPT_ROWS", 30)
    assert np.array_equal(calibrated(score="mahalanobis").calibration.scores, whole.calibration.scores)


def test_a_score_that_is_passed_stays_as_it_is() -> None:
    """Two gates of one score object do not share what it learned."""
    score = scores.create("knn", k=3)
    gate = calibrated(score=score)
    before = gate(pixels())
    calibrated(small_network(5), score=score)
    gate.recalibrate(train=random_records(80, 21), score=score)
    assert same(gate(pixels()), before)
    assert score.state == {}
    assert gate.score.settings["k"] == 3


def test_provenance_is_plain_data() -> None:
    given = {"by": ("me", 1), "deep": {"a": [1.5, None, True]}}
    gate = calibrated(provenance=given)
    assert gate.provenance == {"by": ["me", 1], "deep": {"a": [1.5, None, True]}}
    given["deep"]["a"].append(2)
    assert gate.provenance["deep"]["a"] == [1.5, None, True]
    for bad in ({"a": object()}, {"a": float("nan")}, {"a": np.float32(1)}, [1, 2]):
        with pytest.raises(GateError, match="plain data"):
            calibrated(provenance=bad)


def test_class_names_are_text_in_the_order_of_the_outputs() -> None:
    gate = calibrated(train=None, classes=range(3))
    assert gate.classes == ("0", "1", "2")
    assert set(gate(pixels()).label) <= {"0", "1", "2"}
    assert calibrated().classes == CLASSES
    assert calibrated(classes=["owl", "cat", "dog"]).classes == ("owl", "cat", "dog")


def test_a_class_folder_gives_classes_and_labels(class_folders: Path) -> None:
    half = Preprocessing((8, 8))
    images = sorted(class_folders.rglob("*.png"))
    gate = calibrated(train=class_folders, preprocessing=half, score="mahalanobis")
    assert gate.classes == CLASSES
    labels = gate.kept["train"].labels
    assert labels is not None
    assert labels.tolist() == [CLASSES.index(path.parent.name) for path in images]
    assert gate.kept["train"].ids == tuple(path.relative_to(class_folders).as_posix() for path in images)


# ---------------------------------------------------------------------------------------- asked again


def test_another_rate_needs_no_images() -> None:
    gate = calibrated()
    looser = gate.recalibrate(false_alarm_rate=0.2)
    assert looser.calibration.alpha == 0.2
    assert gate.calibration.alpha == 0.05
    assert np.array_equal(looser.calibration.scores, gate.calibration.scores)
    assert looser(pixels()).accepted.tolist() == (gate(pixels()).p_value > 0.2).tolist()


@pytest.mark.parametrize(
    "name", sorted(set(scores.names()) - {"norm_gain", "norm_profile"})
)  # the network tells no stages
def test_another_score_from_kept_features_is_that_of_a_new_gate(name: str) -> None:
    gate = calibrated().recalibrate(score=name)
    assert gate.score.name == name
    assert same(gate(pixels()), calibrated(score=name)(pixels()))


def test_new_calibration_images() -> None:
    gate = calibrated()
    new = gate.recalibrate(random_records(50, 12))
    assert new.calibration.n == 50
    assert gate.calibration.n == 40
    assert same(new(pixels()), calibrated(calibration=random_records(50, 12))(pixels()))
    assert len(new.kept["calibration"]) == len(new.digests["calibration"]) == 50
    assert new.kept["train"] is not None
    assert len(new.recalibrate(random_records(40, 3)).digests["calibration"]) == 40  # the first set may come back


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ((CLASSES[0], CLASSES[1], "kite"), "others (kite)"),
        ((CLASSES[0], CLASSES[1], "kite", *"abcdefgh"), "others (a, b, c, d, e, f, g, h, …)"),
        (CLASSES, None),
        (("2024-05-01", "2024-05-02", CLASSES[0]), None),  # a camera of that name, for all we know
        ((CLASSES[0], CLASSES[1], ""), None),
    ],
)
def test_calibration_images_in_folders_of_no_class_are_pointed_out(
    folders: tuple[str, ...], said: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    names = [f"{folders[row % len(folders)]}/{row}.png".removeprefix("/") for row in range(40)]
    images = [Record(name, record.payload) for name, record in zip(names, random_records(40, 8), strict=True)]
    calibrated().recalibrate(Records(images), false_alarm_rate=0.1)
    warned = [warning for warning in recwarn if "in folders" in str(warning.message)]
    assert len(warned) == (said is not None)
    for warning in warned:
        assert str(warning.message).startswith("calibration images")
        assert str(said) in str(warning.message)
        assert warning.filename == __file__


def test_images_in_folders_of_the_classes_say_how_many_are_right(class_folders: Path) -> None:
    gate = calibrated(tuning=None, calibration=class_folders, classes=CLASSES, false_alarm_rate=0.1)
    kept = gate.kept["calibration"]
    labels = [CLASSES.index(name.partition("/")[0]) for name in kept.ids]
    assert kept.labels.tolist() == labels
    right = sum(map(int.__eq__, kept.logits.argmax(dim=1).tolist(), labels))
    assert gate.held_out == (right, len(labels))
    Image.fromarray(pixels(1)[0]).save(class_folders / "loose.png")
    loose = calibrated(calibration=class_folders, classes=CLASSES, false_alarm_rate=0.1)
    assert loose.kept["calibration"].labels is None


def test_slips_in_python_are_told_as_such(tmp_path: Path) -> None:
    gate = calibrated()
    gate.save(tmp_path / "gates" / "mine")
    for slip, said in (
        (lambda: calibrated(preprocessing=transforms.ToTensor()), "from_torchvision"),
        (lambda: Gate.load(tmp_path / "gates" / "mine", model=torch.nn.Linear), "takes the network, as in model=Net"),
        (lambda: Gate.load(tmp_path / "gates"), "mine is one"),
        (lambda: PortableGate.load(tmp_path / "gates" / "mine"), "Gate.load"),
        (lambda: normgate.screen(str(tmp_path), tmp_path, tmp_path / "v"), "takes a gate, and not its place"),
        (lambda: normgate.evaluate(gate, pixels(), [pixels()]), "ood= names its sets"),
        (lambda: gate_figure("probes", [gate], tmp_path / "f.svg"), "gates= names its gates"),
        (lambda: export("g.onnx", gate), "export(gate, path) writes a gate"),
    ):
        with pytest.raises(NormgateError, match=re.escape(said)):
            slip()


def test_new_training_images_refit_the_score_with_its_settings() -> None:
    gate = calibrated(score=scores.create("knn", k=3)).recalibrate(train=random_records(66, 13))
    assert gate.score.settings["k"] == 3
    assert len(gate.score.state["bank"]) == len(gate.kept["train"]) == 66
    assert len(gate.digests["train"]) == 60 + 66
    fresh = calibrated(train=random_records(66, 13), score=scores.create("knn", k=3))
    assert same(gate(pixels()), fresh(pixels()))


def test_everything_at_once() -> None:
    given: dict[str, Any] = {"train": random_records(66, 13), "score": "mahalanobis", "false_alarm_rate": 0.2}
    new = calibrated().recalibrate(random_records(200, 12), by_class=True, **given)
    fresh = calibrated(calibration=random_records(200, 12), by_class=True, **given)
    assert same(new(pixels()), fresh(pixels()))
    assert new.calibration.by_class
    assert not new.recalibrate(by_class=False).calibration.by_class
    assert new.recalibrate(false_alarm_rate=0.3).calibration.by_class


def test_a_lean_gate_keeps_no_features_and_stays_lean() -> None:
    gate = calibrated(lean=True, score="knn")
    assert gate.kept == {}
    assert same(gate(pixels()), calibrated(score="knn")(pixels()))
    looser = gate.recalibrate(false_alarm_rate=0.2)
    assert looser.calibration.alpha == 0.2
    new = gate.recalibrate(random_records(50, 12))
    assert new.calibration.n == 50
    assert new.kept == looser.kept == {}
    assert gate.recalibrate(random_records(50, 12), score="energy").score.name == "energy"
    refitted = gate.recalibrate(random_records(50, 12), train=random_records(66, 13))
    assert len(refitted.score.state["bank"]) == 66
    for options in ({"score": "energy"}, {"by_class": True}, {"train": random_records(66, 13)}):
        with pytest.raises(GateError, match="lean gate keeps no calibration features; pass calibration images"):
            gate.recalibrate(**options)
    with pytest.raises(GateError, match=r"mahalanobis is fitted to training images.*pass train= \(--train\)"):
        gate.recalibrate(random_records(50, 12), score="mahalanobis")
    assert calibrated().recalibrate(lean=True).kept == {}


def test_recalibration_keeps_network_and_provenance() -> None:
    gate = calibrated(provenance={"made": "here"})
    new = gate.recalibrate(score="energy")
    assert new.extractor is gate.extractor
    assert new.provenance == {"made": "here"}
    assert new.digests == gate.digests


# ------------------------------------------------------------------------------------------- shared images


def test_shared_images_are_counted_or_dropped_from_the_later_set() -> None:
    shared = random_records(60, 1)
    mixed = Records([*random_records(40, 3), *shared[:5]], CLASSES)
    with pytest.raises(DuplicateError, match="5 in train and calibration"):
        calibrated(calibration=mixed)
    dropped = calibrated(calibration=mixed, drop_duplicates=True)
    assert np.array_equal(dropped.calibration.scores, calibrated().calibration.scores)
    tuning = Records([*random_records(30, 2), *shared[:2], *random_records(40, 3)[:1]])
    with pytest.raises(DuplicateError, match="2 in train and tuning, 5 in train and calibration, 3 in tuning and cal"):
        calibrated(calibration=mixed, tuning=tuning)
    both = calibrated(calibration=mixed, tuning=tuning, drop_duplicates=True)
    assert {name: len(part) for name, part in both.digests.items()} == {"train": 60, "tuning": 31, "calibration": 39}


def test_the_same_picture_in_another_file_is_shared() -> None:
    buffer = io.BytesIO()
    Image.fromarray(random_records(60, 1)[0].payload).save(buffer, "PNG")
    with pytest.raises(DuplicateError, match="1 in train and calibration"):
        calibrated(calibration=Records([*random_records(40, 3), Record("copy.png", buffer.getvalue())]))


@pytest.mark.parametrize("lean", [False, True])
def test_images_of_earlier_sets_are_remembered(lean: bool) -> None:
    gate = calibrated(lean=lean)
    mixed = Records([*random_records(40, 12), random_records(60, 1)[0], random_records(30, 2)[0]])
    with pytest.raises(DuplicateError, match="1 in train and calibration, 1 in tuning and calibration"):
        gate.recalibrate(mixed)
    assert gate.recalibrate(mixed, drop_duplicates=True).calibration.n == 40


def test_new_training_images_give_way_to_calibration_images_that_stay() -> None:
    gate = calibrated()
    train = Records([*random_records(60, 13), *random_records(40, 3)[:3], random_records(30, 2)[0]], CLASSES)
    with pytest.raises(DuplicateError, match="1 in train and tuning, 3 in train and calibration"):
        gate.recalibrate(train=train, score="knn")
    assert len(gate.recalibrate(train=train, score="knn", drop_duplicates=True).kept["train"]) == 60
    # Calibration images that are new, too, are the later set.
    both = gate.recalibrate(random_records(40, 3), train=train, score="knn", drop_duplicates=True)
    assert {name: len(part) for name, part in both.digests.items()} == {"train": 123, "tuning": 30, "calibration": 37}


def test_what_the_network_was_trained_on_never_calibrates_it() -> None:
    """Be it that the score is fitted to other images since."""
    gate = calibrated()
    for options in ({}, {"train": random_records(60, 13)}):
        with pytest.raises(DuplicateError, match="60 in train and calibration"):
            gate.recalibrate(random_records(60, 1), **options)
        gate = gate.recalibrate(train=random_records(60, 13))
    own = [*random_records(60, 1)[:20], *random_records(40, 12)]
    assert gate.recalibrate(Records(own), train=random_records(60, 14), drop_duplicates=True).calibration.n == 40


def test_nothing_left_is_said() -> None:
    with pytest.raises(GateError, match="every calibration image is in another set"):
        calibrated(calibration=random_records(60, 1), drop_duplicates=True)
    with pytest.raises(GateError, match="every train image is in another set"):
        calibrated().recalibrate(train=random_records(30, 2), score="knn", drop_duplicates=True)


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"calibration": random_records(18, 3)},
            CalibrationError,
            "needs at least 19 calibration .* are 18",
        ),
        ({"by_class": True}, CalibrationError, "by class needs at least 19 .* in each predicted class"),
        ({"train": None, "classes": CLASSES, "score": "knn"}, GateError, "knn is fitted .*--train"),
        ({"train": None}, GateError, "names of the classes are not known; pass classes="),
        ({"classes": ["a", "b"]}, FeatureError, "3 outputs, and 2 different classes"),
        ({"classes": ["a", "b", "b"]}, FeatureError, "3 outputs, and 2 different classes"),
        ({"classes": ["a", "b", "c"]}, FeatureError, "'cat', which is none of the 3 classes"),
        (
            {"tuning": [b"no image", *pixels(3)]},
            NormgateError,
            r"(?s)1 tuning image cannot be used; .*--skip-unreadable.*array#0: not an",
        ),
        ({"tuning": [b"no image"], "skip_unreadable": True}, FeatureError, "no image that can be read"),
        ({"score": "nrom"}, ScoreError, "did you mean 'norm'"),
        ({"preprocessing": Preprocessing((9, 9))}, FeatureError, "does not take a batch"),
        ({"train": pixels(5)}, SourceError, "labels are needed"),
    ],
)
def test_bad_input_names_the_fix(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        calibrated(**options)


def test_unreadable_images_can_be_left_out() -> None:
    gate = calibrated(tuning=[b"no image", *pixels(3)], skip_unreadable=True)
    assert len(gate.kept["tuning"]) == len(gate.digests["tuning"]) == 3


@pytest.mark.parametrize(
    "options", [{"score": "nrom"}, {"false_alarm_rate": 5}, {"false_alarm_rate": 0}, {"provenance": {"a": object()}}]
)
def test_what_cannot_work_is_said_before_any_image_is_read(options: dict[str, Any]) -> None:
    network = small_network()
    seen: list[object] = []
    network.register_forward_pre_hook(lambda _, args: seen.append(args))
    with pytest.raises(normgate.NormgateError):
        calibrated(network, **options)
    assert not seen
    gate = calibrated(network)
    seen.clear()
    if "provenance" not in options:
        with pytest.raises(normgate.NormgateError):
            gate.recalibrate(random_records(50, 12), **options)
    assert not seen


def test_norm_is_refused_where_norms_do_not_vary() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.LayerNorm(16), nn.Linear(16, 3))
    assert calibrated(network).score.name == "norm"  # of the vector before the LayerNorm
    with pytest.raises(GateError, match=r"norm cannot be used: .*hardly vary.*choose another score"):
        calibrated(network, features="3")
    energy = calibrated(network, features="3", score="energy")
    with pytest.raises(GateError, match="hardly vary"):
        energy.recalibrate(score="norm")


def test_gates_are_values() -> None:
    gate = calibrated()
    with pytest.raises(dataclasses.FrozenInstanceError):
        gate.classes = ()


def test_arguments_that_make_no_sense_are_errors() -> None:
    gate = calibrated()
    for options in ({"batch_size": 0}, {"batch_size": -3}, {"workers": -1}):
        with pytest.raises(NormgateError, match="at least"):
            gate(pixels(2), **options)
    with pytest.raises(GateError, match="at least 1"):
        gate(torch.zeros(2, 3, 8, 8), preprocessed=True, batch_size=0)
    assert len(gate(Records([]))) == 0


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def labelled(count: int, seed: int, names: list[str]) -> tuple[list[np.ndarray], list[str]]:
    records = random_records(count, seed)
    return [record.payload for record in records], [names[i % len(names)] for i in range(count)]


@pytest.mark.parametrize("names", [list(CLASSES), ["0", "1", "2"]])
def test_labels_of_held_out_images_are_taken_however_they_are_given(
    names: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    sets = {"tuning": labelled(30, 2, names), "calibration": labelled(40, 3, names)}
    gate = calibrated(**sets)
    assert gate.held_out == calibrated().held_out
    assert gate.held_out is not None
    assert gate.held_out.images == 70
    for name, (images, labels) in sets.items():
        table = pa.table({"image": [png(image) for image in images], "label": labels})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    tables = {name: tmp_path / f"{name}.parquet" for name in sets}
    assert calibrated(**tables).held_out == gate.held_out
    assert gate.recalibrate(sets["calibration"], tuning=tables["tuning"]).held_out == gate.held_out
    assert not [warning for warning in recwarn if "no class" in str(warning.message)]


def test_labels_that_are_no_class_are_pointed_out() -> None:
    unknown = labelled(40, 3, ["zebra", "cat"])
    with pytest.warns(NormgateWarning, match=r"calibration images have labels that are no class \(zebra\)"):
        gate = calibrated(calibration=unknown)
    assert gate.held_out == calibrated(calibration=pixels(40)).held_out  # of the tuning images alone
    with pytest.warns(NormgateWarning, match=r"tuning images have labels that are no class \(zebra\)"):
        gate.recalibrate(tuning=labelled(30, 4, ["zebra", "cat"]))


def test_a_class_that_no_held_out_image_has_is_no_other_class(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    images, labels = labelled(40, 3, list(CLASSES))
    told = {"info": {"features": {"label": {"names": [*CLASSES, "zebra"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [png(image) for image in images], "label": [CLASSES.index(label) for label in labels]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(told)}), tmp_path / "c.parquet")
    gate = calibrated(calibration=tmp_path / "c.parquet")
    assert gate.kept["calibration"].labels is not None
    assert not [warning for warning in recwarn if "no class" in str(warning.message)]


def test_labels_of_some_images_alone_are_not_looked_at(tmp_path: Path) -> None:
    images, labels = labelled(40, 3, list(CLASSES))
    some = [None, *labels[1:]]
    pq.write_table(pa.table({"image": [png(image) for image in images], "label": some}), tmp_path / "c.parquet")
    for given, why in (
        (tmp_path / "c.parquet", "has no label"),
        ((images, labels[1:]), "40 images and 39 labels"),
        ((images, some), "must be names or whole numbers"),
    ):
        with pytest.warns(NormgateWarning, match=rf"no label of these images is looked at: .*{why}"):
            gate = calibrated(calibration=given)
        assert gate.kept["calibration"].labels is None
    pairs = zip(random_records(40, 3), some, strict=True)
    records = [dataclasses.replace(record, label=label) for record, label in pairs]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*label")
        assert calibrated(calibration=Records(records, CLASSES)).kept["calibration"].labels is None


def test_what_is_no_score_is_told_from_a_wrong_name() -> None:
    with pytest.raises(GateError, match="is neither the name of a score nor a score"):
        calibrated(score=lambda features: features.z[:, 0])
