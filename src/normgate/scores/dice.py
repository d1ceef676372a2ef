"""DICE: energy with the weights alone that contribute most on training images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from normgate.scores.base import Score, ScoreError

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class DICE(Score):
    """`log Σ_k exp(l_k)`, `l = (M ⊙ W) z/τ + b`: M keeps the share `1 − sparsity` of weights that contribute most.

    The contribution of a weight is `W_kd · mean z_d` over training images; those above its `sparsity` quantile are
    kept: signed, as in the paper, so that weights that speak against a class go first.
    Source: Sun and Li, ECCV 2022, arXiv 2111.09805 (sparsity 0.9).
    """

    needs_fit = True

    sparsity: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ScoreError(f"{self.name} needs a sparsity of at least 0 and below 1, not {self.sparsity!r}")

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        contributions = (features.weight.double() * features.z.mean(dim=0, dtype=torch.float64)).flatten()
        kept = len(contributions) - int(self.sparsity * len(contributions))
        mask = torch.zeros(len(contributions), dtype=torch.bool)
        mask[contributions.topk(kept).indices] = True
        return {"mask": mask.view_as(features.weight)}

    def _score(self, features: Features) -> torch.Tensor:
        weight = features.weight * self.state["mask"]
        return torch.logsumexp(F.linear(features.z / features.temperature, weight, features.bias).double(), dim=1)
