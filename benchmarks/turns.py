"""Of benchmarks side by side, so many train at a time; what others do meanwhile (read, compile, evaluate) is done then.

A GPU that works for many at once serves each in slices and all of them later. NORMGATE_TURNS, set by several.py, names
as many files as may train at a time, and whoever trains holds one.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, Self

from normgate.progress import silent

if TYPE_CHECKING:
    from normgate.progress import Progress


class Turn:
    """To be told the progress of training: it waits for its turn, and gives it back when training ends.

    It is first told after ten steps, or after the first epoch, when the step has been compiled; these run without a
    turn.

    Args:
        then: told all of it, too.

    Attributes:
        waited: seconds, which training takes for its own.
    """

    def __init__(self, then: Progress = silent) -> None:
        self.waited = 0.0
        self._then = then
        self._files = [name for name in os.environ.get("NORMGATE_TURNS", "").split(os.pathsep) if name]
        self._held: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._give_back()

    def __call__(self, task: str, done: int, total: int | None, /, **figures: float) -> None:
        """As `normgate.progress.Progress`."""
        trains = task == "training" and done != total
        if not trains:
            self._give_back()
        elif self._files and self._held is None:
            started = time.perf_counter()
            self._held = _free(self._files)
            self.waited += time.perf_counter() - started
        self._then(task, done, total, **figures)

    def _give_back(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _free(files: list[str]) -> int:
    """The first that nobody holds, open; the lock goes when it is closed, or with its process."""
    while True:
        for name in files:
            file = os.open(name, os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                return file
        time.sleep(0.02)
