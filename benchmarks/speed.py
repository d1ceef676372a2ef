"""How fast training is, and how near to the floor: python benchmarks/speed.py [NAME ...] [--epochs 60].

Trains on the CIFAR-10 pack and writes results/speed-NAME.json for each NAME of `RUNS`: seconds of loading the images,
of the first epoch beyond another (compilation, first kernels), of an epoch in steady state, of all epochs, of training
beside its epochs (the network is built and moved, checkpoints are written), and of calibrating the gate. The floor is
the arithmetic of all forward and backward passes at the rate of a large matrix product of the same precision on the
same device, measured here. How good the networks of shorter runs are is measured by benchmarks/quality.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import normgate
import packs
from normgate.backbones import Backbone
from normgate.data.sources import load
from provenance import write


@dataclasses.dataclass(frozen=True)
class Run:
    """A network and how it is trained.

    Attributes:
        network: arguments of `normgate.train`.
        recipe: changes to the paper's recipe.
        compiled: whether torch.compile writes the step.
    """

    network: dict[str, Any]
    recipe: dict[str, Any]
    compiled: bool = False


FULL: dict[str, Any] = {"model": "resnet18"}
RUNS = {
    "resnet18": Run(FULL, {"batch_size": 256, "learning_rate": 0.2}),
    "resnet18-compiled": Run(FULL, {"batch_size": 256, "learning_rate": 0.2}, compiled=True),
    "resnet18-compiled-128": Run(FULL, {}, compiled=True),
    "resnet18-compiled-512": Run(FULL, {"batch_size": 512, "learning_rate": 0.4}, compiled=True),
}


class Clock:
    """Notes when it last heard of each task."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def __call__(self, task: str, done: int, total: int | None, /, **figures: float) -> None:
        """As `normgate.progress.Progress`."""
        self.last[task.split(" ")[0]] = time.perf_counter()


def matrix_rate() -> float:
    """Floating-point operations a second of a large matrix product of random numbers, the best of ten."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


def operations(network: dict[str, Any], batch: int = 8) -> float:
    """Floating-point operations of a forward and a backward pass, an image of 32 pixels a side."""
    model = Backbone(network["model"], 10, network.get("width"), network.get("stem", 1)).build()
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.randn(batch, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() / batch


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(run: Run, epochs: int) -> dict[str, Any]:
    """Train once and say where the time went."""
    images = load(packs.opened("cifar10"))
    recipe = normgate.Recipe.named("paper", epochs=epochs, **run.recipe)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        gate = normgate.train(
            images,
            Path(folder) / "gate",
            recipe=recipe,
            hardware=normgate.Hardware(compile=run.compiled),
            score="norm",
            drop_duplicates=True,
            progress=clock,
            **run.network,
        )
        ended = time.perf_counter()
    return {
        "recipe": recipe.to_dict(),
        "network": run.network,
        "compiled": run.compiled,
        **figures(gate, recipe, run.network, clock, started, ended, matrix_rate()),
    }


def figures(
    gate: normgate.Gate,
    recipe: normgate.Recipe,
    network: dict[str, Any],
    clock: Clock,
    started: float,
    ended: float,
    rate: float,
) -> dict[str, Any]:
    """Where the time of a training run went, and how that compares with the rate of a matrix product."""
    count = gate.provenance["sets"]["train"]
    batch = min(recipe.batch_size, count)
    shown = count // batch * batch
    seconds = [shown / row["images_per_second"] for row in gate.provenance["log"]]
    steady = statistics.median(seconds[1:]) if len(seconds) > 1 else seconds[0]
    each = operations(network)
    floor = each * shown / rate
    return {
        "images": count,
        "seconds": {
            "all": ended - started,
            "loading": clock.last["reading"] - started,
            "first epoch beyond another": seconds[0] - steady,
            "epoch": steady,
            "epochs": sum(seconds),
            "training beside epochs": clock.last["training"] - clock.last["reading"] - sum(seconds),
            "calibrating": ended - clock.last["training"],
        },
        "images_per_second": shown / steady,
        "operations_an_image": each,
        "matrix_rate": rate,
        "floor_of_an_epoch": floor,
        "share_of_the_matrix_rate": floor / steady,
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], metavar="NAME", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    for name in arguments.names or RUNS:
        write(f"speed-{name}", {"name": name, "seed": 0, **measured(RUNS[name], arguments.epochs)})


if __name__ == "__main__":
    main()
