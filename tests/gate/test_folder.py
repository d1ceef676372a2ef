"""Gates on disk: what comes back, and what damaged, foreign and hostile folders are told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import normgate
from normgate import Gate, scores
from normgate.data.preprocessing import Preprocessing
from normgate.errors import NormgateError, NormgateWarning, ProbeWarning
from normgate.export import ExportError, export
from normgate.features import Features
from normgate.files import OutputError
from normgate.gate import GateError, Verdicts
from normgate.gate.folder import GateFolderError
from normgate.normalization import is_normalized, temperature
from normgate.verdicts import NOT_FINITE
from samples import CLASSES, PREPROCESSING, random_records, small_network

STAGED = ("norm_gain", "norm_profile")  # networks from timm tell their stages
SLIM = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]})
FILES = ("network", "score", "calibration", "digests", "features-train", "features-tuning", "features-probes")


def calibrated(network: nn.Module, **options: Any) -> Gate:
    sets = {"train": random_records(60, 1), "tuning": random_records(24, 2), "calibration": random_records(40, 3)}
    return Gate.calibrate(network, **{"preprocessing": PREPROCESSING, "score": "gmm", "workers": 0, **sets, **options})


def asked(gate: Gate) -> Verdicts:
    return gate([record.payload for record in random_records(15, 9)], workers=0)


def same(one: Verdicts, other: Verdicts) -> bool:
    """Bit for bit."""
    columns = ("probability", "score", "p_value", "accepted")
    return list(one.label) == list(other.label) and all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in columns
    )


@pytest.fixture(scope="module")
def slim() -> Gate:
    """A gate whose network timm can rebuild, and tells stages."""
    torch.manual_seed(0)
    return calibrated(SLIM.build(), backbone=SLIM)


@pytest.fixture(scope="module")
def small() -> Gate:
    """A gate whose network timm cannot rebuild."""
    return calibrated(small_network())


@pytest.fixture(scope="module")
def saved(slim: Gate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "gate"
    slim.save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "gate"))


# ------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("name", sorted(scores.names()))
def test_what_is_loaded_gives_the_same_verdicts_bit_for_bit(name: str, slim: Gate, small: Gate, tmp_path: Path) -> None:
    gate = (slim if name in STAGED else small).recalibrate(score=name)
    gate.save(tmp_path / "gate")
    again = Gate.load(tmp_path / "gate", model=None if name in STAGED else small_network(5), device="cpu")
    assert same(asked(again), asked(gate))
    assert again.score.settings == gate.score.settings


def test_stages_that_show_no_feature_map_are_left_out(tmp_path: Path) -> None:
    """Some blocks of this network give lists of tensors."""
    torch.manual_seed(0)
    network = timm.create_model("selecsls42", num_classes=3)
    sets = {name: random_records(20, seed) for seed, name in enumerate(("train", "calibration"))}
    gate = Gate.calibrate(network, preprocessing=Preprocessing((32, 32)), score="norm_profile", **sets)
    assert len(gate.extractor.stages) > gate.kept["train"].stage_norms.shape[1]
    gate.save(tmp_path / "gate")
    assert same(asked(Gate.load(tmp_path / "gate", device="cpu")), asked(gate))


def test_everything_else_comes_back_too(slim: Gate, tmp_path: Path) -> None:
    gate = dataclasses.replace(slim, provenance={"by": ["me", 1], "ω": None})
    gate.save(tmp_path / "gate")
    again = Gate.load(tmp_path / "gate", device="cpu")
    for name in ("classes", "backbone", "probes", "digests", "provenance"):
        assert getattr(again, name) == getattr(gate, name)
    assert again.extractor.preprocessing == gate.extractor.preprocessing
    assert not again.extractor.model.training
    assert again.kept.keys() == gate.kept.keys()
    for name, part in gate.kept.items():
        assert again.kept[name].ids == part.ids
        assert torch.equal(again.kept[name].z, part.z)
        assert torch.equal(again.kept[name].logits, part.logits)
    assert same(asked(again.recalibrate(score="knn")), asked(gate.recalibrate(score="knn")))


def test_what_was_loaded_is_saved_alike(saved: Path, tmp_path: Path) -> None:
    Gate.load(saved, device="cpu").save(tmp_path / "again")
    descriptions = [json.loads((place / "gate.json").read_text()) for place in (saved, tmp_path / "again")]
    names = [sorted(description.pop("files")) for description in descriptions]
    assert names[0] == names[1] == sorted(file.name for file in saved.glob("*.safetensors"))
    assert descriptions[0] == descriptions[1]
    for name in names[0]:
        tensors = [load_file(place / name) for place in (saved, tmp_path / "again")]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(torch.equal(value, tensors[1][key]) for key, value in tensors[0].items())


def test_thresholds_by_class_come_back(tmp_path: Path) -> None:
    gate = calibrated(small_network(), by_class=True, false_alarm_rate=0.2, calibration=random_records(300, 3))
    gate.save(tmp_path / "gate")
    again = Gate.load(tmp_path / "gate", model=small_network(5), device="cpu")
    assert again.calibration.by_class
    assert again.calibration.thresholds.tolist() == gate.calibration.thresholds.tolist()
    assert same(asked(again), asked(gate))


@pytest.mark.parametrize("learned", [True, False])
def test_temperatures_come_back(learned: bool, tmp_path: Path) -> None:
    network = normgate.l2norm(small_network(), temperature="learned" if learned else 0.1)
    if learned:
        with torch.no_grad():
            network[-1].log_temperature.fill_(-2.0)
    gate = calibrated(network)
    gate.save(tmp_path / "gate")
    assert json.loads((tmp_path / "gate" / "gate.json").read_text())["network"]["temperature"] == (
        "learned" if learned else 0.1
    )
    again = Gate.load(tmp_path / "gate", model=small_network(5), device="cpu")
    assert temperature(again.extractor.model) == temperature(network)
    assert same(asked(again), asked(gate))


def test_a_lean_gate_has_no_file_of_features(slim: Gate, tmp_path: Path) -> None:
    slim.recalibrate(lean=True).save(tmp_path / "gate")
    assert not list(tmp_path.glob("gate/features-*"))
    again = Gate.load(tmp_path / "gate", device="cpu")
    assert again.kept == {}
    assert again.digests == slim.digests
    assert same(asked(again), asked(slim))
    assert again.recalibrate(false_alarm_rate=0.2).calibration.alpha == 0.2
    with pytest.raises(GateError, match="lean gate keeps no calibration features"):
        again.recalibrate(score="energy")


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_file_managers_leave_is_ignored(name: str, slim: Gate, folder: Path) -> None:
    (folder / name).write_bytes(b"left")
    assert same(asked(Gate.load(folder, device="cpu")), asked(slim))
    slim.save(folder, overwrite=True)
    assert not (folder / name).exists()


def test_half_a_gate_is_never_left(slim: Gate, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("normgate.gate.folder.save_arrays", full)
    with pytest.raises(normgate.NormgateError, match="cannot be written: No space left"):
        slim.save(folder, overwrite=True)
    with pytest.raises(normgate.NormgateError, match="No space left"):
        slim.save(folder.parent / "new")
    assert [path.name for path in folder.parent.iterdir()] == ["gate"]
    assert same(asked(Gate.load(folder, device="cpu")), asked(slim))


# ------------------------------------------------------------------------------------------- the network passed


def test_a_network_that_timm_cannot_rebuild_must_be_passed(small: Gate, tmp_path: Path) -> None:
    small.save(tmp_path / "gate")
    with pytest.raises(GateFolderError, match=r"weights of a Sequential that timm cannot.*Gate\.load\(path, model="):
        Gate.load(tmp_path / "gate")
    torch.manual_seed(0)
    with pytest.raises(GateFolderError, match=r"(?s)do not fit the network.*Missing.*conv1"):
        Gate.load(tmp_path / "gate", model=SLIM.build())
    with pytest.raises(NormgateError, match="do not fit the network"):
        Gate.load(tmp_path / "gate", model=nn.Flatten())


def test_the_gate_says_how_features_are_normalised_and_not_the_network(small: Gate, tmp_path: Path) -> None:
    small.save(tmp_path / "plain")
    normalised = calibrated(normgate.l2norm(small_network(), temperature=0.1))
    normalised.save(tmp_path / "normalised")
    other = normgate.l2norm(small_network(5), temperature=3)
    again = Gate.load(tmp_path / "plain", model=other, device="cpu")
    assert not is_normalized(again.extractor.model)
    assert same(asked(again), asked(small))
    again = Gate.load(tmp_path / "normalised", model=normgate.l2norm(small_network(5), temperature=3), device="cpu")
    assert temperature(again.extractor.model) == 0.1
    assert same(asked(again), asked(normalised))


# ------------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_is_named(name: str, folder: Path) -> None:
    file = folder / f"{name}.safetensors"
    content = file.read_bytes()
    for spoiled in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        file.write_bytes(spoiled)
        with pytest.raises(GateFolderError, match=rf"damaged: {name}\.safetensors has changed\. Copy the gate anew"):
            Gate.load(folder)
    file.unlink()
    with pytest.raises(GateFolderError, match=rf"damaged: {name}\.safetensors is missing"):
        Gate.load(folder)
    file.mkdir()
    with pytest.raises(GateFolderError, match=rf"{name}\.safetensors has changed"):
        Gate.load(folder)


def test_every_problem_is_told_at_once(folder: Path) -> None:
    (folder / "score.safetensors").unlink()
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / "network.safetensors").write_bytes(b"x")
    with pytest.raises(GateFolderError, match=r"score.* is missing; evil\.py does not belong.*; network.* has changed"):
        Gate.load(folder)


def test_pipes_and_links_that_lead_nowhere_hang_nothing(folder: Path) -> None:
    file = folder / "score.safetensors"
    for replace in (lambda: os.mkfifo(file), lambda: file.symlink_to(file.name)):
        file.unlink()
        replace()
        with pytest.raises(GateFolderError, match=r"score\.safetensors has changed"):
            Gate.load(folder)
    (folder / "gate.json").unlink()
    os.mkfifo(folder / "gate.json")
    with pytest.raises(GateFolderError, match=r"holds no gate\.json"):
        Gate.load(folder)


def test_what_is_no_gate_at_all(tmp_path: Path) -> None:
    with pytest.raises(GateFolderError, match="is no gate: it does not exist; make one with 'normgate train'"):
        Gate.load(tmp_path / "nothing")
    with pytest.raises(GateFolderError, match=r"holds no gate\.json"):
        Gate.load(tmp_path)
    (tmp_path / "gate.onnx").touch()
    with pytest.raises(GateFolderError, match=r"is an exported gate, which is screened with and served"):
        Gate.load(tmp_path / "gate.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "files": []}',
        b'{"format": 0, "files": {}}',
        b'{"format": true, "files": {}}',
        b'{"format": "1", "files": {}}',
        b'{"format": 1.0, "files": {}}',
    ],
)
def test_descriptions_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_bytes(content)
    with pytest.raises(GateFolderError, match=r"gate\.json is no description of a gate"):
        Gate.load(tmp_path)


def test_a_description_is_not_read_whatever_its_size(tmp_path: Path) -> None:
    with (tmp_path / "gate.json").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(GateFolderError, match="larger than any gate's description"):
        Gate.load(tmp_path)


def test_a_changed_description(folder: Path) -> None:
    description = json.loads((folder / "gate.json").read_text())
    (folder / "gate.json").write_text(json.dumps(description, sort_keys=True, ensure_ascii=True))  # says the same
    Gate.load(folder)
    for name, value in (("false_alarm_rate", 0.051), ("digest", None), ("by_class", 0), ("more", 1)):
        (folder / "gate.json").write_text(json.dumps({**description, name: value}))
        with pytest.raises(GateFolderError, match=r"is damaged: gate\.json has changed\. Copy the gate anew"):
            Gate.load(folder)


def test_provenance_of_any_keys_has_a_digest(tmp_path: Path, slim: Gate) -> None:
    dataclasses.replace(slim, provenance={"run": {1: "a", "b": (2, float("nan"), 0.1)}}).save(tmp_path / "gate")
    assert Gate.load(tmp_path / "gate").provenance["run"]["1"] == "a"


def test_a_gate_of_another_format(folder: Path) -> None:
    description = json.loads((folder / "gate.json").read_text())
    for version, said in (
        (3, r"format 3 of a newer normgate.*reads format 2: upgrade normgate"),
        (1, r"format 1 of an earlier normgate.*reads format 2: make the gate again"),
    ):
        (folder / "gate.json").write_text(
            json.dumps({**description, "format": version, "files": {"of": "another kind"}})
        )
        with pytest.raises(GateFolderError, match=said):
            Gate.load(folder)


# ----------------------------------------------------------------------------------------------------- attacks
# The digests fit: whoever made these folders meant to.

Edit = Callable[[Path, dict[str, Any]], None]


def told(*path: str, value: Any) -> Edit:
    """Set an entry of gate.json."""

    def edit(_: Path, description: dict[str, Any]) -> None:
        for key in path[:-1]:
            description = description[key]
        description[path[-1]] = value

    return edit


def untold(*path: str) -> Edit:
    """Remove an entry of gate.json."""

    def edit(_: Path, description: dict[str, Any]) -> None:
        for key in path[:-1]:
            description = description[key]
        del description[path[-1]]

    return edit


def tensor(file: str, name: str, change: Callable[[torch.Tensor], torch.Tensor] | None) -> Edit:
    """Change a tensor of a file, or remove it."""

    def edit(folder: Path, _: dict[str, Any]) -> None:
        tensors = load_file(folder / file)
        value = tensors.pop(name)
        if change is not None:
            tensors[name] = change(value).contiguous()
        save_file(tensors, folder / file)

    return edit


def content(file: str, data: bytes) -> Edit:
    """Replace a file."""
    return lambda folder, _: (folder / file).write_bytes(data) and None


def edited(folder: Path, edit: Edit) -> Path:
    """The folder after an edit, with digests that fit."""
    description = json.loads((folder / "gate.json").read_text())
    edit(folder, description)
    for name in description["files"]:
        if (folder / name).is_file():
            description["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    description.pop("digest", None)  # as a gate of before there was one
    (folder / "gate.json").write_text(json.dumps(description))
    return folder


def _narrow(folder: Path) -> None:
    file = folder / "features-train.safetensors"
    features = Features.load(file)
    dataclasses.replace(features, z=features.z[:, :4], weight=features.weight[:, :4]).save(file)


ARGUMENTS = ("network", "backbone", "args")
LAYERS = {"layers": [1, 1, 1, 1]}
ATTACKS: dict[str, tuple[Edit, str]] = {
    "hub": (told("network", "backbone", "name", value="hf-hub:timm/x"), "not the plain name of a timm model"),
    "folder": (told("network", "backbone", "name", value="local-dir:models"), "not the plain name of a timm model"),
    "unknown network": (told("network", "backbone", "name", value="resnet18x"), "timm has no model named"),
    "checkpoint": (told(*ARGUMENTS, value={"checkpoint_path": "x.pt"}), "args cannot set 'checkpoint_path'"),
    "pretrained": (told(*ARGUMENTS, value={"pretrained": True}), "args cannot set 'pretrained'"),
    "terabytes": (told("network", "backbone", "width", value=2**17), "it would take [0-9,.]+ GiB"),
    "block": (told(*ARGUMENTS, value={"block": "os.system", **LAYERS}), "resnet18 cannot be built with"),
    "activation": (told(*ARGUMENTS, value={"act_layer": "__import__('os')", **LAYERS}), "resnet18 cannot be built"),
    "base width": (told(*ARGUMENTS, value={"base_width": -5, **LAYERS}), "resnet18 cannot be built with"),
    "other layers": (told(*ARGUMENTS, value={"layers": [1, 1, 1, 2]}), "do not fit the network"),
    "entry of a backbone": (told("network", "backbone", "code", value="x"), "a backbone has exactly the entries"),
    "network is a list": (told("network", value=[1]), "damaged gate: TypeError"),
    "head": (told("network", "head", value="layer1"), "only nn.Linear heads are supported"),
    "missing head": (told("network", "head", value="os"), "no module named 'os'"),
    "temperature 0": (told("network", "temperature", value=0), "temperature must be a finite number above 0"),
    "temperature true": (told("network", "temperature", value=True), "temperature must be a finite number above 0"),
    "learned temperature": (told("network", "temperature", value="learned"), "log_temperature"),
    "path in the list": (told("files", "../gate.json", value=""), r"\.\./gate\.json is missing"),
    "absolute path": (told("files", "/etc/hostname", value=""), "/etc/hostname is missing"),
    "code beside it": (content("evil.py", b"raise SystemExit"), r"evil\.py does not belong to it"),
    "endless header": (
        content("network.safetensors", (2**63 - 1).to_bytes(8, "little") + b"{}"),
        "damaged gate: SafetensorError",
    ),
    "long header": (
        content("score.safetensors", (99 * 10**6).to_bytes(8, "little") + b"{}"),
        "damaged gate: SafetensorError",
    ),
    "no head in the weights": (tensor("network.safetensors", "fc.weight", None), "do not fit the network"),
    "NaN in calibration": (
        tensor("calibration.safetensors", "scores", lambda own: own * float("nan")),
        "40 of 40 calibration scores are NaN",
    ),
    "no calibration score": (
        tensor("calibration.safetensors", "scores", lambda own: own[:0]),
        "there are no calibration scores",
    ),
    "too few": (tensor("calibration.safetensors", "scores", lambda own: own[:5]), "at least 19 calibration images"),
    "calibration matrix": (tensor("calibration.safetensors", "scores", lambda own: own[None]), "pass a 1-D array"),
    "no calibration": (tensor("calibration.safetensors", "scores", None), "damaged gate: KeyError"),
    "rate NaN": (told("false_alarm_rate", value=float("nan")), "share strictly between 0 and 1"),
    "rate 1": (told("false_alarm_rate", value=1), "share strictly between 0 and 1"),
    "rate list": (told("false_alarm_rate", value=[0.1]), "damaged gate: TypeError"),
    "by class": (told("by_class", value=True), "damaged gate: KeyError.*predicted"),
    "by class 1": (told("by_class", value=1), "by_class is 1"),
    "provenance": (told("provenance", value=[1]), "provenance a list"),
    "mean of the pixels lost": (untold("preprocessing", "mean"), "is damaged: its preprocessing lacks mean. Copy"),
    "size": (told("preprocessing", "size", value=[100_000, 5]), "size holds 100000"),
    "entry of a preprocessing": (told("preprocessing", "code", value="x"), "unknown key .code. in a preprocessing"),
    "score is code": (told("score", value={"name": "__import__('os')", "settings": {}}), "there is no score"),
    "score is a path": (told("score", value={"name": "../x", "settings": {}}), "there is no score '../x'"),
    "score setting": (told("score", value={"name": "knn", "settings": {"k": -1}}), "knn needs a whole number k"),
    "unknown setting": (told("score", "settings", "code", value=1), "gmm has no setting 'code'; it has jitter"),
    "another score": (told("score", value={"name": "knn", "settings": {"k": 1}}), "damaged gate: KeyError.*bank"),
    "state of a score": (
        tensor("score.safetensors", "whitening", lambda own: own[..., :3, :3]),
        "damaged gate: RuntimeError",
    ),
    "no score": (untold("score"), "damaged gate: KeyError"),
    "no classes": (untold("classes"), "damaged gate: KeyError"),
    "fewer classes": (told("classes", value=["a", "b"]), "2 different classes for 3 outputs"),
    "equal classes": (told("classes", value=["a", "b", "b"]), "2 different classes for 3 outputs"),
    "numbered classes": (told("classes", value=[1, 2, 3]), "classes is no list of names"),
    "classes in a text": (told("classes", value="abc"), "classes is no list of names"),
    "fingerprints": (tensor("digests.safetensors", "train", lambda own: own[:, :8]), "fingerprints are uint8 of shape"),
    "long fingerprints": (tensor("digests.safetensors", "train", lambda own: own.int()), "fingerprints are int32"),
    "features of another network": (lambda folder, _: _narrow(folder), "holds features of another network"),
    "no weights in features": (tensor("features-train.safetensors", "weight", None), r"features-train\.safetensors"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_folders_that_were_tampered_with_are_errors(name: str, folder: Path) -> None:
    edit, message = ATTACKS[name]
    with pytest.raises(NormgateError, match=f"(?s){message}"):
        Gate.load(edited(folder, edit), device="cpu")


def test_a_score_that_gives_an_image_several_numbers_is_damage(tmp_path: Path) -> None:
    calibrated(small_network()).recalibrate(score="vim").save(tmp_path / "g")
    edited(tmp_path / "g", tensor("score.safetensors", "alpha", lambda own: own.expand(3)))
    with pytest.raises(GateFolderError, match=r"is a damaged gate: .*vim does not give one number an image"):
        Gate.load(tmp_path / "g", model=small_network())


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.open, (str(self.path), os.O_CREAT)


@pytest.mark.parametrize("name", FILES)
def test_loading_executes_nothing_of_the_folder(name: str, folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    pickled = pickle.dumps(Touch(canary))
    os.close(pickle.loads(pickled))
    canary.unlink()  # whoever unpickles it makes it again
    file = folder / f"{name}.safetensors"
    as_by_torch = tmp_path / "weights.pt"
    torch.save(Touch(canary), as_by_torch)
    for data in (pickled, as_by_torch.read_bytes()):
        with pytest.raises(NormgateError, match=f"SafetensorError|{name}.safetensors holds no features"):
            Gate.load(edited(folder, content(file.name, data)), device="cpu")
        assert not canary.exists()


MAGNITUDE = {"module": "layer1", "position": 10**9, "channels_last": True}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (tensor("score.safetensors", "means", lambda own: own * float("nan")), "NaN or infinite"),
        (told("network", "magnitude", value=MAGNITUDE), "no magnitude vector"),
    ],
)
def test_what_cannot_be_computed_is_never_a_verdict(edit: Edit, message: str, folder: Path) -> None:
    with pytest.raises(NormgateError, match=message):
        asked(Gate.load(edited(folder, edit), device="cpu"))


def test_a_network_of_nan_accepts_nothing(folder: Path) -> None:
    edit = tensor("network.safetensors", "fc.weight", lambda own: own * float("nan"))
    verdicts = asked(Gate.load(edited(folder, edit), device="cpu"))
    assert set(verdicts.error) == {NOT_FINITE}
    assert not verdicts.accepted.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_comes_back_in_it(dtype: torch.dtype, tmp_path: Path) -> None:
    sets = {"calibration": random_records(40, 3), "classes": CLASSES}
    gate = Gate.calibrate(small_network().to(dtype), preprocessing=PREPROCESSING, **sets)
    gate.save(tmp_path / "g")
    again = Gate.load(tmp_path / "g", model=small_network(), device="cpu")
    assert again.extractor.head.weight.dtype == dtype
    assert (asked(again).score == asked(gate).score).all()
    with pytest.raises(ExportError, match=r"computes in torch\.\w+ and a graph in float32"):
        export(gate, tmp_path / "g.onnx")


def test_what_a_network_holds_beside_its_weights_takes_their_precision(tmp_path: Path) -> None:
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=56, embed_dim=24, depths=(1, 1))
    assert {name for name, _ in network.named_buffers()} - {*network.state_dict()}
    sets = {"calibration": random_records(20, 3), "classes": CLASSES}
    preprocessing = Preprocessing((56, 56), resize=56)
    gate = Gate.calibrate(network.bfloat16(), preprocessing=preprocessing, score="energy", **sets)
    gate.save(tmp_path / "g")
    fresh = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=56, embed_dim=24, depths=(1, 1))
    again = Gate.load(tmp_path / "g", model=fresh, device="cpu")
    assert (asked(again).score == asked(gate).score).all()


def test_files_of_a_gate_are_as_readable_as_their_folder(folder: Path) -> None:
    usual = folder.parent / "usual"
    usual.touch()
    assert {file.stat().st_mode for file in folder.iterdir()} == {usual.stat().st_mode}


def test_a_timm_network_that_cannot_be_rebuilt_is_told(tmp_path: Path) -> None:
    network = timm.create_model("resnet10t", num_classes=3, global_pool="max")
    sets = {"calibration": random_records(40, 3), "classes": CLASSES}
    preprocessing = Preprocessing((32, 32), resize=32)
    with pytest.warns(NormgateWarning, match=r"backbone=normgate\.Backbone"):
        Gate.calibrate(network, preprocessing=preprocessing, **sets).save(tmp_path / "g")
    backbone = normgate.Backbone("resnet10t", 3, args={"global_pool": "max"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", NormgateWarning)
        warnings.simplefilter("ignore", ProbeWarning)
        Gate.calibrate(network, preprocessing=preprocessing, backbone=backbone, **sets).save(tmp_path / "h")
    assert Gate.load(tmp_path / "h", device="cpu").backbone == backbone


# ---------------------------------------------------------------------------------------------- damaged probes


@pytest.mark.parametrize(
    "edit",
    [
        told("probes", value="x"),
        told("probes", value={}),
        told("probes", value=[1]),
        told("probes", "images", value=0),
        told("probes", "images", value=True),
        told("probes", "probed", value=1.5),
        untold("probes", "probed"),
        told("probes", "more", value=1),
        told("probes", "refused", value=["knn"]),
        told("probes", "refused", value={"knn": 1}),
        told("probes", "auroc", value=[1]),
        told("probes", "auroc", value={"norm": [1]}),
        told("probes", "auroc", "energy", "flat/black", value=1.5),
        told("probes", "auroc", "energy", "flat/black", value=float("nan")),
        told("probes", "auroc", "energy", "flat/black", value="1"),
        told("probes", "auroc", "energy", "black", value=0.5),
        untold("probes", "auroc", "energy", "flat/black"),
    ],
)
def test_damaged_probes_are_an_error(edit: Edit, folder: Path) -> None:
    with pytest.raises(GateFolderError, match="is a damaged gate: this is no report of probes"):
        Gate.load(edited(folder, edit), device="cpu")


def test_families_of_probes_that_there_are_not_are_damage(folder: Path) -> None:
    with pytest.raises(GateFolderError, match="is a damaged gate: families of probes are some of"):
        Gate.load(edited(folder, told("trained_on_probes", value=["x"])), device="cpu")


def test_a_gate_may_be_without_probes(slim: Gate, folder: Path) -> None:
    again = Gate.load(edited(folder, told("probes", value=None)), device="cpu")
    assert again.probes is None
    assert same(asked(again), asked(slim))
    assert np.array_equal(again.calibration.scores, slim.calibration.scores)


def test_weights_of_somebody_else_are_never_replaced(tmp_path: Path) -> None:
    """Their names alone do not make files a gate's."""
    place = tmp_path / "weights"
    place.mkdir()
    (place / "resnet.safetensors").write_bytes(b"mine")
    gate = Gate.calibrate(
        small_network(), preprocessing=PREPROCESSING, calibration=random_records(40, 3), classes=CLASSES
    )
    for name in ("resnet.safetensors", "other.safetensors"):
        with pytest.raises(OutputError, match=rf"holds {name}, which is not of an earlier output"):
            gate.save(place, overwrite=True)
        if name == "resnet.safetensors":
            gate.save(tmp_path / "gate")
            place = tmp_path / "gate"
            (place / "other.safetensors").write_bytes(b"mine")
    (place / "other.safetensors").unlink()
    gate.save(place, overwrite=True)
    assert (tmp_path / "weights" / "resnet.safetensors").read_bytes() == b"mine"
