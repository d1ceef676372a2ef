"""What every benchmark's JSON says of where it was measured."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(name: str, values: dict[str, Any]) -> Path:
    """Write `benchmarks/results/<name>.json`: the values and their provenance."""
    import torch

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=RESULTS.parent,
    ).stdout.strip()
    provenance = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "commit": commit,
        "python": platform.python_version(),
        "versions": {
            package: importlib.metadata.version(package) for package in ("torch", "torchvision", "timm", "numpy")
        },
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**values, **provenance}, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return path
