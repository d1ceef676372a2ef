"""ViM: energy against the virtual logit, the residual on the scale of logits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.residual import Residual, residuals

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class ViM(Residual):
    """`log Σ_k exp(l_k) − α ‖P⊥ (z − o)‖₂`, l the logits of `head(z/τ)` and the residual that of `residual`.

    `α = |mean max_k l_k| / mean ‖P⊥ (z − o)‖₂` over training images. The paper has no bars: they matter only where the
    largest logits are negative, and a long residual would then count as familiar.
    Source: Wang et al., CVPR 2022, arXiv 2203.10807.
    """

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        state = super()._fit(features)
        largest = features.raw_logits.amax(dim=1).double()
        return {**state, "alpha": largest.mean().abs() / residuals(features, state).mean()}

    def _score(self, features: Features) -> torch.Tensor:
        energy = torch.logsumexp(features.raw_logits.double(), dim=1)
        return energy - self.state["alpha"] * residuals(features, self.state)
