"""Where and how training runs: device, processes, precision."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Literal

import torch

from normgate.errors import NormgateError
from normgate.training.processes import part_at_exit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_fabric import Fabric

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


class HardwareError(NormgateError):
    """Training cannot run on this machine, or on these, as asked."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Where and how training runs; the defaults take what is there.

    Attributes:
        accelerator: `auto`, `cpu`, `cuda`, `mps`, …; `cuda:1` is the second of these.
        devices: number of devices on each machine, a process each; they share a recipe's batch.
        nodes: number of machines, each of which runs the same command with `MASTER_ADDR`, `MASTER_PORT` and `NODE_RANK`
            set, or under a launcher (torchrun, Slurm).
        strategy: `auto`, or a name of `STRATEGIES`: those of Lightning Fabric that keep the network whole.
        precision: of Lightning Fabric; by default `bf16-mixed` on CUDA and `32-true` elsewhere.
        compile: let torch.compile write the code of a training step.
    """

    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str | None = None
    compile: bool = False

    def fabric(self) -> Fabric:
        """A launched Fabric.

        Raises:
            HardwareError: there is no such device here, no such strategy or precision, or no way to the other machines.
        """
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        if self.strategy not in STRATEGIES:
            raise HardwareError(
                f"the strategy {self.strategy!r} is not one of {', '.join(STRATEGIES)}: checkpoint and gate need "
                "the whole network in one process"
            )
        accelerator, _, number = self.accelerator.partition(":")
        if number and (accelerator in ("auto", "cpu") or not number.isdecimal() or self.devices != 1):
            raise HardwareError(
                f"--device {self.accelerator} is no single device that training could run on; name a GPU as in cuda:1, "
                "or a kind alone, as in cpu, and how many with --devices"
            )
        precision = self.precision
        cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        if precision is None:
            precision = "bf16-mixed" if cuda else "32-true"
        on_cpu = accelerator == "cpu" or (accelerator == "auto" and not cuda and not torch.backends.mps.is_available())
        if precision == "16-mixed" and on_cpu:
            raise HardwareError("the precision 16-mixed needs a GPU; on a CPU use --precision bf16-mixed")
        try:
            with _without_hints():
                fabric = Fabric(
                    accelerator=accelerator,
                    devices=[int(number)] if number else self.devices,
                    num_nodes=self.nodes,
                    strategy=self.strategy,
                    precision=precision,  # type: ignore[arg-type]
                )
        except (RuntimeError, ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise HardwareError(f"training cannot run as asked: {error} (--device, --devices, --precision)") from error
        environment = getattr(fabric.strategy, "cluster_environment", None)
        if self.nodes > 1 and isinstance(environment, LightningEnvironment):  # no launcher has set them
            _check_addresses(self.nodes)
        try:
            with _without_hints():
                fabric.launch()
        except (torch.distributed.DistError, ValueError) as error:
            raise HardwareError(f"the processes of this run do not find each other: {error}") from error
        if fabric.world_size > 1:
            part_at_exit()
        return fabric


def _check_addresses(nodes: int) -> None:
    """Whether this machine is told where the first one is, and which one it is itself."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if not {"NODE_RANK", "GROUP_RANK"} & os.environ.keys():
        missing.append("NODE_RANK")
    if missing:
        raise HardwareError(
            f"{nodes} machines find each other by {', '.join(missing)}, which are not set: the address of "
            "the first machine, a free port there, and on each machine its number, 0 on the first"
        )
    number = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", ""))
    if not (number.isascii() and number.isdecimal() and int(number) < nodes):
        raise HardwareError(
            f"NODE_RANK is the number of this machine, from 0 to {nodes - 1}, and not {number!r}: nobody would wait "
            "for it"
        )


@contextlib.contextmanager
def _without_hints() -> Iterator[None]:
    """Without what Lightning tells for information: the precision that was chosen here, settings of code elsewhere."""
    logger = logging.getLogger("lightning_fabric.utilities.rank_zero")
    level = logger.level
    logger.setLevel(max(logging.WARNING, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(level)
