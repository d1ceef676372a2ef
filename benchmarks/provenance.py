"""What every benchmark's JSON says of where it was measured."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(os.environ.get("NORMGATE_RESULTS", ROOT / "benchmarks" / "results"))


def write(name: str, values: dict[str, Any]) -> Path:
    """Write `benchmarks/results/<name>.json`: the values and their provenance, where they do not tell it themselves."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    rest = {key: value for key, value in provenance().items() if key not in values}
    path.write_text(json.dumps({**values, **rest}, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return path


def provenance() -> dict[str, Any]:
    """Where something is measured."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "at_once": at_once(),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {
            package: importlib.metadata.version(package) for package in ("torch", "torchvision", "timm", "numpy")
        },
    }


def at_once() -> int:
    """How many benchmarks share this machine; see several.py."""
    return int(os.environ.get("NORMGATE_AT_ONCE", "1"))


@functools.cache  # what runs is what was there at first
def commit() -> str:
    """The commit that is checked out, and whether anything was changed; a copy without its repository is told."""
    if told := os.environ.get("NORMGATE_COMMIT"):
        return told
    # What other benchmarks have just written does not change what this one measures.
    changed = _git("status", "--porcelain", "--", "src", "benchmarks/*.py", "pyproject.toml")
    return _git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
