"""What a network is: the same digest wherever it is, another for everything that changes features."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import enum
import functools
import logging
import re
import subprocess
import sys
import threading
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from normgate.identity import IdentityError, network_digest
from samples import small_network


class Activated(nn.Module):
    """A network whose code and plain attributes say what it does."""

    def __init__(self, activation: Any = torch.relu, gain: float = 1.0) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.activation = activation
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.gain * self.activation(x))


class Halved(Activated):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.gain * self.activation(x)) / 2


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def tripled(x: torch.Tensor) -> torch.Tensor:
    return 3 * x


def through(function: Any) -> Any:
    """A function with a closure."""
    return lambda x: function(x)


def activated(cls: type[Activated] = Activated, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return cls(**arguments)


def test_copies_modes_and_wrappers_are_the_same_network() -> None:
    network = small_network()
    digest = network_digest(network)
    assert network_digest(copy.deepcopy(network).eval()) == digest
    import lightning_fabric  # noqa: F401 (puts a wrapper in the place of torch.compile)

    assert network_digest(torch.compile(network, backend="eager")) == digest
    network.eval()(torch.zeros(1, 3, 8, 8))
    assert network_digest(network) == digest


def test_everything_that_changes_features_changes_the_digest() -> None:
    networks = [
        small_network(0),
        small_network(1),
        activated(),
        activated(Halved),
        activated(gain=2.0),
        activated(activation=doubled),
        activated(activation=tripled),
        activated(activation=through(doubled)),
        activated(activation=through(tripled)),
        activated(activation=functools.partial(torch.clamp, min=0.0)),
        activated(activation=functools.partial(torch.clamp, min=0.5)),
    ]
    hooked = activated()
    hooked.fc.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    buffered = small_network()
    buffered[1].running_mean[0] += 1e-6
    tensor = activated()
    tensor.offset = torch.ones(3)
    half = activated().half()
    networks += [hooked, buffered, tensor, half]
    assert len({network_digest(network) for network in networks}) == len(networks)


class Mode(enum.Enum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Settings:
    low: float


class Slotted:
    __slots__ = ("low",)

    def __init__(self, low: float) -> None:
        self.low = low


class Scaled:
    """A callable object."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x

    def hook(self, _: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        return self(output)


def holding(value: Any) -> nn.Module:
    network = activated()
    network.setting = value
    return network


def cyclic(value: Any) -> Any:
    held = types.SimpleNamespace(value=value)
    held.itself = [held]
    return held


PAIRS: dict[str, tuple[Any, Any]] = {
    "namespace": (argparse.Namespace(low=0.0), argparse.Namespace(low=-9.0)),
    "simple namespace": (types.SimpleNamespace(low=0.0), types.SimpleNamespace(low=-9.0)),
    "dataclass": (Settings(0.0), Settings(-9.0)),
    "slots": (Slotted(0.0), Slotted(-9.0)),
    "enum": (Mode.LOW, Mode.HIGH),
    "array": (np.zeros(3), np.array([0, 0, 1e-9])),
    "array's shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "array of objects": (np.array([None, "a"]), np.array([None, "b"])),
    "number": (np.float32(1), np.float32(2)),
    "kind of number": (np.float32(1), np.float64(1)),
    "complex": (1j, 2j),
    "set": ({"a", "b"}, {"a", "c"}),
    "slice": (slice(0, 3), slice(0, 4)),
    "slice of tensors": (slice(torch.zeros(9999)), slice(torch.ones(9999))),
    "range": (range(3), range(4)),
    "bytes": (b"a", b"b"),
    "device": (torch.device("cpu"), torch.device("meta")),
    "dtype": (np.dtype("f4"), np.dtype("f8")),
    "path": (Path("a"), Path("b")),
    "deque": (collections.deque([1]), collections.deque([2])),
    "pattern": (re.compile("a"), re.compile("b")),
    "callable": (Scaled(1), Scaled(2)),
    "method": (Scaled(1).__call__, Scaled(2).__call__),
    "built-in function": (torch.relu, torch.sigmoid),
    "class": (nn.ReLU, nn.SiLU),
    "module in a list": ([nn.Dropout(0.1)], [nn.Dropout(0.2)]),
    "weights in a list": ([activated().fc], [nn.Linear(4, 3)]),
    "key": ({"a": 1, "b": 2}, {"b": 1, "a": 2}),
    "nested": ({"a": [Settings(0.0)]}, {"a": [Settings(-9.0)]}),
    "grouping": ([[1], 2], [[1, 2]]),
    "cycle": (cyclic(1), cyclic(2)),
    "two closures of one function": ([through(doubled), through(tripled)], [through(doubled), through(doubled)]),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_whatever_sets_a_network_up_is_seen(pair: tuple[Any, Any]) -> None:
    one, other = (network_digest(holding(value)) for value in pair)
    assert one != other
    assert network_digest(holding(copy.deepcopy(pair[0]))) == one


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_what_hooks_hold_is_seen(register: str) -> None:
    offset = torch.ones(3)

    def hooked(hook: Any) -> str:
        network = activated()
        getattr(network.fc, register)(hook)
        return network_digest(network)

    def closure(factor: Any) -> Any:
        return lambda _, __, output=None: output * factor

    def default(factor: float) -> Any:
        return lambda _, __, output=None, factor=factor: output * factor

    found = [
        *(hooked(closure(factor)) for factor in (1.0, 2.0, offset, 2 * offset, {"factor": 1.0}, {"factor": 2.0})),
        *(hooked(default(factor)) for factor in (1.0, 2.0)),
        *(hooked(Scaled(factor).hook) for factor in (1.0, 2.0)),
        *(hooked(functools.partial(doubled, factor=factor)) for factor in (1.0, 2.0)),
    ]
    assert len(set(found)) == len(found)
    assert hooked(closure(2.0)) == found[1]


def test_bystanders_change_nothing() -> None:
    def holder(handles: int) -> nn.Module:
        network = activated()
        for _ in range(handles):  # the number of a handle counts all hooks of the process
            network.fc.register_forward_hook(doubled).remove()
        handle = network.fc.register_forward_hook(doubled)
        network.setting = [handle, logging.getLogger("a"), threading.Lock(), np, weakref.ref(network)]
        return network

    assert network_digest(holder(0)) == network_digest(holder(5))


def test_what_cannot_be_seen_is_refused() -> None:
    chain: Any = []
    for _ in range(10_000):
        chain = [chain]
    for value in ((i for i in range(3)), sys.stdout, cyclic(sys.stdout), chain):
        with pytest.raises(IdentityError, match="told from others"):
            network_digest(holding(value))
    network = activated()
    network.register_forward_hook(lambda _, __, output, stream=sys.stdout: stream and output)
    with pytest.raises(IdentityError, match="told from others"):
        network_digest(network)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext", "test_efficientnet"])
def test_networks_of_timm_can_be_cached(name: str) -> None:
    network = timm.create_model(name, num_classes=3)
    assert network_digest(copy.deepcopy(network)) == network_digest(network)


def test_another_process_finds_the_same() -> None:
    code = (
        "import timm, torch; from normgate.identity import network_digest;"
        "torch.manual_seed(0); network = timm.create_model('resnet10t', num_classes=3);"
        "network.setting = [{'a', 'b', 'c'}, torch.relu]; print(network_digest(network))"
    )
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=3)
    network.setting = [{"a", "b", "c"}, torch.relu]
    here = network_digest(network)
    run = [sys.executable, "-c", code]
    there = subprocess.run(run, env={"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_a_state_that_is_not_all_tensors_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "something"

    with pytest.raises(IdentityError, match="told from others"):
        network_digest(nn.Sequential(Odd(2, 2)))


SOURCE = """
from torch import nn
import torch

GAIN = {gain}
SCALES = (({scale}, 'and more'),)

def squash(x):
    return torch.{function}(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        outer = lambda y: [GAIN * SCALES[0][0] * squash(part) for part in y.split(2, dim=1)]
        return self.fc(torch.cat(outer(x), dim=1))
"""


def network_of(place: Path, gain: float, function: str, scale: float = 1) -> nn.Module:
    """The network of a module whose source says so, with the same weights."""
    place.write_text(SOURCE.format(gain=gain, function=function, scale=scale))
    module = types.ModuleType("net")
    exec(compile(place.read_text(), str(place), "exec"), vars(module))
    torch.manual_seed(0)
    return module.Net()


def test_what_a_comprehension_in_a_lambda_names_is_seen(tmp_path: Path) -> None:
    options = ((2, "tanh"), (2, "tanh"), (2, "relu"), (3, "tanh"), (2, "tanh", 9))
    first, again, *others = (network_digest(network_of(tmp_path / "net.py", *chosen)) for chosen in options)
    assert first == again
    assert len({first, *others}) == 4
