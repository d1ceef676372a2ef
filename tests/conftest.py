"""Fixtures that many tests share; functions are in `samples`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from normgate.data.preprocessing import Preprocessing
from samples import CLASSES, PREPROCESSING, small_network

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands keep features here, and not in the folder of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "normgate" / "normgate-features"


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
