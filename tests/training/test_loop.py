"""The loop in several processes, and what it refuses."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import SingleDeviceStrategy
from PIL import Image

import normgate
from normgate import Gate, Recipe
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record
from normgate.files import OutputError
from normgate.training import TrainingError, fit, loop
from normgate.training.checkpoint import Checkpoint
from normgate.training.images import ResidentImages, StreamedImages
from normgate.training.recipe import RECIPES
from samples import small_network

EVERYTHING = Recipe(
    epochs=4,
    batch_size=10,
    learning_rate=0.05,
    head_decay=False,
    descent="linear",
    averaging=0.5,
    patterns=0.5,
    temperature_start=0.2,
    rotations=0.5,
    radial=0.5,
)


def fitted(
    folder: Path, recipe: Recipe, network: torch.nn.Module | None = None, count: int = 32, **options: object
) -> torch.nn.Module:
    """A small network trained on images of noise."""
    pixels = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    network = normgate.l2norm(small_network()) if network is None else network
    settings = {"fabric": Fabric(accelerator="cpu"), "seed": 3, "run": {}, "folder": folder, **options}
    images = ResidentImages(pixels, torch.arange(count) % 3)
    fit(network, images, recipe, Preprocessing((8, 8)), **settings)
    return network


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("recipe", [Recipe(epochs=4, batch_size=10, learning_rate=0.05), EVERYTHING])
def test_a_stopped_run_ends_with_the_same_weights(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = fitted(tmp_path / "whole", recipe)
    epochs = []

    def stop() -> dict[str, float | None]:
        epochs.append(1)
        if len(epochs) == 3:  # the third epoch is lost
            raise StoppedError
        return {}

    with pytest.raises(StoppedError):
        fitted(tmp_path / "stopped", recipe, measure=stop)
    torch.manual_seed(99)
    resumed = fitted(tmp_path / "stopped", recipe, network=normgate.l2norm(small_network(seed=5)), resume=True)
    assert same_weights(whole, resumed)
    assert not any(module._forward_hooks for module in resumed.modules())
    assert normgate.normalization.temperature(resumed) == 1.0


@pytest.mark.parametrize("batch", [2, 4, 6])
def test_the_end_of_each_epoch_is_told_once_with_its_figures(batch: int, tmp_path: Path) -> None:
    told: list[tuple[int, int, dict[str, float]]] = []
    count = 40
    fitted(
        tmp_path,
        Recipe(epochs=3, batch_size=batch),
        count=count,
        progress=lambda _, done, total, **figures: told.append((done, total, figures)),
    )
    done = [of for of, _, _ in told]
    assert done == sorted(set(done))
    assert {total for _, total, _ in told} == {3 * count}
    assert [of for of, _, figures in told if figures] == [count, 2 * count, 3 * count]
    assert [figures.keys() for of, _, figures in told if of % count == 0] == 3 * [{"loss", "accuracy"}]


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true", "16-mixed"])
def test_every_precision_trains_and_goes_on(precision: str, tmp_path: Path) -> None:
    def options() -> dict[str, Fabric]:
        if precision != "16-mixed":
            return {"fabric": Fabric(accelerator="cpu", precision=precision)}
        # As on a GPU, but the scale changes within these few epochs.
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)
        return {"fabric": Fabric(accelerator="cpu", plugins=[MixedPrecision(precision, "cpu", scaler=scaler)])}

    recipe = EVERYTHING
    if precision == "bf16-true":
        with pytest.raises(TrainingError, match=r"weights of 16 bits.*bf16-mixed.*averaging=0"):
            fitted(tmp_path, EVERYTHING, **options())
        recipe = dataclasses.replace(EVERYTHING, averaging=0.0)
    whole = fitted(tmp_path, recipe, **options())
    assert all(torch.isfinite(value).all() for value in whole.state_dict().values())
    assert {value.dtype for value in whole.state_dict().values()} == {torch.float32, torch.int64}
    trained_in = Checkpoint.load(tmp_path / "checkpoint.safetensors", {}).tensors["model.0.weight"].dtype
    assert trained_in == {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    stop_after = iter([False, False, True])

    def stop() -> dict[str, float | None]:
        if next(stop_after):
            raise StoppedError
        return {}

    (tmp_path / "stopped").mkdir()
    with pytest.raises(StoppedError):
        fitted(tmp_path / "stopped", recipe, measure=stop, **options())
    assert same_weights(whole, fitted(tmp_path / "stopped", recipe, resume=True, **options()))


@pytest.mark.parametrize(
    "changes",
    [
        {"head_decay": False},
        {"descent": "linear"},
        {"averaging": 0.5},
        {"patterns": 0.5},
        {"temperature_start": 0.2},
        {"rotations": 0.5},
        {"radial": 0.5},
    ],
)
def test_every_setting_does_something(changes: dict, tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.05)
    network = fitted(tmp_path, recipe)
    changed = Recipe.from_dict({**recipe.to_dict(), **changes})
    assert not same_weights(network, fitted(tmp_path, changed))
    assert same_weights(network, fitted(tmp_path, recipe))


def test_what_is_kept_is_the_average_of_all_steps(tmp_path: Path) -> None:
    """One step an epoch, so that the weights after each are seen."""
    recipe = Recipe(epochs=8, batch_size=32, learning_rate=0.05, averaging=2.0)
    network = normgate.l2norm(small_network())
    seen: list[dict[str, torch.Tensor]] = []

    def record() -> dict[str, float | None]:
        seen.append({name: value.clone().double() for name, value in network.state_dict().items()})
        return {}

    fitted(tmp_path, recipe, network=network, measure=record)
    decay = math.exp(-1 / 2)
    expected = seen[0]
    for state in seen[1:]:
        expected = {name: decay * value + (1 - decay) * state[name] for name, value in expected.items()}
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], atol=1e-6), name


@pytest.mark.parametrize("changes", [{}, {"patterns": 0.5, "rotations": 0.5, "averaging": 0.5}])
def test_a_compiled_step_trains_the_same(changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.05, **changes)
    expected = fitted(tmp_path, recipe)
    calls = []
    eager = functools.partial(torch.compile, backend="eager")  # needs no compiler
    monkeypatch.setattr(torch, "compile", lambda module, **_: calls.append(module) or eager(module))
    compiled = fitted(tmp_path, recipe, compiled=True)
    assert calls
    for one, other in zip(expected.state_dict().values(), compiled.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), other.double(), atol=1e-5)
    assert not normgate.normalization.is_compiled(compiled)


def test_what_a_compiler_says_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler")

    broken = functools.partial(torch.compile, backend=failing)
    monkeypatch.setattr(torch, "compile", lambda module, **_: broken(module))
    with pytest.raises(TrainingError, match=r"cannot be compiled .*no compiler.*leave out --compile"):
        fitted(tmp_path, Recipe(epochs=1, batch_size=8), compiled=True)


@pytest.mark.parametrize("changes", [{"radial": 0.5}, {"temperature_start": 0.1}])
def test_what_cannot_be_compiled_is_refused(changes: dict, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="leave out --compile"):
        fitted(tmp_path, Recipe(epochs=1, batch_size=8, **changes), compiled=True)


def test_a_checkpoint_that_cannot_be_written_beside_training_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = loop._save
    epochs: list[int] = []

    def save(checkpoint: Checkpoint, folder: Path) -> None:
        epochs.append(len(checkpoint.log))
        if len(checkpoint.log) == 2:
            raise OutputError("the disk is full")
        saved(checkpoint, folder)

    monkeypatch.setattr(loop, "_writes_beside", lambda _: True)
    monkeypatch.setattr(loop, "_save", save)
    recipe = Recipe(epochs=9, batch_size=8, learning_rate=0.05)
    with pytest.raises(OutputError, match="the disk is full"):
        fitted(tmp_path, recipe)
    assert epochs == [1, 2]  # it is noticed when the third is to be written
    monkeypatch.setattr(loop, "_save", saved)
    resumed = fitted(tmp_path, recipe, network=normgate.l2norm(small_network(seed=5)), resume=True)
    (tmp_path / "whole").mkdir()
    assert same_weights(resumed, fitted(tmp_path / "whole", recipe))


@pytest.mark.parametrize(("precision", "fused"), [("16-mixed", False), ("bf16-mixed", True)])
@pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler is enabled")
def test_a_scaler_does_without_the_fused_step(precision: str, fused: bool) -> None:
    for device in ("cuda", "cpu"):
        strategy = SimpleNamespace(precision=MixedPrecision(precision, device))
        fabric = SimpleNamespace(device=torch.device(device), strategy=strategy)
        assert loop._fused(fabric) == (fused and device == "cuda")


def test_rotations_need_square_images(tmp_path: Path) -> None:
    images = ResidentImages(torch.zeros(16, 8, 9, 3, dtype=torch.uint8), torch.arange(16) % 3)
    recipe, fabric = Recipe(epochs=1, batch_size=8, rotations=0.5), Fabric(accelerator="cpu")
    with pytest.raises(TrainingError, match="square"):
        fit(small_network(), images, recipe, Preprocessing((8, 9)), fabric=fabric, seed=0, run={}, folder=tmp_path)


def test_recipes_train(tmp_path: Path) -> None:
    for recipe in RECIPES.values():
        fitted(tmp_path, Recipe.from_dict({**recipe.to_dict(), "epochs": 1, "batch_size": 8}))


TWO_PROCESSES = """
import shutil, sys
import normgate
from normgate.training import Hardware

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


def test_weights_that_are_no_numbers_are_an_error_although_the_loss_is_one(tmp_path: Path) -> None:
    network = normgate.l2norm(small_network())

    def spoil(_: torch.Tensor) -> None:
        network.state_dict()["0.weight"].fill_(math.inf)

    network[0].bias.register_hook(spoil)  # once the loss is known; an epoch is one step
    with pytest.raises(TrainingError, match=r"after epoch 1 weights .*: 0\.weight; choose another precision .*--lr"):
        fitted(tmp_path, Recipe(epochs=2, batch_size=32), network=network)
    assert not list(tmp_path.iterdir())


def streamed(folder: Path, readable: range, preprocessing: Preprocessing) -> StreamedImages:
    """16 images of noise, of which some can be read."""
    rng = np.random.default_rng(0)
    for row in readable:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{row}.png")
    paths = [Record(f"{row}.png", folder / f"{row}.png") for row in range(16)]
    return StreamedImages(paths, torch.arange(16) % 3, preprocessing)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("changes", [{}, {"radial": 0.5, "rotations": 0.5, "patterns": 0.5}])
@pytest.mark.parametrize("readable", [0, 1])
def test_images_that_are_all_gone_are_an_error(readable: int, changes: dict, standardize: bool, tmp_path: Path) -> None:
    preprocessing = Preprocessing((8, 8), standardize=standardize)
    images, fabric = streamed(tmp_path, range(readable), preprocessing), Fabric(accelerator="cpu")
    recipe = Recipe(epochs=1, batch_size=8, **changes)
    with pytest.raises(TrainingError, match="no training image can be read any longer"):
        fit(small_network(), images, recipe, preprocessing, fabric=fabric, seed=0, run={}, folder=tmp_path)


@pytest.mark.parametrize("standardize", [False, True])
def test_a_batch_of_fewer_than_two_images_is_passed_over_and_told(
    standardize: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each epoch has four batches of four images: of one, two, none and four that can be read."""
    order = torch.tensor([0, 8, 9, 10, 1, 2, 11, 12, 13, 14, 15, 7, 3, 4, 5, 6])
    monkeypatch.setattr(torch, "randperm", lambda count, **_: order[:count])
    preprocessing = Preprocessing((8, 8), standardize=standardize)
    images, seen = streamed(tmp_path, range(7), preprocessing), []
    network = small_network()
    network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    recipe, fabric = Recipe(epochs=2, batch_size=4, learning_rate=0.05), Fabric(accelerator="cpu")
    with pytest.warns(UserWarning, match=r"10 of 16 training images were left out of epoch [12]: .*bring back") as told:
        log = fit(network, images, recipe, preprocessing, fabric=fabric, seed=0, run={}, folder=tmp_path)
    assert len(told) == len(log) == 2
    assert seen == [2, 4, 2, 4]
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


ONE_WITHOUT_IMAGES = """
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric

from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record
from normgate.training import Recipe, fit
from normgate.training.images import StreamedImages
from samples import small_network

folder, processes, readable = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
preprocessing = Preprocessing((8, 8), standardize=True)
fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto")
fabric.launch()
records = [Record(str(row), folder / (f"{row}.png" if row < readable else "gone")) for row in range(8)]
torch.randperm = lambda count, **_: torch.arange(count)
network = small_network()
network[4].p = 0.0
recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.05, rotations=0.5)
images = StreamedImages(records, torch.arange(8) % 3, preprocessing)
fit(network, images, recipe, preprocessing, fabric=fabric, seed=0, run={}, folder=folder)
if fabric.is_global_zero:
    torch.save(network.state_dict(), folder / f"{processes}.pt")
"""


def test_a_process_without_images_takes_part_in_the_steps_of_the_others(tmp_path: Path) -> None:
    """The second process reads the latter half of each batch; with one image or none it changes nothing."""
    streamed(tmp_path, range(8), Preprocessing((8, 8)))
    (tmp_path / "one.py").write_text(ONE_WITHOUT_IMAGES)
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    for processes, readable in ((1, 4), (2, 5)):
        command = [sys.executable, tmp_path / "one.py", tmp_path, str(processes), str(readable)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("4 of 8 training images were left out of epoch") == 2
    alone, together = (torch.load(tmp_path / f"{processes}.pt") for processes in (1, 2))
    assert all(torch.allclose(together[key], value, rtol=1e-5, atol=1e-6) for key, value in alone.items())
