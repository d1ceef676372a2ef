"""Checkpoints: training goes on as if nothing had happened, or not at all."""

from __future__ import annotations

import functools
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from normgate.files import OutputError
from normgate.training.checkpoint import Checkpoint, CheckpointError, Writing
from samples import small_network

RUN = {"seed": 0, "recipe": {"epochs": 3, "shift": 0.125}, "classes": ("cat", "dog")}
LOG = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-300}]


def started(seed: int, momentum: float = 0.9) -> tuple[nn.Module, torch.optim.SGD]:
    network = small_network(seed)
    return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum, nesterov=momentum > 0)


def train(network: nn.Module, optimizer: torch.optim.SGD, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        x, y = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint after three steps."""
    network, optimizer = started(0)
    train(network, optimizer, range(3))
    Checkpoint.take(RUN, LOG, {"model": network}, optimizer).save(tmp_path / "checkpoint.safetensors")
    return tmp_path / "checkpoint.safetensors"


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_training_goes_on_to_the_same_weights(momentum: float, tmp_path: Path) -> None:
    network, optimizer = started(0, momentum)
    train(network, optimizer, range(3))
    Checkpoint.take(RUN, LOG, {"model": network}, optimizer).save(tmp_path / "c")
    train(network, optimizer, range(3, 6))
    again, restored = started(7, momentum)
    checkpoint = Checkpoint.load(tmp_path / "c", RUN)
    checkpoint.restore({"model": again}, restored)
    assert checkpoint.log == LOG
    train(again, restored, range(3, 6))
    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
    if momentum:
        for one, other in zip(again.parameters(), network.parameters(), strict=True):
            assert torch.equal(restored.state[one]["momentum_buffer"], optimizer.state[other]["momentum_buffer"])


def test_a_scaler_goes_on(file: Path) -> None:
    network, optimizer = started(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=7)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**-3, "_growth_tracker": 5})
    Checkpoint.take(RUN, LOG, {"model": network}, optimizer, scaler).save(file.with_name("scaled"))
    fresh = torch.amp.GradScaler("cpu")
    Checkpoint.load(file.with_name("scaled"), RUN).restore({"model": network}, optimizer, fresh)
    assert fresh.state_dict() == scaler.state_dict()


def test_momentum_counts(file: Path) -> None:
    """What the test above would not notice if momentum were lost is not nothing."""
    checkpoint = Checkpoint.load(file, RUN)
    assert {key for key in checkpoint.tensors if key.startswith("optimizer.")} == {
        f"optimizer.{i}.momentum_buffer" for i in range(6)
    }
    weights = []
    for tensors in (
        checkpoint.tensors,
        {key: value for key, value in checkpoint.tensors.items() if key.startswith("model.")},
    ):
        network, optimizer = started(7)
        Checkpoint(RUN, LOG, tensors).restore({"model": network}, optimizer)
        train(network, optimizer, range(3, 6))
        weights.append(network[0].weight)
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("run", "differences"),
    [
        ({**RUN, "seed": 1}, "seed is 1, was 0"),
        (
            {**RUN, "seed": 1, "classes": ["cat", "owl"]},
            "classes is ['cat', 'owl'], was ['cat', 'dog'], seed is 1, was 0",
        ),
        ({**RUN, "recipe": {"epochs": 10, "shift": 0.125}}, "epochs is 10, was 3"),
        ({**RUN, "recipe": {"epochs": 3, "shift": 0.125, "averaging": 2}}, "averaging is 2, was None"),
        ({**RUN, "images": "0123456789abcdef" * 2}, "images differs"),
        ({key: value for key, value in RUN.items() if key != "seed"}, "seed is None, was 0"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(
    run: dict[str, Any], differences: str, file: Path
) -> None:
    message = f"belongs to another run: {differences}; give the same arguments, or pass --overwrite "
    with pytest.raises(CheckpointError, match=re.escape(message)):
        Checkpoint.load(file, run)


def _with_metadata(metadata: dict[str, str] | None) -> Callable[[Path], None]:
    return lambda path: save_file({"model.x": torch.zeros(1)}, path, metadata)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one byte less": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "header alone": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "empty": lambda path: path.write_bytes(b""),
    "no safetensors": lambda path: path.write_bytes(pickle.dumps(RUN)),
    "no metadata": _with_metadata(None),
    "no log": _with_metadata({"run": "{}"}),
    "no scaler": _with_metadata({"run": "{}", "log": "[]", "scaler": "1"}),
    "no JSON": _with_metadata({"run": "{", "log": "[]"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_and_foreign_files_are_refused(name: str, file: Path) -> None:
    DAMAGES[name](file)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))} is damaged .*; pass --overwrite "):
        Checkpoint.load(file, RUN)


@pytest.mark.parametrize(
    "error", [SafetensorError("No space left"), OSError(28, "No space left"), KeyboardInterrupt()], ids=repr
)
def test_a_failure_while_saving_leaves_the_old_one_whole(
    error: BaseException, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = file.read_bytes()

    def half(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(old[:100])
        raise error

    monkeypatch.setattr("normgate.training.checkpoint.save_file", half)
    interrupted = isinstance(error, KeyboardInterrupt)
    with pytest.raises(
        KeyboardInterrupt if interrupted else OutputError, match=None if interrupted else "No space left"
    ):
        Checkpoint(RUN, LOG, {"model.x": torch.zeros(1)}).save(file)
    assert file.read_bytes() == old
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_newer_checkpoint_takes_the_place_of_the_old_one(file: Path) -> None:
    network, optimizer = started(3)
    Checkpoint.take(RUN, LOG[:1], {"model": network}, optimizer).save(file)
    checkpoint = Checkpoint.load(file, RUN)
    assert checkpoint.log == LOG[:1]
    assert torch.equal(checkpoint.tensors["model.0.weight"], network[0].weight)


def test_training_may_go_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    network, optimizer = started(0)
    train(network, optimizer, range(3))
    log = list(LOG)
    taken = Checkpoint.take(RUN, log, {"model": network}, optimizer)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    log.append({"epoch": 3})
    train(network, optimizer, range(3, 6))
    taken.save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c", RUN)
    assert loaded.log == LOG
    assert all(torch.equal(loaded.tensors[f"model.{key}"], value) for key, value in before.items())


def test_files_are_written_one_after_another() -> None:
    done: list[int] = []
    gates = [threading.Event() for _ in range(2)]

    def write(number: int) -> None:
        gates[number].wait(60)
        done.append(number)

    with Writing() as writing:
        writing.begin(functools.partial(write, 0))
        assert done == []  # training goes on
        gates[0].set()
        writing.begin(functools.partial(write, 1))  # waits for the first
        assert done == [0]
        gates[1].set()
        writing.finish()
        assert done == [0, 1]
        writing.finish()  # nothing is left to wait for


@pytest.mark.parametrize("then", ["begin", "finish"])
def test_what_went_wrong_in_writing_is_said(then: str) -> None:
    def fail() -> None:
        raise OutputError("the disk is full")

    with Writing() as writing, pytest.raises(OutputError, match="the disk is full"):
        writing.begin(fail)
        writing.finish() if then == "finish" else writing.begin(lambda: None)


def test_what_has_begun_ends_although_training_fails() -> None:
    done = []
    with pytest.raises(KeyError), Writing() as writing:
        writing.begin(lambda: done.append(1))
        raise KeyError
    assert done == [1]
