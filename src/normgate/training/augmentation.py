"""Augmentation of whole batches: pure functions on uint8 pixels, on whatever device they are."""

from __future__ import annotations

import torch


def draw_moves(count: int, *, flip: bool, shift: int, generator: torch.Generator) -> torch.Tensor:
    """A move for each of an epoch's images, so that it does not depend on the batch or the process that an image is in.

    Args:
        count: N, of all training images.
        flip: whether to mirror a random half of them.
        shift: largest move in pixels, down or up, right or left.
        generator: source of randomness.

    Returns:
        (N, 3) int16: rows, columns, and 1 where the image is mirrored.
    """
    shifts = torch.randint(-shift, shift + 1, (count, 2), generator=generator, dtype=torch.int16)
    mirrored = torch.randint(0, 1 + flip, (count, 1), generator=generator, dtype=torch.int16)
    return torch.cat([shifts, mirrored], dim=1)


def flip_and_shift(pixels: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Mirror and move images; edges are repeated.

    Both are one gather: a clamped column index repeats the edge, a reversed one mirrors.

    Args:
        pixels: (N, H, W, C).
        moves: (N, 3), see `draw_moves`.

    Returns:
        (N, H, W, C), new memory.
    """
    n, height, width, _ = pixels.shape
    down, right, mirrored = moves.long().to(pixels.device).unbind(1)
    rows = torch.arange(height, device=pixels.device) + down[:, None]
    columns = (torch.arange(width, device=pixels.device) + right[:, None]).clamp(0, width - 1)
    columns = torch.where(mirrored[:, None] == 1, width - 1 - columns, columns)
    images = torch.arange(n, device=pixels.device)
    return pixels[images[:, None, None], rows.clamp(0, height - 1)[:, :, None], columns[:, None, :]]
