"""Several processes that train one network: what one finds wrong ends them all, and one of them says it."""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Any

import torch

from normgate.errors import NormgateError, ToldError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_fabric import Fabric
    from torch.distributed import ProcessGroup

_PATIENCE = dt.timedelta(days=7)


class ProcessError(NormgateError):
    """The processes of a run cannot work together, or one of them is gone."""


def part_at_exit() -> None:
    """Part this process from the others as it exits: threads of gloo that outlive the interpreter abort it."""
    atexit.unregister(_part)
    atexit.register(_part)


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def patient(fabric: Fabric) -> ProcessGroup | None:
    """A channel on which others wait while the first makes the gate, however long that takes; all call this at once."""
    if fabric.world_size == 1:
        return None
    group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    assert not isinstance(group, int)  # that of a process that is left out, and none is
    return group


@contextlib.contextmanager
def agreed(fabric: Fabric, group: ProcessGroup | None = None) -> Iterator[None]:
    """All processes wait for each other at the end of the block, and an error of one is an error of each.

    The block is work of each process by itself: if it spoke to the others, one that fails would leave them waiting.

    Args:
        fabric: the processes; with a single one this does nothing.
        group: the channel on which they wait; by default the one that training uses, and its time limit.

    Raises:
        ToldError: in processes other than the first that failed, on its machine; those on others pass its words on.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        if fabric.world_size == 1:
            raise
        error = caught
    if fabric.world_size == 1:
        return
    outcomes: list[Any] = [None] * fabric.world_size
    said = str(error) if isinstance(error, NormgateError) else f"{type(error).__name__}: {error}"
    mine = None if error is None else (fabric.node_rank, said)
    torch.distributed.all_gather_object(outcomes, mine, group=group)
    failed = next((rank for rank, outcome in enumerate(outcomes) if outcome is not None), None)
    if failed is None:
        return
    if failed == fabric.global_rank and error is not None:
        raise error
    machine, told = outcomes[failed]
    if fabric.local_rank == 0 and fabric.node_rank != machine:
        raise ProcessError(f"machine {machine} of this run: {told}")
    raise ToldError


def check_same(fabric: Fabric, values: dict[str, Any], fix: str) -> None:
    """Compare what processes must have in common, before they would wait for each other in vain.

    Args:
        fabric: the processes.
        values: by name, of this process.
        fix: what to do where they differ.

    Raises:
        ProcessError: they differ.
    """
    first = fabric.broadcast(values)
    with agreed(fabric):
        differing = sorted(name for name in values.keys() | first.keys() if values.get(name) != first.get(name))
        if differing:
            raise ProcessError(f"{', '.join(differing)} differ between the processes of this run; {fix}")


@contextlib.contextmanager
def noticing_loss(fabric: Fabric) -> Iterator[None]:
    """Say so where another process is gone.

    Raises:
        ProcessError: as said.
    """
    try:
        yield
    except RuntimeError as error:
        # Of what gloo raises no type tells it from other errors.
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if fabric.world_size == 1 or not lost:
            raise
        raise ProcessError(
            "another process of this run has ended, or cannot be reached: see what it said; "
            "--resume (resume=True) goes on after the last epoch that is on the disk"
        ) from error
