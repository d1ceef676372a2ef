"""The loop in several processes, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import SingleDeviceStrategy

from normgate import Gate, Recipe
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record
from normgate.training import TrainingError, fit
from normgate.training.images import ResidentImages, StreamedImages
from samples import small_network

TWO_PROCESSES = """
import shutil, sys
import normgate
from normgate.pipeline import Hardware

photos, whole, resumed = sys.argv[1:]
copied = []

def copy_as_if_killed(task, done, total, /, **figures):
    if task == "training" and done > 2 * 48 and not copied:  # in the third epoch
        copied.append(shutil.copytree(whole + ".run", resumed + ".run"))

options = dict(
    recipe=normgate.Recipe(epochs=4, batch_size=8, learning_rate=0.05),
    model_args={"layers": [1, 1, 1, 1]}, width=2, false_alarm_rate=0.2, score="energy",
    hardware=Hardware("cpu", devices=2, strategy="ddp"),
)
normgate.train(photos, whole, progress=copy_as_if_killed, **options)
normgate.train(photos, resumed, resume=True, **options)
"""


def test_two_processes_make_one_gate_and_resume_to_the_same_weights(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    command = [sys.executable, tmp_path / "two.py", class_folders, tmp_path / "whole", tmp_path / "resumed"]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    gates = [Gate.load(tmp_path / name) for name in ("whole", "resumed")]
    weights = [gate.extractor.model.state_dict() for gate in gates]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert [row["loss"] for row in gates[0].provenance["log"]] == [row["loss"] for row in gates[1].provenance["log"]]
    kept = gates[0].kept
    ids = [name for part in ("train", "tuning", "calibration") for name in kept[part].ids]
    assert sorted(ids) == sorted(path.relative_to(class_folders).as_posix() for path in class_folders.rglob("*.png"))
    assert {path.name for path in tmp_path.iterdir()} == {"two.py", "photos", "whole", "resumed"}


def test_of_two_processes_the_first_alone_says_what_is_wrong(class_folders: Path, tmp_path: Path) -> None:
    """Too few calibration images of a class: known once the network is trained."""
    command = [sys.executable, "-m", "normgate.cli", "train", class_folders, "-o", tmp_path / "gate", "--epochs", "1"]
    command += ["--batch-size", "16", "--width", "2", "--alpha", "0.2", "--by-class", "--score", "norm"]
    command += ["--device", "cpu", "--devices", "2", "--strategy", "ddp"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "leave out --by-class" in done.stderr


def test_a_batch_too_small_to_share_is_an_error(tmp_path: Path) -> None:
    images = ResidentImages(torch.zeros(64, 8, 8, 3, dtype=torch.uint8), torch.arange(64) % 3)
    recipe = Recipe(epochs=1, batch_size=15)
    strategy = SingleDeviceStrategy()
    strategy.world_size = 8
    fabric = Fabric(accelerator="cpu", strategy=strategy)
    with pytest.raises(TrainingError, match="8 processes cannot share a batch of 15 images"):
        fit(small_network(), images, recipe, Preprocessing((8, 8)), fabric=fabric, seed=0, run={}, folder=tmp_path)


def test_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    images = ResidentImages(torch.zeros(16, 8, 8, 3, dtype=torch.uint8), torch.arange(16) % 3)
    network = small_network()
    with torch.no_grad():
        network[0].weight[0] = float("nan")
    with pytest.raises(TrainingError, match="loss is nan in epoch 1"):
        fit(
            network,
            images,
            Recipe(epochs=1, batch_size=8),
            Preprocessing((8, 8)),
            fabric=Fabric(accelerator="cpu"),
            seed=0,
            run={},
            folder=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_images_that_are_all_gone_are_an_error(tmp_path: Path) -> None:
    paths = [Record(f"{i}.png", tmp_path / f"{i}.png") for i in range(16)]
    images = StreamedImages(paths, torch.arange(16) % 3, Preprocessing((8, 8)))
    recipe = Recipe(epochs=1, batch_size=8)
    fabric = Fabric(accelerator="cpu")
    with pytest.raises(TrainingError, match="no training image can be read any longer"):
        fit(small_network(), images, recipe, Preprocessing((8, 8)), fabric=fabric, seed=0, run={}, folder=tmp_path)
