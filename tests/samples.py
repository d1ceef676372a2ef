"""Small networks, images and features that many tests share: all seeded, all made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record, Records
from normgate.features import Features

CLASSES = ("cat", "dog", "owl")
PREPROCESSING = Preprocessing((8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def small_network(seed: int = 0) -> nn.Module:
    """A convolution, dropout and a linear head, for images of 8 × 8 pixels and three classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(54, 3)
    )


class Overflowing(nn.Module):
    """Infinite where all pixels of an image are alike, as a normalisation by contrast would be."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread = x.amax(dim=(1, 2, 3)) - x.amin(dim=(1, 2, 3))
        return torch.where(spread > 0, x.flatten(1).T, torch.inf).T.unflatten(1, x.shape[1:])


def overflowing_network() -> nn.Module:
    """A `small_network` that gives no finite features for an image of one colour."""
    return nn.Sequential(Overflowing(), *small_network())


FLAT = np.zeros((8, 8, 3), np.uint8)


def random_records(count: int, seed: int, labelled: bool = True) -> Records:
    """Images of noise, the same for the same seed, with the classes in turn."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    names = [CLASSES[i % 3] if labelled else None for i in range(count)]
    records = [Record(f"{seed}/{i}", image, name) for i, (image, name) in enumerate(zip(pixels, names, strict=True))]
    return Records(records, CLASSES if labelled else None)


def random_features(count: int, seed: int, dimensions: int = 12, temperature: float = 0.5) -> Features:
    """Three Gaussian classes in turn, whose centres are the rows of the head."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = 2 * torch.randn(3, dimensions, generator=torch.Generator().manual_seed(1))
    z = centres[labels] + torch.randn(count, dimensions, generator=generator)
    weight, bias = centres / 3, torch.tensor([0.1, -0.2, 0.3])
    logits = nn.functional.linear(nn.functional.normalize(z, dim=1) / temperature, weight, bias)
    stage_norms = 0.5 + torch.rand(count, 3, generator=generator)
    ids = tuple(f"i{i}" for i in range(count))
    return Features(z, logits, weight, bias, temperature, ids, labels, stage_norms=stage_norms)


def transformers_vit() -> nn.Module:
    """A network that is not timm's, of 8 × 8 pixels; a test without transformers is skipped."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    network: nn.Module = transformers.ViTForImageClassification(config)
    return network
