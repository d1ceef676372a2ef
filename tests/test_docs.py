"""The tutorials run as they are printed, and pages show no figure or command that is not there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def test_the_tutorial_in_python_runs(tmp_path: Path) -> None:
    script = "\n".join(blocks("tutorial.md", "python"))
    assert script.count("import normgate\n") == 1
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"report.html", "signs"}


def test_the_tutorial_on_the_command_line_runs(demo_run: tuple[Path, Any], tmp_path: Path) -> None:
    first, *others = [line for block in blocks("command-line.md", "console") for line in block.splitlines()]
    assert first == "$ normgate demo"  # the fixture has run it
    (tmp_path / "normgate-demo").symlink_to(demo_run[0])
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in others:
        done = subprocess.run(
            line.removeprefix("$ "),
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": places},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    written = {
        "verdicts.parquet",
        "screening.html",
        "odd",
        "evaluation.html",
        "evaluation.csv",
        "figures",
        "probes.svg",
    }
    assert {path.name for path in tmp_path.iterdir()} >= written
