"""ASH: energy after the small activations are removed and the others scaled up (ASH-S)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.scale import Scale, kept_and_factor

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class ASH(Scale):
    """`log Σ_k exp(l_k)`, l the logits of `head(exp(r) z′/τ)`: z′ is z with the pruned entries set to 0.

    What is pruned and `r = Σ_i |z_i| / Σ_i |z′_i|` are those of `scale`.
    Source: Djurisic et al., ICLR 2023, arXiv 2209.09858 (ASH-S; prune from 0.65 as in pytorch-ood).
    """

    def _score(self, features: Features) -> torch.Tensor:
        kept, factor = kept_and_factor(features.z, self.prune)
        pruned = torch.zeros_like(features.z).scatter_(1, kept, features.z.gather(1, kept))
        return torch.logsumexp(features.head(pruned * factor).double(), dim=1)
