"""How long work says how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then by anything that may take long."""

    def __call__(self, task: str, done: int, total: int | None, /, **figures: float) -> None:
        """Report that `done` of `total` (None: unknown) images of a task are finished, with running figures."""


def silent(task: str, done: int, total: int | None, /, **figures: float) -> None:
    """Report nothing."""
