"""Of benchmarks side by side, so many train at a time; what others do meanwhile (read, compile, evaluate) is done then.

A GPU that works for many at once serves each in slices and all of them later. NORMGATE_TURNS, set by several.py, names
as many files as may train at a time, and whoever trains holds one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from normgate.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normgate.progress import Progress


@contextlib.contextmanager
def turn(then: Progress = silent) -> Iterator[Progress]:
    """Something to tell training's progress to: it waits for its turn at the first step, and gives it back at the last.

    Args:
        then: told all of it, too.
    """
    files = [name for name in os.environ.get("NORMGATE_TURNS", "").split(os.pathsep) if name]
    held: list[int] = []

    def progress(task: str, done: int, total: int | None, /, **figures: float) -> None:
        if files and task == "training" and not held and done != total:
            held.append(_free(files))
        if held and (task != "training" or done == total):
            os.close(held.pop())
        then(task, done, total, **figures)

    try:
        yield progress
    finally:
        for file in held:
            os.close(file)


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
