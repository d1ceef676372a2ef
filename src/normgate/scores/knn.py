"""kNN: the distance to the k-th nearest training image, between directions."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch

from normgate.scores.base import Score, ScoreError

if TYPE_CHECKING:
    from normgate.features import Features

_BLOCK_BYTES = 64 * 2**20


@dataclasses.dataclass
class KNN(Score):
    """`−‖u − u₍ₖ₎‖₂`, u₍ₖ₎ the k-th nearest training direction.

    k is lowered to half the rows of the smallest class, so that an image's neighbours can all be of its own class.
    In float64: squared distances within a collapsed class are smaller than the rounding of float32 products.
    Source: Sun et al., ICML 2022, arXiv 2204.06507 (k = 50 for CIFAR-10).
    """

    needs_fit = True

    space: Literal["u"] = "u"
    k: int = 50

    def __post_init__(self) -> None:
        if type(self.k) is not int or self.k < 1:
            raise ScoreError(f"{self.name} needs a whole number k of at least 1, not {self.k!r}")

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        counts = torch.bincount(features.labels)
        smallest = int(counts[counts > 0].min())
        return {
            "bank": features.space(self.space).clone(),
            "k": torch.tensor(max(1, min(self.k, smallest // 2))),
        }

    def _score(self, features: Features) -> torch.Tensor:
        bank, k = self.state["bank"].double(), int(self.state["k"])
        queries = features.space(self.space).double()
        squares = bank.square().sum(dim=1)
        nearest = queries.square().sum(dim=1)
        rows = max(1, _BLOCK_BYTES // (8 * len(bank)))
        for start in range(0, len(queries), rows):
            # ‖u − v‖² = ‖u‖² + (‖v‖² − 2 u·v)
            block = torch.addmm(squares, queries[start : start + rows], bank.T, alpha=-2)
            nearest[start : start + rows] += block.topk(k, dim=1, largest=False).values[:, -1]
        return -nearest.clamp_min(0).sqrt()  # rounding can push a square below 0
