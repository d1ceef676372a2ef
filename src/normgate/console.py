"""What the command line shows while it works, and how it ends."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from normgate.data.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from normgate.progress import Progress


class Terminal(Console):
    """A console on which names of files and classes are shown as they are and drive nothing, in tables and outside."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Text without escape codes; line breaks are ours."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


out = Terminal(highlight=False, markup=False, emoji=False)
err = Terminal(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(value: Any, *, indent: int | None = 1) -> None:
    """JSON for machines on standard output, in ASCII, so that every encoding carries every name."""
    sys.stdout.write(json.dumps(value, indent=indent, allow_nan=False) + "\n")


PATIENCE = 2.0  # seconds before a bar appears
PACE = 30.0  # seconds between two lines of a log


class ProgressBars:
    """Draws a bar for each task that takes longer than two seconds."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __call__(self, task: str, done: int, total: int | None, /, **figures: float) -> None:
        """Report progress; see `normgate.progress.Progress`."""
        started = self._started.setdefault(task, time.monotonic())
        if task not in self._tasks:
            if time.monotonic() - started < PATIENCE:
                return
            self._tasks[task] = self._drawn().add_task(printable(task), total=total, figures="")
        self._drawn().update(self._tasks[task], completed=done, total=total)
        if figures:
            said = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
            self._drawn().update(self._tasks[task], figures=said)

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        if self._bar is not None:
            self._bar.stop()

    def _drawn(self) -> Bar:
        if self._bar is None:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                ProgressColumn,
                TextColumn,
                TimeRemainingColumn,
            )

            class Rate(ProgressColumn):
                def render(self, task: object) -> Text:
                    speed = getattr(task, "finished_speed", None) or getattr(task, "speed", None)
                    return Text("" if speed is None else f"{speed:,.0f} images/s", style="cyan")

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                Rate(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                console=err,
            )
            self._bar.start()
        return self._bar


class ProgressLines:
    """Writes a line every half a minute, for logs, in which a bar cannot move: they show that work goes on."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._begun: dict[str, tuple[float, int]] = {}
        self._figures: dict[str, dict[str, float]] = {}
        self._open: set[str] = set()

    def __call__(self, task: str, done: int, total: int | None, /, **figures: float) -> None:
        """Report progress; see `normgate.progress.Progress`."""
        now = time.monotonic()
        started, before = self._begun.setdefault(task, (now, done))
        if figures:
            self._figures[task] = figures
        ended = done == total and task in self._open
        if now - self._said < PACE and not ended:
            return
        self._said = now
        self._open.add(task)
        if ended:
            self._open.discard(task)
        said = [f"{task}: {done:,}" if total is None else f"{task}: {done:,} of {total:,}"]
        said += [f"{name} {value:.3g}" for name, value in self._figures.get(task, {}).items()]
        if done > before and now > started:
            rate = (done - before) / (now - started)
            said.append(f"{rate:,.0f} images/s")
            if total is not None and done < total:
                said.append(f"about {math.ceil((total - done) / rate / 60)} min left")
        err.print(printable(", ".join(said)), soft_wrap=True)


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars that are closed whatever happens; lines where stderr is not a terminal."""
    if not err.is_terminal:
        yield ProgressLines()
        return
    bars = ProgressBars()
    try:
        yield bars
    finally:
        bars.close()


def prefixed(prefix: str, progress: Progress) -> Progress:
    """The same progress, with tasks of their own."""

    def report(task: str, done: int, total: int | None, /, **figures: float) -> None:
        progress(prefix + task, done, total, **figures)

    return report


def debugging() -> bool:
    """Whether the user asked for full tracebacks."""
    return bool(os.environ.get("NORMGATE_DEBUG"))


def silence_broken_pipe() -> None:
    """Keep Python from complaining at exit that whoever read our output went away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
