"""Exported gates: the same verdicts without torch, and nothing of a stranger's file is run."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import normgate
from normgate import Backbone, Gate, scores
from normgate.cli import DONE, USAGE, run
from normgate.data.preprocessing import Preprocessing
from normgate.export import ExportError, export
from normgate.features import Features, Rows
from normgate.files import OutputError
from normgate.runtime import KEY, PortableGate, RuntimeFileError
from normgate.verdicts import NOT_FINITE
from samples import (
    CLASSES,
    FLAT,
    PREPROCESSING,
    overflowing_network,
    random_features,
    random_records,
    small_network,
)

ROOT = Path(__file__).parent.parent
IMAGES = [record.payload for record in random_records(33, 9)]


@functools.cache
def gate(score: str = "mahalanobis", by_class: bool = False, standardize: bool = False) -> Gate:
    return Gate.calibrate(
        small_network(),
        preprocessing=Preprocessing((8, 8), standardize=True) if standardize else PREPROCESSING,
        train=random_records(90, 1),
        tuning=random_records(60, 2),
        calibration=random_records(300, 3),
        score=score,
        false_alarm_rate=0.1,
        by_class=by_class,
    )


def same(own: Gate, exported: PortableGate, batch_size: int = 7) -> None:
    """Labels equal, scores within 1e-4 of their size or spread, decisions and p-values equal but at a threshold."""
    there, here = exported(IMAGES, batch_size=batch_size), own(IMAGES)
    spread = np.subtract(*np.quantile(own.calibration.scores, [0.75, 0.25]))
    tolerance = 1e-4 * np.maximum(np.abs(here.score), spread)
    assert list(there.label) == list(here.label)
    assert (np.abs(there.score - here.score) <= tolerance).all()
    np.testing.assert_allclose(there.probability, here.probability, atol=1e-5)
    if not own.calibration.by_class:
        near = np.abs(here.score[:, None] - own.calibration.scores).min(axis=1) <= tolerance
        assert (there.accepted == here.accepted)[~near].all()
        np.testing.assert_array_equal(there.p_value[~near], here.p_value[~near])


@pytest.mark.parametrize("name", sorted(scores.names()))
def test_what_is_traced_is_the_score(name: str) -> None:
    train, tuning, query = random_features(90, 0), random_features(101, 1), random_features(50, 2)
    stages = {"stage_norms": torch.rand(50, 3, generator=torch.Generator().manual_seed(0))}
    query = dataclasses.replace(query, **stages)
    score = scores.create(name).fit(train, tuning)
    rows = Rows(**{field.name: getattr(query, field.name) for field in dataclasses.fields(Features)})
    expected = score(query).numpy()
    np.testing.assert_allclose(score.traced(rows).numpy(), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["norm", "energy", "knn", "gmm", "polar", "fdbd"])
def test_an_exported_gate_says_the_same(name: str, tmp_path: Path) -> None:
    export(gate(name), tmp_path / "g.onnx")
    same(gate(name), PortableGate.load(tmp_path / "g.onnx", threads=1))
    assert [path.name for path in tmp_path.iterdir() if "onnx" in path.name] == ["g.onnx"]


@pytest.mark.parametrize("options", [{"by_class": True}, {"standardize": True}])
def test_thresholds_by_class_and_standardised_images(options: dict[str, bool], tmp_path: Path) -> None:
    export(gate(**options), tmp_path / "g.onnx")
    exported = PortableGate.load(tmp_path / "g.onnx", threads=1)
    same(gate(**options), exported)
    if "by_class" in options:
        there, here = exported(IMAGES), gate(**options)(IMAGES)
        assert (there.accepted == here.accepted).mean() > 0.9


@pytest.mark.parametrize("name", ["norm_gain", "norm_profile"])
def test_a_timm_network_with_early_stages(name: str, tmp_path: Path) -> None:
    backbone = Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]})
    torch.manual_seed(0)
    own = Gate.calibrate(
        backbone.build(),
        preprocessing=Preprocessing((8, 8)),
        classes=CLASSES,
        train=random_records(90, 1),
        calibration=random_records(60, 3),
        score=name,
        backbone=backbone,
    )
    own.save(tmp_path / "gate")
    assert run(["export", str(tmp_path / "gate"), "-o", str(tmp_path / "g.onnx")]) == DONE
    same(own, PortableGate.load(tmp_path / "g.onnx", threads=1))
    assert run(["export", str(tmp_path / "gate"), "-o", str(tmp_path / "g.onnx")]) == USAGE
    assert run(["export", str(tmp_path / "gate"), "-o", str(tmp_path / "g.pt")]) == USAGE


def test_a_learned_temperature_and_a_head_without_a_bias(tmp_path: Path) -> None:
    network = small_network()
    network[5].register_parameter("bias", None)
    normgate.l2norm(network, temperature="learned")
    torch.nn.init.constant_(network[5].log_temperature, -0.7)
    own = Gate.calibrate(
        network, preprocessing=PREPROCESSING, classes=CLASSES, calibration=random_records(60, 3), score="energy_raw"
    )
    export(own, tmp_path / "g.onnx")
    same(own, PortableGate.load(tmp_path / "g.onnx", threads=1))
    assert network[5].log_temperature.requires_grad


def test_gates_are_exported_in_several_threads(tmp_path: Path) -> None:
    gates = {"norm": gate("norm"), "knn": gate("knn")}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(export, own, tmp_path / f"{name}.onnx") for name, own in gates.items()]:
            done.result()
    for name, own in gates.items():
        same(own, PortableGate.load(tmp_path / f"{name}.onnx"))


def test_what_is_exported_leaves_no_trace(class_folders: Path, tmp_path: Path) -> None:
    """The same graph again, and training in the same process."""
    for name in ("first", "second"):
        export(gate(), tmp_path / f"{name}.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    recipe = normgate.Recipe(epochs=1, batch_size=8)
    options = {"width": 2, "model_args": {"layers": [1, 1, 1, 1]}, "false_alarm_rate": 0.2, "score": "norm"}
    normgate.train(class_folders, recipe=recipe, **options)


def test_batches_of_any_size_and_images_that_cannot_be_read(tmp_path: Path) -> None:
    export(gate(), tmp_path / "g.onnx")
    exported = PortableGate.load(tmp_path / "g.onnx", threads=1)
    for size in (1, 2, 33, 100):
        same(gate(), exported, size)
    (tmp_path / "broken.png").write_bytes(b"no image")
    verdicts = exported([IMAGES[0], tmp_path / "broken.png"])
    assert verdicts.error[0] is None
    assert "not an image" in str(verdicts.error[1])
    assert not verdicts.accepted[1]
    assert len(exported.judge(np.empty((0, 8, 8, 3), np.uint8))) == 0
    with pytest.raises(RuntimeFileError, match="cannot judge"):
        exported.judge(np.zeros((1, 9, 9, 3), np.uint8))


def test_an_image_that_cannot_be_judged_costs_the_others_nothing(tmp_path: Path) -> None:
    sets = {"calibration": random_records(40, 3), "classes": CLASSES}
    export(Gate.calibrate(overflowing_network(), preprocessing=PREPROCESSING, **sets), tmp_path / "g.onnx")
    exported = PortableGate.load(tmp_path / "g.onnx")
    verdicts = exported([IMAGES[0], FLAT, b"no image", IMAGES[1]])
    assert [verdicts.error[0], verdicts.error[1], verdicts.error[3]] == [None, NOT_FINITE, None]
    assert (verdicts.label[1], verdicts[1].accepted, np.isnan(verdicts.score[1])) == (None, False, True)
    np.testing.assert_allclose(verdicts.score[[0, 3]], exported(IMAGES[:2]).score, rtol=1e-5)
    assert list(exported([FLAT]).error) == [NOT_FINITE]


@pytest.mark.parametrize("chosen", [None, "0"])
def test_nothing_is_reported_home_unless_somebody_chose_it(
    chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    if chosen is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    export(gate("norm"), tmp_path / "g.onnx")
    PortableGate.load(tmp_path / "g.onnx")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == (chosen or "1")


@pytest.mark.parametrize("by_class", [True, False])
def test_an_exported_gate_holds_its_calibration(by_class: bool, tmp_path: Path) -> None:
    own = gate(by_class=by_class)
    export(own, tmp_path / "g.onnx")
    exported = PortableGate.load(tmp_path / "g.onnx")
    for name in ("scores", "alpha", "thresholds", "sizes", "by_class"):
        np.testing.assert_array_equal(getattr(exported.calibration, name), getattr(own.calibration, name))
    assert exported.score_name == own.score_name
    verdicts = exported(IMAGES)
    predicted = [exported.classes.index(label) for label in verdicts.label]
    p_values = exported.calibration.p_values(verdicts.score, predicted if by_class else None)
    np.testing.assert_array_equal(p_values, verdicts.p_value)  # so the graph's is the same
    stream = own(IMAGES).score
    np.testing.assert_array_equal(exported.shift_alarm(seed=3).update(stream), own.shift_alarm(seed=3).update(stream))
    export(dataclasses.replace(own, kept={}), tmp_path / "lean.onnx")
    with pytest.raises(RuntimeFileError, match="without --lean, and export it again"):
        PortableGate.load(tmp_path / "lean.onnx").shift_alarm()


@pytest.mark.parametrize("probed", [True, False])
def test_an_exported_gate_says_what_its_score_would_miss(probed: bool, tmp_path: Path) -> None:
    own = gate("norm") if probed else dataclasses.replace(gate("norm"), probes=None)
    export(own, tmp_path / "g.onnx")
    assert PortableGate.load(tmp_path / "g.onnx").caveats == own.caveats
    assert own.caveats


def test_no_torch_is_needed(tmp_path: Path) -> None:
    """In an environment with ONNX Runtime, NumPy, Pillow and the wheel without its dependencies."""
    export(gate(), tmp_path / "g.onnx")
    expected = gate()(IMAGES)
    np.save(tmp_path / "images.npy", np.stack(IMAGES))
    place = tmp_path / "env"
    venv.create(place, with_pip=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    done = subprocess.run(
        [*pip, "install", *constraints, "onnxruntime", "numpy", "pillow"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"packages cannot be installed here: {done.stderr.splitlines()[-1:]}")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*wheel, str(ROOT)], check=True)
    (built,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", str(built)], check=True)
    code = (
        "import json, sys, numpy\\n"
        "from normgate.runtime import PortableGate\\n"
        "verdicts = PortableGate.load('g.onnx')(numpy.load('images.npy'))\\n"
        "absent = [name for name in ('torch', 'pyarrow', 'timm') if name in sys.modules]\\n"
        "print(json.dumps([list(verdicts.label), verdicts.score.tolist(), absent]))"
    ).replace("\\n", "\n")
    done = subprocess.run([place / "bin" / "python", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    label, score, absent = json.loads(done.stdout)
    assert label == list(expected.label)
    np.testing.assert_allclose(score, expected.score, rtol=1e-4)
    assert absent == []


def changed(path: Path, **about: object) -> Path:
    """A copy of an exported gate whose metadata say something else."""
    model = onnx.load(path)
    (entry,) = (prop for prop in model.metadata_props if prop.key == KEY)
    entry.value = json.dumps({**json.loads(entry.value), **about})
    onnx.save(model, path.with_name("changed.onnx"))
    return path.with_name("changed.onnx")


def test_files_of_strangers_are_refused(tmp_path: Path) -> None:
    export(gate(), tmp_path / "g.onnx")
    whole = (tmp_path / "g.onnx").read_bytes()
    bad = tmp_path / "bad.onnx"
    for content in (b"", b"no graph", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(RuntimeFileError, match="no graph that ONNX Runtime can load"):
            PortableGate.load(bad)
    with pytest.raises(RuntimeFileError, match="cannot be read"):
        PortableGate.load(tmp_path / "none.onnx")
    for about in (
        {"format": 1},
        {"preprocessing": {}},
        {"classes": 3},
        {"preprocessing": {"size": [9, 9]}},
        {"classes": [*CLASSES, "more"]},
        {"classes": list(CLASSES[:2])},
        {"classes": "".join(CLASSES)[:3]},
        {"classes": [1, 2, 3]},
        {"classes": [*CLASSES[:2], "\ud800"]},
        {"score": 3},
        {"score": "\ud800"},
        {"calibration_scores": [10**400] * 300},
        {"false_alarm_rate": 10**400},
        {"tuning_scores": [10**400]},
        {"tuning_scores": [float("nan")]},
        {"tuning_scores": []},
        {"calibration_scores": ["high"]},
        {"calibration_scores": [1.0]},
        {"calibration_scores": [[1.0] * 90]},
        {"false_alarm_rate": 2},
        {"predicted": [7] * 300},
        {"tuning_scores": {}},
        {"caveats": None},
    ):
        with pytest.raises(RuntimeFileError, match=r"another version|no gate that normgate has exported"):
            PortableGate.load(changed(tmp_path / "g.onnx", **about))
    model = onnx.load(tmp_path / "g.onnx")
    (entry,) = (prop for prop in model.metadata_props if prop.key == KEY)
    entry.value = "[" * 200_000
    onnx.save(model, bad)
    with pytest.raises(RuntimeFileError, match="no gate that normgate has exported"):
        PortableGate.load(bad)
    # A graph of somebody else's, and one that would read another file.
    torch.onnx.export(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), bad, dynamo=True, verbose=False)
    with pytest.raises(RuntimeFileError):
        PortableGate.load(bad)
    model = onnx.load(tmp_path / "g.onnx")
    onnx.save(model, bad, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(RuntimeFileError):
        PortableGate.load(bad)


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            return self.fc(x * 2 if float(x.sum()) > 0 else x)

    own = Gate.calibrate(Moody(), preprocessing=PREPROCESSING, classes=CLASSES, calibration=random_records(60, 3))
    with pytest.raises(ExportError, match="Moody with norm cannot be written as a graph"):
        export(own, tmp_path / "g.onnx")
    with pytest.raises(ExportError, match=r"name it g\.onnx"):
        export(own, tmp_path / "g.pb")
    (tmp_path / "g.onnx").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        export(gate(), tmp_path / "g.onnx")
    assert (tmp_path / "g.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.23.2", r"1\.23\.2.*'onnxruntime>=1\.24'"),
        ("1", "upgrade"),
        ("main", "upgrade"),
        ("1.24rc1", None),
        ("1.24.0+cu12", None),
        ("2.0.0.dev20270101", None),
    ],
)
def test_an_onnx_runtime_that_reads_other_files_is_refused(
    version: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(gate(), tmp_path / "g.onnx")
    monkeypatch.setattr("onnxruntime.__version__", version)
    with contextlib.nullcontext() if said is None else pytest.raises(RuntimeFileError, match=said):
        PortableGate.load(tmp_path / "g.onnx")


@pytest.mark.parametrize("place", ["w.bin", "../w.bin", "{here}/w.bin"])
def test_a_graph_reads_no_other_file(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(gate(), tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    for folder in (tmp_path, tmp_path / "in"):
        folder.mkdir(exist_ok=True)
        (folder / "w.bin").write_bytes(largest.raw_data)
    entries = {"location": place.format(here=tmp_path), "offset": "0", "length": str(len(largest.raw_data))}
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        entry = largest.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "in" / "g.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(RuntimeFileError):
        PortableGate.load("g.onnx")
