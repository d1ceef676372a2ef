"""The tutorials run as they are printed, and pages show no figure or command that is not there."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normgate import Gate

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


def test_scores_of_arrays_from_elsewhere() -> None:
    (code,) = (block for block in blocks("guide.md", "python") if "evaluate_features" in block)
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {"weight": rng.normal(size=(5, 16)), "bias": rng.normal(size=5)}
    for name in ("train", "test"):
        given[f"y_{name}"] = rng.integers(0, 5, 200)
        given[f"z_{name}"] = rng.normal(size=(200, 16)) + 3 * given["weight"][given[f"y_{name}"]]
    given["z_far"] = rng.normal(size=(100, 16))
    exec(code, given)
    assert given["found"].accuracy > 0.95
    assert given["found"].metrics["vim"]["far"].auroc > 0.95


@pytest.mark.parametrize(("block", "machines"), [(0, 1), (1, 1), (2, 2)], ids=["settings", "processes", "machines"])
def test_training_with_settings_by_two_processes_and_on_two_machines_runs(
    block: int, machines: int, tmp_path: Path
) -> None:
    """The commands of the guide, but that both machines are this one."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(100 + number):
            pixels = rng.integers(0, 80, (8, 8, 3), dtype=np.uint8)
            pixels[:, :, number] += 120
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": places, "OMP_NUM_THREADS": "1"}
    commands = blocks("guide.md", "console")[block].splitlines()
    assert len(commands) == machines
    lines = [line.removeprefix("$ ").replace("10.0.0.1", "127.0.0.1").replace("29500", str(port)) for line in commands]
    running = [
        subprocess.Popen(line, shell=True, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        for line in lines
    ]
    for process in running:
        said = process.communicate()[1]
        assert process.returncode == 0, said
    kept = Gate.load(tmp_path / "gates" / "photos").kept
    ids = [name for part in ("train", "tuning", "calibration") for name in kept[part].ids]
    files = (tmp_path / "photos").rglob("*.png")
    assert sorted(ids) == sorted(path.relative_to(tmp_path / "photos").as_posix() for path in files)


def test_results_that_are_named_are_there() -> None:
    root = Path(__file__).parents[1]
    files = [*root.glob("docs/*.md"), root / "README.md", *root.glob("src/**/*.py")]
    named = {
        name for file in files for name in re.findall(r"benchmarks/results/[\w.-]+\.json", file.read_text("utf-8"))
    }
    assert len(named) >= 5
    assert not [name for name in sorted(named) if not (root / name).exists()]


def test_the_commands_of_the_server_run(demo_run: tuple[Path, Any], tmp_path: Path) -> None:
    install, start, *asking = [line for block in blocks("server.md", "console") for line in block.splitlines()]
    assert (install, start) == ("$ pip install 'normgate[serve]'", "$ normgate serve normgate-demo/gate")
    (tmp_path / "normgate-demo").symlink_to(demo_run[0])
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "PATH": places}, "text": True}
    command = [*start.removeprefix("$ ").split(), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, **options)
    try:
        assert server.stderr is not None
        assert server.stderr.readline() == f"normgate-demo/gate at http://127.0.0.1:{port}\n"
        for line, images in zip(asking, (1, 2), strict=True):
            here = line.removeprefix("$ ").replace(":8000/", f":{port}/") + " --silent --retry 9 --retry-connrefused"
            done = subprocess.run(here, shell=True, capture_output=True, check=True, **options)
            verdicts = json.loads(done.stdout)["verdicts"]
            assert [verdict["error"] for verdict in verdicts] == [None] * images
            told = json.loads(re.sub("…", "", blocks("server.md", "json")[0]))
            assert verdicts[0].keys() == told["verdicts"][0].keys()
    finally:
        server.terminate()
        assert server.wait(60) == 0


def test_the_server_in_python_is_an_application(demo_run: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "normgate-demo").symlink_to(demo_run[0])
    script = blocks("server.md", "python")[0] + "print(type(application).__module__)"
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "starlette.applications\n", done.stderr
