"""What the command line shows while it works, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
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

    def on_broken_pipe(self) -> None:
        """End where nobody reads the output any longer; go on in silence where nobody reads messages."""
        if self.stderr:
            self.quiet = True
        else:
            super().on_broken_pipe()


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


@dataclasses.dataclass
class _Task:
    """What a log has been told of a task: when it began, with how much done, and what was last said."""

    started: float
    before: int
    done: int
    figures: dict[str, float]
    open: bool = False


class ProgressLines:
    """Writes a line every half a minute, for logs, in which a bar cannot move: they show that work goes on."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._tasks: dict[str, _Task] = {}

    def __call__(self, name: str, done: int, total: int | None, /, **figures: float) -> None:
        """Report progress; see `normgate.progress.Progress`."""
        now = time.monotonic()
        task = self._tasks.get(name)
        if task is None or done < task.done:  # another of the same name
            task = self._tasks[name] = _Task(now, done, done, {})
        task.done = done
        task.figures = figures or task.figures
        ended = done == total
        if now - self._said < PACE and not (ended and task.open):
            return
        self._said = now
        task.open = not ended
        said = [f"{name}: {done:,}" if total is None else f"{name}: {done:,} of {total:,}"]
        said += [f"{figure} {value:.3g}" for figure, value in task.figures.items()]
        if done > task.before and now > task.started:
            rate = (done - task.before) / (now - task.started)
            said.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            if total is not None and not ended:
                said.append(f"about {math.ceil((total - done) / rate / 60)} min left")
        with contextlib.suppress(OSError):  # a log that is full must not cost the job
            # Not by the console, which keeps what it could not write and fails again with it.
            err.file.write(printable(", ".join(said)) + "\n")
            err.file.flush()


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars that are closed whatever happens; lines where stderr is not a terminal."""
    if not err.is_interactive:
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
