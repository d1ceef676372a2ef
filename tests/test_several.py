"""Benchmarks side by side: all that are asked for, at most so many at once, and none that goes on unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHILD = """
import os, pathlib, subprocess, sys, time
folder, name, seconds, code = sys.argv[1:]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(folder, name).write_text(f"{child.pid} {os.environ['NORMGATE_AT_ONCE']}")
time.sleep(float(seconds))
sys.exit(int(code))
"""


TRAINING = """
import os, pathlib, sys, time
sys.path.insert(0, sys.argv[2])
from turns import Turn
folder = pathlib.Path(sys.argv[1])

def touch(what):
    (folder / f"{what}-{os.getpid()}").touch()

def wait_for_both(what):
    while len(list(folder.glob(f"{what}-*"))) < 2:
        time.sleep(0.02)

alone = "NORMGATE_TURNS" in os.environ
with Turn() as progress:
    progress("reading", 1, 2)
    touch("arrived")
    wait_for_both("arrived")
    progress("training", 1, 5)
    try:
        (folder / "training").mkdir()  # fails where another trains
    finally:
        touch("tried")
    time.sleep(0.1) if alone else wait_for_both("tried")
    (folder / "training").rmdir()
    progress("training", 5, 5)
    touch("given-back")
    if alone:
        wait_for_both("given-back")
"""


def several(folder: Path, lines: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "child.py").write_text(CHILD)
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "several.py", *options],
        input=lines.replace("CHILD", f"{folder / 'child.py'} {folder}"),
        capture_output=True,
        text=True,
        env={**os.environ, "NORMGATE_RESULTS": str(folder)},
        timeout=120,
        check=False,
    )


def is_there(pid: str) -> bool:
    status = Path("/proc", pid, "stat")
    return status.exists() and status.read_text().split()[2] != "Z"


def left(folder: Path, names: str) -> list[str]:
    """Processes of the processes that are still there."""
    return [pid for name in names if is_there(pid := (folder / name).read_text().split()[0])]


def test_what_has_failed_is_said_and_leaves_no_process(tmp_path: Path) -> None:
    found = several(tmp_path, "CHILD a 0 0\nCHILD b 0 3\n\nCHILD c 0 0\n", "--at-once", "1")
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["done", "failed", "done"]
    assert "failed (3), see " in found.stdout
    assert found.returncode == 1
    assert left(tmp_path, "abc") == []


def test_what_takes_too_long_is_stopped_with_all_its_processes(tmp_path: Path) -> None:
    found = several(tmp_path, "CHILD a 600 0\nCHILD b 0 0\n", "--at-once", "1", "--seconds", "5")
    stopped, not_begun = found.stdout.splitlines()
    assert stopped.startswith("stopped after 5 s")
    assert not_begun.startswith("not begun: ")
    assert found.returncode == 1
    assert left(tmp_path, "a") == []


def test_all_that_is_well_is_well(tmp_path: Path) -> None:
    found = several(tmp_path, "CHILD a 0 0\nCHILD b 0 0\n", "--at-once", "2")
    assert found.returncode == 0
    assert {(tmp_path / name).read_text().split()[1] for name in "ab"} == {"2"}


def test_nothing_would_ever_train(tmp_path: Path) -> None:
    assert several(tmp_path, "CHILD a 0 0\n", "--at-once", "1", "--training", "0").returncode == 2
    assert not (tmp_path / "a").exists()


def test_a_line_that_is_no_command_is_refused_before_anything_runs(tmp_path: Path) -> None:
    found = several(tmp_path, "CHILD a 0 0\nCHILD 'b 0 0\n", "--at-once", "1")
    assert found.returncode == 2
    assert "no command" in found.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("options", "code"), [(("--training", "1"), 0), ((), 1)])
def test_so_many_train_at_a_time(options: tuple[str, ...], code: int, tmp_path: Path) -> None:
    """Two that would stumble over each other, and each of which waits at its end for the other."""
    (tmp_path / "training.py").write_text(TRAINING)
    line = f"{tmp_path / 'training.py'} {tmp_path} {ROOT / 'benchmarks'}\n"
    found = several(tmp_path, 2 * line, "--at-once", "2", "--seconds", "20", *options)
    assert found.returncode == code, [path.read_text() for path in tmp_path.glob("*.log")]
    assert ("FileExistsError" in "".join(path.read_text() for path in tmp_path.glob("*.log"))) == bool(code)
