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
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

import normgate
from normgate import Gate, Recipe
from normgate.training import Hardware
from normgate.training.processes import ProcessError, agreed
from normgate.training.run_folder import CHECKPOINT, RunFolderError, check_run, remove_leftover, run_folder, running
from samples import CLASSES

SIDE = 8
LAYER_NORM = {"layers": [1, 1, 1, 1], "norm_layer": "layernorm2d"}
# The first is without BatchNorm, whose statistics are those of a process's own images.
NETWORKS: dict[str, dict[str, Any]] = {
    "layer-norm": {"model": "resnet18", "width": 16, "model_args": LAYER_NORM},
    "slim": {"model": "resnet18", "width": 8},
}
RECIPES = {
    "layer-norm": {"epochs": 4, "batch_size": 15, "learning_rate": 0.02, "temperature": 0.1},
    "slim": {"epochs": 20, "batch_size": 32, "learning_rate": 0.05},
}
SCRIPT = """
import atexit, json, os, sys
import torch
import normgate
from normgate.training import Hardware

# In one piece, since both processes write to the same pipe.
atexit.register(lambda: os.write(1, b"together " if torch.distributed.is_initialized() else b"parted "))

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
    for number, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i in range(109):
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
    assert done.stdout.split() == ["parted", "parted"]

    def pair(name: str) -> tuple[Gate, Gate]:
        alone = normgate.train(photos, recipe=Recipe(**RECIPES[name]), hardware=Hardware("cpu"), **networks[name])
        return alone, Gate.load(place / name)

    return pair


def test_two_processes_train_the_weights_of_one(gates: Callable[[str], tuple[Gate, Gate]]) -> None:
    """Although their shares of a batch differ, 7 and 8 images, and the last images of an epoch fill no batch."""
    alone, together = gates("layer-norm")
    assert len(alone.digests["train"]) % 2 == 1
    assert len(alone.digests["train"]) % RECIPES["layer-norm"]["batch_size"]
    expected = alone.extractor.model.state_dict()
    for key, value in together.extractor.model.state_dict().items():
        assert torch.linalg.norm(value - expected[key]) <= 1e-4 * torch.linalg.norm(expected[key]), key
    assert alone.provenance["log"][-1]["loss"] < 0.8 * alone.provenance["log"][0]["loss"]  # they have moved
    for one, other in zip(alone.provenance["log"], together.provenance["log"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_with_batch_normalisation_they_are_as_accurate(gates: Callable[[str], tuple[Gate, Gate]]) -> None:
    rng = np.random.default_rng(1)
    images = [stripes(number, rng) for number in (0, 1, 2) for _ in range(200)]
    names = np.repeat(CLASSES, 200)
    one, two = (float(np.mean(np.asarray(gate(images).label) == names)) for gate in gates("slim"))
    assert one > 0.9
    assert abs(one - two) <= 0.02


def test_every_image_is_in_one_set_and_once(gates: Callable[[str], tuple[Gate, Gate]], photos: Path) -> None:
    gate = gates("layer-norm")[1]
    ids = [name for part in ("train", "tuning", "calibration") for name in gate.kept[part].ids]
    assert len(ids) % 2 == 1
    assert sorted(ids) == sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    assert gate.calibration.n == len(gate.digests["calibration"]) == len(gate.kept["calibration"].ids)


ENDLESS = ["--epochs", "100000", "--batch-size", "16", "--width", "2", "--model-arg", "layers=[1,1,1,1]"]


@pytest.fixture
def started(photos: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """Two processes in the middle of training, which they would never end."""
    command = [sys.executable, "-m", "normgate.cli", "train", photos, "-o", tmp_path / "gate", *ENDLESS]
    command += ["--device", "cpu", "--devices", "2", "--score", "norm"]
    # When this ends nothing holds its stderr any more: neither process is left.
    process = subprocess.Popen(command, env=QUIET, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "gate.run" / "log.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    return process


def test_both_end_when_the_first_is_told_to(started: subprocess.Popen[str], tmp_path: Path) -> None:
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=30)
    assert started.returncode == 143
    assert said.count("error: ") == 1
    assert "another process of this run has ended" in said
    assert {path.name for path in tmp_path.iterdir()} == {"gate.run"}


def test_both_end_when_the_second_is_killed(started: subprocess.Popen[str]) -> None:
    (child,) = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    _, said = started.communicate(timeout=30)
    assert started.returncode != 0
    assert "another process of this run has ended" in said


FAILING = """
import sys
from pathlib import Path
import torch
from normgate.errors import NormgateError, ToldError
from normgate.training import Hardware
from normgate.training.processes import ProcessError, agreed, check_same, noticing_loss, patient

place, fabric = Path(sys.argv[1]), Hardware("cpu", devices=2).fabric()
rank, group = fabric.global_rank, patient(fabric)

def outcome(failing, group=None):
    try:
        with agreed(fabric, group):
            if rank in failing:
                raise (NormgateError, ValueError)[rank](f"process {rank} fails")
    except (NormgateError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "well"

said = [outcome(failing, group) for failing in ((), (0,), (1,), (0, 1))] + [outcome((1,))]
check_same(fabric, {"n": 5}, "mend it")
try:
    check_same(fabric, {"n": 5, "images": rank}, "mend it")
except NormgateError as error:
    said.append(f"{type(error).__name__}: {error}")
try:
    with noticing_loss(fabric):
        raise RuntimeError("another defect")
except RuntimeError as error:
    said.append(str(error))
if rank == 1:
    (place / "1").write_text("\\n".join(said))
    raise SystemExit
try:
    with noticing_loss(fabric):
        fabric.all_reduce(torch.ones(1))
except ProcessError as error:
    said.append(str(error).split(",")[0])
(place / "0").write_text("\\n".join(said))
"""


def test_what_one_finds_wrong_ends_all_and_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    subprocess.run([sys.executable, tmp_path / "failing.py", tmp_path], env=QUIET, capture_output=True, check=True)
    told = "ToldError: another process of this run failed, and has said why"
    assert (tmp_path / "0").read_text().splitlines() == [
        "well",
        "NormgateError: process 0 fails",
        told,
        "NormgateError: process 0 fails",
        told,
        told,
        "another defect",
        "another process of this run has ended",
    ]
    assert (tmp_path / "1").read_text().splitlines() == [
        "well",
        told,
        "ValueError: process 1 fails",
        told,
        "ValueError: process 1 fails",
        "ProcessError: images differ between the processes of this run; mend it",
        "another defect",
    ]


def test_every_machine_says_what_went_wrong_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(outcomes: list[object], mine: object, group: object) -> None:
        outcomes[:] = [mine, None, (1, "the disk is full")]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    first = cast("Fabric", SimpleNamespace(world_size=3, node_rank=0, local_rank=0, global_rank=0))
    with pytest.raises(ProcessError, match="machine 1 of this run: the disk is full"), agreed(first):
        pass


def test_a_folder_that_not_all_machines_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normgate.training.run_folder.names_in", lambda folder: [])
    with (
        pytest.raises(RunFolderError, match="a disk that all of them share"),
        running(tmp_path / "gate", resume=False, overwrite=True, fabric=Fabric(accelerator="cpu")),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_is_going_is_left_alone(resume: bool, tmp_path: Path) -> None:
    target, fabric = tmp_path / "gate", Fabric(accelerator="cpu")
    with running(target, resume=False, overwrite=True, fabric=fabric) as folder:
        (folder / CHECKPOINT).write_bytes(b"epochs")
        with (
            pytest.raises(RunFolderError, match="another run is writing"),
            running(target, resume=resume, overwrite=True, fabric=fabric),
        ):
            pass
        remove_leftover(folder)
        assert (folder / CHECKPOINT).read_bytes() == b"epochs"
    assert not list(tmp_path.iterdir())


def test_what_a_stopped_run_left_is_gone_on_with_or_replaced(tmp_path: Path) -> None:
    target, fabric = tmp_path / "gate", Fabric(accelerator="cpu")
    with (
        pytest.raises(ValueError, match="stopped"),
        running(target, resume=False, overwrite=True, fabric=fabric) as folder,
    ):
        (folder / CHECKPOINT).write_bytes(b"epochs")
        raise ValueError("stopped")
    with (
        pytest.raises(ValueError, match="stopped"),
        running(target, resume=True, overwrite=True, fabric=fabric) as folder,
    ):
        assert (folder / CHECKPOINT).read_bytes() == b"epochs"
        raise ValueError("stopped")
    with (
        pytest.raises(ValueError, match="stopped"),
        running(target, resume=False, overwrite=True, fabric=fabric) as folder,
    ):
        assert not (folder / CHECKPOINT).exists()
        raise ValueError("stopped")
    assert not list(tmp_path.iterdir())  # there was nothing to go on with


def test_a_run_killed_in_its_first_epoch_is_not_in_the_way(tmp_path: Path) -> None:
    target, fabric = tmp_path / "gate", Fabric(accelerator="cpu")
    folder = run_folder(target)
    folder.mkdir()
    (folder / "_lock").touch()
    check_run(folder, resume=False, overwrite=False)
    with pytest.raises(ValueError, match="stopped"), running(target, resume=False, overwrite=False, fabric=fabric):
        (folder / CHECKPOINT).write_bytes(b"epochs")
        raise ValueError("stopped")
    with pytest.raises(RunFolderError, match=r"unfinished run; pass --resume .* or --overwrite"):
        check_run(folder, resume=False, overwrite=False)
    check_run(folder, resume=True, overwrite=False)
    check_run(folder, resume=False, overwrite=True)


def test_what_another_run_has_left_since_is_not_removed(tmp_path: Path) -> None:
    target, fabric = tmp_path / "gate", Fabric(accelerator="cpu")
    run_folder(target).mkdir()
    (run_folder(target) / CHECKPOINT).write_bytes(b"epochs")
    with (
        pytest.raises(RunFolderError, match="unfinished run"),
        running(target, resume=False, overwrite=False, fabric=fabric),
    ):
        pass

    def check() -> None:
        raise ValueError("the output is there by now")

    with (
        pytest.raises(ValueError, match="by now"),
        running(target, resume=False, overwrite=True, fabric=fabric, check=check),
    ):
        pass
    assert (run_folder(target) / CHECKPOINT).read_bytes() == b"epochs"


def test_a_run_that_is_going_is_told_before_any_work(tmp_path: Path) -> None:
    target, fabric = tmp_path / "gate", Fabric(accelerator="cpu")
    with running(target, resume=False, overwrite=False, fabric=fabric) as folder:
        for resume, overwrite in ((False, False), (True, False), (False, True)):
            with pytest.raises(RunFolderError, match="another run is writing"):
                check_run(folder, resume=resume, overwrite=overwrite)
    check_run(folder, resume=False, overwrite=False)


def test_what_is_left_beside_a_gate_is_removed_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: Path) -> None:
        raise PermissionError

    folder = tmp_path / "gate.run"
    (folder / ".log.csv.1.partial").mkdir(parents=True)
    (folder / CHECKPOINT).touch()
    with monkeypatch.context() as patch:
        patch.setattr("normgate.training.run_folder._remove", forbidden)
        remove_leftover(folder)
    assert folder.exists()
    remove_leftover(folder)
    assert not folder.exists()
    remove_leftover(folder)


def test_what_no_run_has_written_stays(tmp_path: Path) -> None:
    target, fabric = tmp_path / "gate", Fabric(accelerator="cpu")
    folder = run_folder(target)
    (folder / "mine").mkdir(parents=True)
    with (
        pytest.raises(RunFolderError, match="holds mine, which no run has written"),
        running(target, resume=True, overwrite=True, fabric=fabric),
    ):
        pass
    remove_leftover(folder)
    (folder / "mine").rename(tmp_path / "mine")
    with running(target, resume=False, overwrite=True, fabric=fabric):
        (folder / ".DS_Store").touch()
        (folder / "log.csv").touch()
    assert not folder.exists()
    with running(target, resume=False, overwrite=True, fabric=fabric):
        (folder / "notes.txt").touch()  # of somebody, meanwhile
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
