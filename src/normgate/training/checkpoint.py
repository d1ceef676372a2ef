"""Checkpoints: everything that training needs to go on after any epoch, in one safetensors file."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from normgate.errors import NormgateError
from normgate.files import OutputError, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

_ANEW = "pass --overwrite (overwrite=True) in place of --resume to train anew"
_LONGEST_SHOWN = 30


class CheckpointError(NormgateError):
    """A checkpoint is damaged or belongs to another run."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State after a finished epoch. All randomness derives from (seed, epoch), so no generator's state is kept.

    Attributes:
        run: what the run was asked to do (recipe, seed, data, network); another run's checkpoint is refused.
        log: one row of figures for each finished epoch.
        tensors: `model.*`, `optimizer.*`, and those of further modules under their names.
        scaler: state of what scales the loss with 16-bit floats; empty where nothing does.
    """

    run: dict[str, Any]
    log: list[dict[str, float | None]]
    tensors: dict[str, torch.Tensor]
    scaler: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def take(
        cls,
        run: dict[str, Any],
        log: list[dict[str, float | None]],
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Checkpoint:
        """Copy the state of modules, `model` among them, of their optimiser and of its scaler; training may go on."""
        tensors = {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items() if value is not None}
        copied = {key: value.detach().clone() for key, value in tensors.items()}
        return cls(run, list(log), copied, {} if scaler is None else scaler.state_dict())

    def save(self, path: Path) -> None:
        """Replace the file at `path`, which at every moment holds a whole checkpoint.

        Raises:
            OutputError: it cannot be written.
        """
        metadata = {key: json.dumps(getattr(self, key)) for key in ("run", "log", "scaler")}
        with _stream_of_its_own(next((value.device for value in self.tensors.values()), torch.device("cpu"))):
            tensors = {key: value.detach().cpu().contiguous() for key, value in self.tensors.items()}
        try:
            with whole_file(path, overwrite=True) as partial:
                save_file(tensors, partial, metadata)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OutputError(f"{path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: Path, run: dict[str, Any]) -> Checkpoint:
        """Read a checkpoint of the same run.

        Raises:
            CheckpointError: it is damaged, or was made with other settings or other data; names the differences.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            found, log = json.loads(metadata["run"]), json.loads(metadata["log"])
            scaler = json.loads(metadata["scaler"])
            tensors = load_file(path)
            if not isinstance(found, dict) or not isinstance(log, list) or not isinstance(scaler, dict):
                raise ValueError("its metadata is not that of a checkpoint")
        except (SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); {_ANEW}") from error
        expected = json.loads(json.dumps(run))
        if found != expected:
            differing = ", ".join(_differences(expected, found))
            raise CheckpointError(f"{path} belongs to another run: {differing}; give the same arguments, or {_ANEW}")
        return cls(found, log, tensors, scaler)

    def restore(
        self,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Put the state back into modules, an optimiser and a scaler that were made the same way."""
        if scaler is not None and self.scaler:
            scaler.load_state_dict(self.scaler)
        for name, part in modules.items():
            prefix = f"{name}."
            part.load_state_dict(
                {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
            )
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in self.tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    # In the parameter's own memory format: steps are otherwise slower and rounded in another way.
                    values[key] = torch.empty_like(parameter).copy_(value)


class Writing:
    """Files that are written one after another in another thread, so that a GPU does not wait for a disk.

    An error is raised where the next file is begun or the last is waited for.
    """

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._last: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()

    def begin(self, write: Callable[[], None]) -> None:
        """Write a file once the one before is there."""
        self.finish()
        self._last = self._thread.submit(write)

    def finish(self) -> None:
        """Wait for the file that was begun last."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()


def _differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two runs, with both values unless they are digests or long lists, which tell nobody much."""
    for key in sorted(now.keys() | before.keys()):
        new, old = now.get(key), before.get(key)
        if isinstance(new, dict) and isinstance(old, dict):
            yield from _differences(new, old)
        elif new != old:
            shown = max(len(str(new)), len(str(old))) <= _LONGEST_SHOWN
            yield f"{key} is {new}, was {old}" if shown else f"{key} differs"


@contextlib.contextmanager
def _stream_of_its_own(device: torch.device) -> Iterator[None]:
    """Copies to the host, in this block, wait for what a GPU was told before, and nothing waits for them."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
