"""Bars, what a terminal is shown, and how the command line ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from normgate import console
from normgate.console import ProgressBars, debugging, prefixed, progress_bars
from normgate.data.names import printable


@given(st.text())
def test_printable_text_is_one_line_without_codes(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert shown.isprintable()
    assert all(a == b or (b == "\ufffd" and not a.isprintable()) for a, b in zip(text, shown, strict=True))


@pytest.mark.parametrize("code", ["\x1b", "\n", "\r", "\x07", "\x00", "\x9b", "\u202e", "\u2028", "\udcff"])
def test_what_drives_a_terminal_is_replaced(code: str) -> None:
    assert printable(f"a{code}[31m é中🦉") == "a\ufffd[31m é中🦉"


# ------------------------------------------------------------------------------------------------------- bars


def drawn(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, patience: float) -> str:
    """What bars leave on stderr."""
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_interactive=terminal, width=120, color_system=None))
    monkeypatch.setattr(console, "PATIENCE", patience)
    with progress_bars() as bars:
        for done in (1, 2, 5):
            bars("reading", done, 5, loss=0.25)
    return stream.getvalue()


def test_a_terminal_is_shown_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = drawn(monkeypatch, terminal=True, patience=0)
    for part in ("reading", "5/5", "loss 0.25"):
        assert part in shown


def test_nothing_is_drawn_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, terminal=False, patience=0) == ""


Call = tuple[float, str, int, int | None, dict[str, float]]


def logged(monkeypatch: pytest.MonkeyPatch, calls: list[Call]) -> str:
    """What a log says of progress that is told at these seconds."""
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(console, "err", Console(file=stream, width=40, color_system=None))
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with progress_bars() as progress:
        for second, task, done, total, figures in calls:
            now[0] = second
            progress(task, done, total, **figures)
    return stream.getvalue()


def test_a_log_has_a_line_every_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = [(second, "training", 10 * second, 1200, {"loss": 2 / second}) for second in range(1, 121)]
    assert logged(monkeypatch, calls).splitlines() == [
        "training: 300 of 1,200, loss 0.0667, 10/s, about 2 min left",
        "training: 600 of 1,200, loss 0.0333, 10/s, about 1 min left",
        "training: 900 of 1,200, loss 0.0222, 10/s, about 1 min left",
        "training: 1,200 of 1,200, loss 0.0167, 10/s",
    ]


def test_a_log_tells_when_a_long_task_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = [
        (0, "reading", 0, 100, {}),
        (5, "reading", 100, 100, {}),
        (10, "training", 400, 800, {"loss": 0.5}),  # resumed: what was done before says nothing about the rate
        (40, "training", 700, 800, {}),
        (50, "training", 800, 800, {}),
        (51, "training", 800, 800, {}),
        (90, "reading a\x1b[31m", 7, None, {}),
        (91, "reading", 10, 100, {}),  # begins anew
        (130, "reading", 100, 100, {}),
        (131, "reading", 100, 100, {}),
        (135, "report", 0, 3, {}),
        (165, "report", 2, 3, {}),
    ]
    assert logged(monkeypatch, calls).splitlines() == [
        "training: 700 of 800, loss 0.5, 10/s, about 1 min left",
        "training: 800 of 800, loss 0.5, 10/s",
        "reading a\N{REPLACEMENT CHARACTER}[31m: 7",
        "reading: 100 of 100, 2.3/s",
        "report: 2 of 3, 0.067/s, about 1 min left",
    ]


@pytest.mark.parametrize("error", [BrokenPipeError, OSError])
def test_a_log_that_cannot_be_written_costs_nothing(error: type[OSError], monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(io.StringIO):
        def write(self, text: str) -> int:
            raise error("gone")

    terminal = console.Terminal(file=Lost(), stderr=True)
    monkeypatch.setattr(console, "err", terminal)
    monkeypatch.setattr(console, "PACE", 0.0)
    with progress_bars() as progress:
        for done in range(3):
            progress("reading", done, 3)
    if error is BrokenPipeError:
        terminal.print("a message")  # such as the next warning


def test_whoever_reads_the_output_ends_the_command() -> None:
    code = """
import sys
from normgate import console
console.out.print("x")
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")  # of which the program makes 0


def test_nothing_is_drawn_of_what_is_quickly_done(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, terminal=True, patience=float("inf")) == ""


def test_bars_are_closed_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[ProgressBars] = []
    monkeypatch.setattr(console, "err", Console(file=io.StringIO(), force_interactive=True))
    monkeypatch.setattr(ProgressBars, "close", lambda bars: closed.append(bars))
    with pytest.raises(KeyboardInterrupt), progress_bars() as bars:
        raise KeyboardInterrupt
    assert closed == [bars]


def test_prefixed_tasks() -> None:
    told: list[object] = []
    prefixed("seed 1: ", lambda *given, **figures: told.append((given, figures)))("training", 3, None, loss=0.5)
    assert told == [(("seed 1: training", 3, None), {"loss": 0.5})]


# -------------------------------------------------------------------------------------------------------- ends


def test_debugging_is_asked_for_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NORMGATE_DEBUG", raising=False)
    assert not debugging()
    monkeypatch.setenv("NORMGATE_DEBUG", "")
    assert not debugging()
    monkeypatch.setenv("NORMGATE_DEBUG", "1")
    assert debugging()


@pytest.mark.parametrize("silenced", [True, False])
def test_a_broken_pipe_is_silenced(silenced: bool) -> None:
    code = f"""
import sys
from normgate.console import silence_broken_pipe
try:
    print("x", flush=True)
except BrokenPipeError:
    if {silenced}:
        silence_broken_pipe()
"""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # what is left in the buffer is flushed at exit, too
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(writing)
    assert ((done.returncode, done.stderr) == (0, "")) == silenced


def test_names_in_a_bar_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    terminal = console.Terminal(file=stream, force_terminal=True, width=120, highlight=False, markup=False, emoji=False)
    monkeypatch.setattr(console, "err", terminal)
    monkeypatch.setattr(console, "PATIENCE", -1.0)
    with console.progress_bars() as bars:
        bars("a[/b]\x1b]0;T\x07 images", 1, 2)
    assert "a[/b]\N{REPLACEMENT CHARACTER}]0;T\N{REPLACEMENT CHARACTER} images" in stream.getvalue()
