"""SCALE: energy after each feature is scaled by how concentrated its activations are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from normgate.scores.base import Score, ScoreError

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class Scale(Score):
    """`log Σ_k exp(l_k)`, l the logits of `head(exp(r) z/τ)`, `r = Σ_i |z_i| / Σ_{i kept} |z_i|`.

    Kept are all but the share `prune` of entries that are the smallest in magnitude. The paper's sums are those of
    activations after ReLU; where entries of z are negative, sums of magnitudes keep r between 1 and 1/(1 − prune).
    Source: Xu et al., ICLR 2024, arXiv 2310.00227 (prune from 0.65 as in pytorch-ood).
    """

    remedy: ClassVar[str] = f"{Score.remedy}, or choose a smaller prune: exp(r) may be more than float32 holds"

    prune: float = 0.65

    def __post_init__(self) -> None:
        if not 0 <= self.prune < 1:
            raise ScoreError(f"{self.name} needs a share to prune of at least 0 and below 1, not {self.prune!r}")

    def _score(self, features: Features) -> torch.Tensor:
        _, factor = kept_and_factor(features.z, self.prune)
        return torch.logsumexp(features.head(features.z * factor).double(), dim=1)


def kept_and_factor(z: torch.Tensor, prune: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (N, k) of the entries of z (N, D) that are kept, and the factor `exp(r)`, (N, 1)."""
    d = z.shape[1]
    magnitudes = z.abs()
    kept = magnitudes.topk(max(1, d - round(d * prune)), dim=1, sorted=False)
    sums = kept.values.sum(dim=1, keepdim=True)
    ratio = torch.where(sums == 0, 1, magnitudes.sum(dim=1, keepdim=True) / sums)  # a zero feature stays zero
    return kept.indices, ratio.exp()
