"""fDBD: the distance to the decision boundaries, relative to that to the mean of the training features."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score
from normgate.scores.blocks import blocks, mean_row

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class FDBD(Score):
    """`mean over k ≠ c of τ |l_c − l_k| / ‖w_c − w_k‖₂, divided by ‖z − μ‖₂`.

    l are the logits of `head(z/τ)`, c the class that they predict, w the head's rows and μ the mean z of the training
    images: each term is the distance from z to the boundary between c and k. Two classes with the same row have no
    boundary and are left out of the mean.
    Source: Liu and Qin, ICML 2024, arXiv 2312.11536.
    """

    needs_fit = True

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        return {"mean": mean_row(features.z)}

    def _score(self, features: Features) -> torch.Tensor:
        weight = features.weight.double()
        # Of the classes that are predicted, which may be a few of very many.
        classes, predicted = torch.unique(features.raw_logits.argmax(dim=1), return_inverse=True)
        # Differences and not products: rows that are equal are exactly 0 apart.
        widths = torch.cdist(weight[classes], weight, compute_mode="donot_use_mm_for_euclid_dist")
        per_width = _per_width(widths, features.temperature)
        parts = blocks(features.z, features.raw_logits, predicted)
        return torch.cat([self._relative(z, logits.double(), per_width[c]) for z, logits, c in parts])

    def _traced(self, features: Features) -> torch.Tensor:
        """Of all classes, by the expanded square; rows closer than its rounding are the same."""
        weight = features.weight.double()
        lengths = weight.square().sum(dim=1)
        sums = lengths[:, None] + lengths
        squares = sums - 2 * weight @ weight.T
        widths = torch.where(squares > 1e-12 * sums, squares, 0).sqrt()
        per_width = _per_width(widths, features.temperature)
        return self._relative(features.z, features.raw_logits.double(), per_width[features.raw_logits.argmax(dim=1)])

    def _relative(self, z: torch.Tensor, logits: torch.Tensor, per_width: torch.Tensor) -> torch.Tensor:
        gaps = logits.amax(dim=1, keepdim=True) - logits
        distance = torch.linalg.vector_norm(z.double() - self.state["mean"], dim=1)
        # At the mean itself the score has no limit; it stays finite.
        relative: torch.Tensor = torch.linalg.vecdot(gaps, per_width) / distance.clamp_min(
            torch.finfo(torch.float32).tiny
        )
        return relative


def _per_width(widths: torch.Tensor, temperature: float) -> torch.Tensor:
    """τ over the distances (C, K) from some rows of the head to every row, over how many differ from each."""
    per_width = torch.where(widths > 0, temperature / widths, 0)
    return per_width / (widths > 0).sum(dim=1, keepdim=True).clamp_min(1)
