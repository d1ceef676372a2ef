"""Fixtures that many tests share; functions are in `samples`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from normgate.data.preprocessing import Preprocessing
from samples import CLASSES, PREPROCESSING, small_network

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="folder for pictures of the report; by default a temporary one")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of processes that share the tests one takes all of what is slow to set up, so that it is set up once."""
    groups = {"test_ray_engine.py": "ray", "test_on_ray.py": "ray", "test_processes.py": "processes"}
    for item in items:
        name = "demo" if "demo_run" in getattr(item, "fixturenames", ()) else groups.get(item.path.name)
        if name is not None:
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture
def screenshots(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where tests leave their pictures."""
    folder: Path = request.config.getoption("--screenshots") or tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported graphs of all tests: to make one takes seconds."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, graphs: Path) -> Path:
    """Commands keep features here, and not in the folder of whoever runs the tests."""
    home = tmp_path_factory.mktemp("xdg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    (home / "normgate").mkdir()
    (home / "normgate" / "graphs").symlink_to(graphs)
    return home / "normgate" / "normgate-features"


@pytest.fixture
def preprocessing() -> Preprocessing:
    return PREPROCESSING


@pytest.fixture
def network() -> nn.Module:
    return small_network()


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Three classes of 20 images of 12 × 12 pixels, told apart by their colour."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 80, (12, 12, 3), dtype=np.uint8)
            pixels[:, :, number] += 120
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture
def memory() -> Iterator[Callable[[dict[str, bytes]], str]]:
    """Write files to fsspec's file system in memory; gives its address."""
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")

    def write(files: dict[str, bytes]) -> str:
        for name, content in files.items():
            fs.pipe_file(f"/root/{name}", content)
        return "memory://root"

    def clear() -> None:
        fs.store.clear()
        fs.pseudo_dirs[:] = [""]

    clear()
    yield write
    clear()


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the JSON of `normgate demo --json`."""
    place = tmp_path_factory.mktemp("demo")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(place)]
    subprocess.run([*pip, str(ROOT)], check=True)
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "site")
    # Threads that wait without spinning: other work may share the cores.
    environment = {**os.environ, "PYTHONPATH": str(place / "site"), "OMP_WAIT_POLICY": "PASSIVE"}
    where = [sys.executable, "-c", "import normgate; print(normgate.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, check=True, cwd=place, env=environment).stdout
    assert Path(found.strip()).is_relative_to(place / "site")
    command = [sys.executable, "-m", "normgate.cli", "demo", "--json", "-o", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"([\w -]+: [\d,]+( of [\d,]+)?(, .*)?\n)*", done.stderr), done.stderr  # how far it is
    return place / "out", json.loads(done.stdout)
