"""A gate on disk: a folder of safetensors and JSON. Loading executes nothing of it.

    gate.json                   what the gate is, and the SHA-256 of this and of every other file
    network.safetensors         weights
    score.safetensors           what the score was fitted to
    calibration.safetensors     calibration scores and predicted classes
    digests.safetensors         fingerprints of the images of each set
    features-<set>.safetensors  kept features (not in a lean gate)

The digests guard against damage, not against an attacker.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

from normgate import __version__, scores
from normgate.backbones import Backbone
from normgate.calibration import Calibration
from normgate.data.decoding import DIGEST_BYTES
from normgate.data.preprocessing import Preprocessing
from normgate.errors import NormgateError, NormgateWarning
from normgate.extractor import FeatureExtractor
from normgate.features import Features
from normgate.files import OutputError, listed, names_in, sha256, whole_folder
from normgate.gate.choosing import checked_families
from normgate.gate.errors import GateError
from normgate.gate.gate import Gate
from normgate.normalization import is_normalized, l2norm, remove_l2norm, unwrap
from normgate.probes import ProbeError, ProbeReport
from normgate.scores import ScoreError
from normgate.taps import MagnitudeSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from normgate.scores import Score

FORMAT = 2
SETS = ("train", "tuning", "probes", "calibration")
_JSON_LIMIT = 64 * 2**20
_ROOM = 64 * 2**20


class GateFolderError(NormgateError):
    """A folder is no gate, is damaged, or cannot be read by this version."""


def save(gate: Gate, path: Path, *, overwrite: bool) -> None:
    """Write a gate; the folder appears whole or not at all."""
    if gate.score.name not in scores.names():
        raise GateFolderError(f"{gate.score.name} is no score of this package: such a gate cannot be loaded again")
    if gate.backbone is None and type(unwrap(gate.extractor.model)).__module__.startswith("timm."):
        warnings.warn(
            "timm does not rebuild this network from its name and number of classes alone: pass Gate.calibrate(…, "
            "backbone=normgate.Backbone(name, classes, args={…})) with what it was made with; without, only "
            "Gate.load(path, model=network) reads this gate, and the command line does not",
            NormgateWarning,
            stacklevel=3,
        )
    with whole_folder(path, foreign=foreign, overwrite=overwrite) as folder:
        try:
            _write(gate, folder)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OutputError(f"{path} cannot be written: {error}") from error


def foreign(folder: Path) -> str | None:
    """The name of something in a folder that no gate has written; None where there is nothing of that kind."""
    own = listed(folder / "gate.json")
    return next((name for name in names_in(folder) if name not in own), None)


def _write(gate: Gate, folder: Path) -> None:
    # clone(): tied weights share memory, which safetensors refuses.
    weights = unwrap(gate.extractor.model).state_dict()
    save_file(
        {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()},
        folder / "network.safetensors",
    )
    save_file(gate.score.state, folder / "score.safetensors")
    arrays = {"scores": gate.calibration.scores, "predicted": gate.calibration.predicted}
    save_arrays(
        # safetensors writes the memory of a strided array as it lies.
        {name: np.ascontiguousarray(values) for name, values in arrays.items() if values is not None},
        folder / "calibration.safetensors",
    )
    digests = {
        name: np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        for name, values in gate.digests.items()
    }
    save_arrays(digests, folder / "digests.safetensors")
    for name, features in gate.kept.items():
        features.save(folder / f"features-{name}.safetensors")
    description = {"format": FORMAT, **describe(gate)}
    description["files"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    description["digest"] = _digest(json.loads(json.dumps(description)))  # of what will be read
    (folder / "gate.json").write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(description: Mapping[str, Any]) -> str:
    """SHA-256 of a description, in hexadecimal, but for the digest itself."""
    told = {name: value for name, value in description.items() if name != "digest"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def describe(gate: Gate) -> dict[str, Any]:
    """What a gate is, as plain JSON values."""
    extractor = gate.extractor
    return {
        "network": {
            "backbone": None if gate.backbone is None else gate.backbone.to_dict(),
            "class": type(unwrap(extractor.model)).__name__,
            "head": extractor.head_name,
            "magnitude": None if extractor.magnitude is None else extractor.magnitude.to_dict(),
            "temperature": gate.temperature,
        },
        "preprocessing": extractor.preprocessing.to_dict(),
        "classes": list(gate.classes),
        "score": {"name": gate.score.name, "settings": gate.score.settings},
        "false_alarm_rate": gate.calibration.alpha,
        "by_class": gate.calibration.by_class,
        "probes": None if gate.probes is None else gate.probes.to_dict(),
        "versions": {"normgate": __version__}
        | {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy", "pillow")},
        "provenance": dict(gate.provenance),
        "trained_on_probes": list(gate.trained_on_probes),
    }


def load(path: Path, *, model: nn.Module | None, device: str | torch.device | None) -> Gate:
    """Read a gate; see `Gate.load`."""
    if model is not None and not isinstance(model, nn.Module):
        raise GateFolderError(f"model= takes the network, as in model=Net(), and {model!r} is none")
    try:
        return _assemble(path, _checked(path), model, device)
    except (GateError, ProbeError) as error:
        raise GateFolderError(f"{path} is a damaged gate: {error}") from error
    except NormgateError:
        raise
    except OSError as error:
        raise GateFolderError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # whatever else a folder from elsewhere may hold
        raise GateFolderError(f"{path} is a damaged gate: {type(error).__name__}: {error}") from error


def _assemble(
    path: Path, description: Mapping[str, Any], model: nn.Module | None, device: str | torch.device | None
) -> Gate:
    network = description["network"]
    backbone = None if network["backbone"] is None else Backbone.from_dict(network["backbone"])
    magnitude = network["magnitude"]
    extractor = FeatureExtractor(
        _network(path, network, backbone, model),
        _preprocessing(path, description["preprocessing"]),
        head=network["head"],
        magnitude=MagnitudeSpec.from_dict(magnitude) if magnitude is not None else None,
        search=False,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    classes, by_class, provenance = (description[name] for name in ("classes", "by_class", "provenance"))
    if not isinstance(by_class, bool) or not isinstance(provenance, dict):
        raise TypeError(f"by_class is {by_class!r}, provenance a {type(provenance).__name__}")
    if not isinstance(classes, list) or {type(name) for name in classes} != {str}:
        raise TypeError("classes is no list of names")
    if not len(classes) == len(set(classes)) == extractor.head.out_features:
        raise ValueError(f"{len(set(classes))} different classes for {extractor.head.out_features} outputs")
    report = description["probes"]
    arrays = load_arrays(path / "calibration.safetensors")
    return Gate(
        extractor=extractor,
        classes=tuple(classes),
        score=_score(description["score"], load_file(path / "score.safetensors"), extractor),
        calibration=Calibration(
            arrays["scores"],
            description["false_alarm_rate"],
            arrays["predicted"] if by_class else None,
            tuple(classes) if by_class else None,
        ),
        backbone=backbone,
        probes=None if report is None else ProbeReport.from_dict(report),
        kept={
            name: _features(path / file, extractor)
            for name in SETS
            if (file := f"features-{name}.safetensors") in description["files"]
        },
        digests={name: _digests(rows) for name, rows in load_arrays(path / "digests.safetensors").items()},
        provenance=provenance,
        trained_on_probes=checked_families(description["trained_on_probes"]),
    )


def _network(
    path: Path, description: Mapping[str, Any], backbone: Backbone | None, model: nn.Module | None
) -> nn.Module:
    """The network with its weights, in the precision that these have, ready to judge."""
    if model is None:
        if backbone is None:
            raise GateFolderError(
                f"{path} holds the weights of a {description['class']} that timm cannot rebuild; make that network and "
                "pass it: gate = Gate.load(path, model=network). In Python everything can be done with it; the command "
                "line screens with and serves what 'from normgate.export import export; export(gate, \"gate.onnx\")' "
                "writes"
            )
        _check_size(backbone, path / "network.safetensors")
        model = backbone.build()
    # The gate says how its features are normalised, not the network that was passed.
    if is_normalized(model):
        remove_l2norm(model)
    if description["temperature"] is not None:
        l2norm(model, head=description["head"], temperature=description["temperature"])
    weights = load_file(path / "network.safetensors")
    _take_precision(unwrap(model), weights)
    try:
        unwrap(model).load_state_dict(weights)
    except RuntimeError as error:
        raise GateFolderError(f"the weights in {path} do not fit the network: {error}") from error
    return model.eval()


def _preprocessing(path: Path, description: Mapping[str, Any]) -> Preprocessing:
    preprocessing = Preprocessing.from_dict(description)
    if lost := preprocessing.to_dict().keys() - description.keys():
        # Written by people it may be short; a gate's says everything.
        raise GateFolderError(
            f"{path} is damaged: its preprocessing lacks {', '.join(sorted(lost))}. "
            "Copy the gate anew, or make it again"
        )
    return preprocessing


def _take_precision(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Bring a network to the precision of its weights, which is that of the calibration scores."""
    kinds = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(kinds) == 1:  # with what it holds beside its weights
        network.to(kinds.pop())
        return
    for name, value in network.state_dict(keep_vars=True).items():
        if name in weights and value.is_floating_point():
            value.data = value.data.to(weights[name].dtype)


def _check_size(backbone: Backbone, weights: Path) -> None:
    """Refuse a network far larger than its weights: a description is short, however much memory it asks for."""
    try:
        asked = backbone.nbytes()
    except Exception:  # noqa: BLE001 (one that cannot be built without memory; building it says what is wrong)
        return
    if asked > 4 * weights.stat().st_size + _ROOM:
        raise GateFolderError(
            f"the weights in {weights.parent} do not fit the network: it would take {asked / 2**30:,.1f} GiB, and they "
            f"have {weights.stat().st_size / 2**30:.1f}"
        )


def _score(description: Mapping[str, Any], state: Mapping[str, torch.Tensor], extractor: FeatureExtractor) -> Score:
    """The score, tried on one made-up row: what does not fit the network is found now and not while screening."""
    # Copied, since a file's tensors may lie at odd addresses, where a product's last bit can differ.
    aligned = {key: value.clone() for key, value in state.items()}
    score = scores.create(description["name"], **description["settings"]).load_state(aligned)
    head = extractor.head
    stages = None
    if score.needs_stages and extractor.stages:
        with torch.inference_mode():  # how many of them really show something is known once the network runs
            stages = extractor.rows(extractor.example()).stage_norms
    row = Features(
        z=torch.ones(1, head.in_features),
        logits=torch.zeros(1, head.out_features),
        weight=torch.zeros(head.out_features, head.in_features),
        bias=None,
        temperature=1.0,
        ids=("",),
        stage_norms=None if stages is None else torch.ones(1, stages.shape[1]),
    )
    try:
        score(row)
    except ScoreError as error:  # of a gate that was whole when it was written
        raise ValueError(str(error)) from error
    return score


def _features(path: Path, extractor: FeatureExtractor) -> Features:
    features = Features.load(path)
    if features.weight.shape != extractor.head.weight.shape:
        raise ValueError(f"{path.name} holds features of another network")
    return features


def _digests(rows: np.ndarray) -> tuple[bytes, ...]:
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != DIGEST_BYTES:
        raise ValueError(f"fingerprints are {rows.dtype} of shape {rows.shape}")
    return tuple(row.tobytes() for row in rows)


def _checked(path: Path) -> dict[str, Any]:
    """The description of a gate all of whose files are there and unchanged."""
    file = path / "gate.json"
    if not file.is_file():
        if path.suffix == ".onnx" and path.is_file():
            raise GateFolderError(
                f"{path} is an exported gate, which is screened with and served, and no more: for all else name the "
                "folder that it was made of, or with a network of your own call Gate.load(folder, model=network)"
            )
        inside = next((own.parent for own in sorted(path.glob("*/gate.json"))), None)
        there = "holds no gate.json" if path.is_dir() else "is a file" if path.exists() else "does not exist"
        make = "make one with 'normgate train' or Gate.save" if inside is None else f"{inside} is one"
        raise GateFolderError(f"{path} is no gate: it {there}; {make}")
    if file.stat().st_size > _JSON_LIMIT:
        raise GateFolderError(f"{file} is larger than any gate's description")
    try:
        description: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version, files = description["format"], description["files"]
        if type(version) is not int or version < 1 or not isinstance(files, dict):
            raise TypeError("format is no number, or files no list of them")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GateFolderError(f"{file} is no description of a gate: {error}") from error
    if version != FORMAT:
        age, fix = ("a newer", "upgrade normgate") if version > FORMAT else ("an earlier", "make the gate again")
        raise GateFolderError(
            f"{path} is in format {version} of {age} normgate; this is {__version__}, which reads format {FORMAT}: "
            f"{fix}"
        )
    present = {*names_in(path)} - {"gate.json"}
    problems = (
        # Gates of before there was a digest are read without.
        ["gate.json has changed"] * ("digest" in description and description["digest"] != _digest(description))
        + [f"{name} is missing" for name in sorted(files.keys() - present)]
        + [f"{name} does not belong to it" for name in sorted(present - files.keys())]
        + [
            f"{name} has changed"
            for name in sorted(files.keys() & present)
            if not (path / name).is_file() or sha256(path / name) != files[name]
        ]
    )
    if problems:
        raise GateFolderError(f"{path} is damaged: {'; '.join(problems)}. Copy the gate anew, or make it again")
    return description
