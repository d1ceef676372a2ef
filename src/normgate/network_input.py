"""Images normalised in PyTorch, on the device where the network is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from normgate.data.preprocessing import Preprocessing


def network_input(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """What `Preprocessing.normalized` does, on the device: (N, H, W, 3) uint8 → (N, 3, H, W) float32."""
    x = pixels.permute(0, 3, 1, 2).float() / 255  # channels-last in memory, as the pixels are
    if preprocessing.standardize:
        deviation = x.std(dim=(1, 2, 3), correction=0, keepdim=True).clamp_min(x[0].numel() ** -0.5)
        return (x - x.mean(dim=(1, 2, 3), keepdim=True)) / deviation
    return (x - _by_channel(preprocessing.mean, x)) / _by_channel(preprocessing.std, x)


def _by_channel(values: tuple[float, float, float], x: torch.Tensor) -> torch.Tensor:
    """(3, 1, 1), filled on the device: copying them there would make a GPU wait in every step."""
    return torch.stack([x.new_full((1, 1), value) for value in values])
