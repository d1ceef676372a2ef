"""Augmentation of whole batches: pure functions on uint8 pixels, on whatever device they are."""

from __future__ import annotations

import torch


def flip_and_shift(pixels: torch.Tensor, *, flip: bool, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Mirror a random half of the images and move each by up to `shift` pixels; edges are repeated.

    Both are one gather: a clamped column index repeats the edge, a reversed one mirrors.

    Args:
        pixels: (N, H, W, C).
        flip: whether to mirror.
        shift: largest move in pixels, down or up, right or left.
        generator: source of randomness; its device may differ from the pixels'.

    Returns:
        (N, H, W, C), new memory.
    """
    n, height, width, _ = pixels.shape

    def integers(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (n, 1), generator=generator, device=generator.device).to(pixels.device)

    rows = torch.arange(height, device=pixels.device) + integers(-shift, shift + 1)
    columns = torch.arange(width, device=pixels.device) + integers(-shift, shift + 1)
    columns = columns.clamp(0, width - 1)
    if flip:
        columns = torch.where(integers(0, 2) == 1, width - 1 - columns, columns)
    images = torch.arange(n, device=pixels.device)
    return pixels[images[:, None, None], rows.clamp(0, height - 1)[:, :, None], columns[:, None, :]]
