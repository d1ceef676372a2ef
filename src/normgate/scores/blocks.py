"""Blocks: rows are worked on some at a time, so that float64 copies of them stay small and in the processor's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTES = 2**19  # of the float64 copy, which then stays in the cache


def blocks(*tensors: torch.Tensor, rows: int | None = None) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same rows of each tensor (N, …), a block after another; one empty block where N is 0.

    Args:
        tensors: of N rows each.
        rows: of a block; by default as many as stay in the cache. A graph that is being exported is not cut up.
    """
    if torch.compiler.is_exporting():
        yield tensors
        return
    if rows is None:
        widest = max(tensor[:1].numel() for tensor in tensors)
        rows = max(1, _BYTES // (8 * max(1, widest)))
    for start in range(0, max(1, len(tensors[0])), rows):
        yield tuple(tensor[start : start + rows] for tensor in tensors)


def mean_row(x: torch.Tensor) -> torch.Tensor:
    """The mean of the rows of x (N, D), (D,) float64."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for (rows,) in blocks(x):
        total += rows.double().sum(dim=0)
    return total / len(x)
