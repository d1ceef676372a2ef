"""One network trained by several processes: as by one, and what happens when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import normgate
from normgate import Gate, Recipe
from normgate.pipeline import Hardware, PipelineError

SIDE = 8
VIT = {"img_size": SIDE, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
# The first two are without BatchNorm, whose statistics are those of a process's own images.
NETWORKS: dict[str, dict[str, Any]] = {
    "group-norm": {"model": "resnet18", "width": 32, "model_args": {"layers": [1, 1, 1, 1], "norm_layer": "groupnorm"}},
    "vit": {"model": "vit_tiny_patch16_224", "model_args": VIT},
    "slim": {"model": "resnet18", "width": 8},
}
RECIPES = {
    "group-norm": {"epochs": 3, "batch_size": 15, "learning_rate": 0.02, "temperature": 0.1},
    "vit": {"epochs": 6, "batch_size": 15, "learning_rate": 0.05, "temperature": 0.1},
    "slim": {"epochs": 20, "batch_size": 32, "learning_rate": 0.05},
}
SCRIPT = """
import json, sys
import normgate
from normgate.pipeline import Hardware

photos, place, networks, recipes = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
for name, options in networks.items():
    recipe = normgate.Recipe(**recipes[name])
    normgate.train(photos, f"{place}/{name}", recipe=recipe, hardware=Hardware("cpu", devices=2), **options)
"""
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def stripes(number: int, rng: np.random.Generator) -> np.ndarray:
    """Upright, level or no stripes, of any phase, in noise."""
    wave = 60 * np.sin(np.arange(SIDE) * np.pi / 2 + rng.uniform(0, 2 * np.pi))
    pattern = (wave[None, :, None], wave[:, None, None], 0)[number]
    return np.clip(128 + pattern + rng.normal(0, 25, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An odd number of images, of which an odd number is left for training."""
    root, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog", "owl")):
        (root / name).mkdir()
        for i in range(109 if number else 107):
            Image.fromarray(stripes(number, rng)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def gates(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Gate, Gate]]:
    """A network trained in one process and the same one trained in two."""
    place = tmp_path_factory.mktemp("gates")
    (place / "train.py").write_text(SCRIPT)
    networks = {name: {"score": "energy", **options} for name, options in NETWORKS.items()}
    command = [sys.executable, place / "train.py", photos, place, json.dumps(networks), json.dumps(RECIPES)]
    done = subprocess.run(command, env=QUIET, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def pair(name: str) -> tuple[Gate, Gate]:
        alone = normgate.train(photos, recipe=Recipe(**RECIPES[name]), hardware=Hardware("cpu"), **networks[name])
        return alone, Gate.load(place / name)

    return pair


@pytest.mark.parametrize("name", ["group-norm", "vit"])
def test_two_processes_train_the_weights_of_one(gates: Callable[[str], tuple[Gate, Gate]], name: str) -> None:
    """Although their shares of a batch differ, 7 and 8 images, and the last images of an epoch fill no batch."""
    alone, together = gates(name)
    assert len(alone.digests["train"]) % 2 == 1
    assert len(alone.digests["train"]) % RECIPES[name]["batch_size"]
    expected = alone.extractor.model.state_dict()
    for key, value in together.extractor.model.state_dict().items():
        assert torch.linalg.norm(value - expected[key]) <= 1e-4 * torch.linalg.norm(expected[key]), key
    for one, other in zip(alone.provenance["log"], together.provenance["log"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_with_batch_normalisation_they_are_as_accurate(gates: Callable[[str], tuple[Gate, Gate]]) -> None:
    rng = np.random.default_rng(1)
    images = [stripes(number, rng) for number in (0, 1, 2) for _ in range(200)]
    names = np.repeat(["cat", "dog", "owl"], 200)
    one, two = (float(np.mean(np.asarray(gate(images).label) == names)) for gate in gates("slim"))
    assert one > 0.9
    assert abs(one - two) <= 0.02


def test_every_image_is_in_one_set_and_once(gates: Callable[[str], tuple[Gate, Gate]], photos: Path) -> None:
    gate = gates("vit")[1]
    ids = [name for part in ("train", "tuning", "calibration") for name in gate.kept[part].ids]
    assert len(ids) % 2 == 1
    assert sorted(ids) == sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    assert gate.calibration.n == len(gate.digests["calibration"]) == len(gate.kept["calibration"].ids)
