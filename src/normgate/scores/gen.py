"""GEN: a generalised entropy, which sees small probabilities as well as large ones."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

import torch

from normgate.scores.base import Score, ScoreError, whole
from normgate.scores.blocks import blocks
from normgate.scores.softmax import log_softmax, negated

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class GEN(Score):
    """`−Σ_k p_k^γ (1 − p_k)^γ` over the `top` most probable classes, or all if there are fewer; p the softmax.

    `gen` takes the trained logits, `gen_raw` those of `head(z/τ)`, normalisation off. Powers are taken of logarithms,
    so that 1 − p keeps its digits where p rounds to 1; where the sum would round to 0, the score goes on above 0 (see
    `negated`).
    Source: Liu et al., CVPR 2023, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection"
    (γ = 0.1 and top 100 for ImageNet).
    """

    space: Literal["logits", "raw_logits"] = "logits"
    gamma: float = 0.1
    top: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise ScoreError(f"{self.name} needs a finite gamma above 0, not {self.gamma!r}")
        if (top := whole(self.top, 1)) is None:
            raise ScoreError(f"{self.name} needs a whole number of top classes of at least 1, not {self.top!r}")
        self.top = top

    def _score(self, features: Features) -> torch.Tensor:
        return torch.cat([self._generalised(logits) for (logits,) in blocks(features.space(self.space))])

    def _generalised(self, logits: torch.Tensor) -> torch.Tensor:
        log_p, odds = log_softmax(logits)
        if self.top < log_p.shape[1]:
            log_p = log_p.topk(self.top, dim=1).values
        likeliest = log_p.argmax(dim=1, keepdim=True)
        log_rest = torch.log1p(-log_p.exp())
        log_rest.scatter_(1, likeliest, odds[:, None] + log_p.gather(1, likeliest))
        log_terms = self.gamma * (log_p + log_rest)
        return negated(torch.exp(log_terms).sum(dim=1), torch.logsumexp(log_terms, dim=1))
