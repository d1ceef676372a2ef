"""Small networks and images that many tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record, Records
from normgate.features import Features

torch.set_num_threads(1)
CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing((8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(54, 3)
    )


@pytest.fixture
def network() -> nn.Module:
    return small_network()


def random_records(count: int, seed: int, labelled: bool = True) -> Records:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    names = [CLASSES[i % 3] if labelled else None for i in range(count)]
    records = [Record(f"{seed}/{i}", image, name) for i, (image, name) in enumerate(zip(pixels, names, strict=True))]
    return Records(records, CLASSES if labelled else None)


def random_features(count: int, seed: int, dimensions: int = 12, temperature: float = 0.5) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = 2 * torch.randn(3, dimensions, generator=torch.Generator().manual_seed(1))
    z = centres[labels] + torch.randn(count, dimensions, generator=generator)
    weight, bias = centres / 3, torch.tensor([0.1, -0.2, 0.3])
    logits = nn.functional.linear(nn.functional.normalize(z, dim=1) / temperature, weight, bias)
    return Features(z, logits, weight, bias, temperature, tuple(f"i{i}" for i in range(count)), labels)


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
