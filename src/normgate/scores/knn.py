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
    Source: Sun et al., ICML 2022, arXiv 2204.06507 (k = 50 for CIFAR-10).
    """

    needs_fit = True

    space: Literal["u"] = "u"
    k: int = 50

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        if self.k < 1:
            raise ScoreError(f"knn needs k of at least 1, not {self.k}")
        assert features.labels is not None
        counts = torch.bincount(features.labels)
        smallest = int(counts[counts > 0].min())
        return {
            "bank": features.space(self.space).clone(),
            "k": torch.tensor(max(1, min(self.k, smallest // 2))),
        }

    def _score(self, features: Features) -> torch.Tensor:
        bank, k = self.state["bank"], int(self.state["k"])
        queries = features.space(self.space)
        rows = max(1, _BLOCK_BYTES // (4 * len(bank)))
        similarity = torch.empty(len(queries))
        for start in range(0, len(queries), rows):
            block = queries[start : start + rows] @ bank.T
            similarity[start : start + rows] = block.topk(k, dim=1).values[:, -1]
        # ‖u − v‖² = 2 − 2 u·v for unit vectors; rounding can push it below 0.
        return -(2 - 2 * similarity.double()).clamp_min(0).sqrt()
