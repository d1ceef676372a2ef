"""Entropy: how evenly the softmax spreads over the classes, negated."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch

from normgate.scores.base import Score
from normgate.scores.blocks import blocks
from normgate.scores.softmax import log_softmax, negated

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class Entropy(Score):
    """`Σ_k p_k log p_k`, the negative Shannon entropy in nats; p the softmax.

    `entropy` takes the trained logits, `entropy_raw` those of `head(z/τ)`, normalisation off. All terms have one sign,
    so that confident predictions keep their digits; where the entropy would round to 0, the score goes on above 0 (see
    `negated`).
    Source: Chan et al., ICCV 2021, arXiv 2012.06575.
    """

    space: Literal["logits", "raw_logits"] = "logits"

    def _score(self, features: Features) -> torch.Tensor:
        return torch.cat([_negative_entropy(logits) for (logits,) in blocks(features.space(self.space))])


def _negative_entropy(logits: torch.Tensor) -> torch.Tensor:
    log_p, _ = log_softmax(logits)
    # Where 1 − p of the likeliest class is tiny, it is this class's term, too: Σ p_k (1 − log p_k) over the others.
    others = log_p.scatter(1, log_p.argmax(dim=1, keepdim=True), float("-inf"))
    log_entropy = torch.logsumexp(others + torch.log1p(-log_p), dim=1)
    return negated(-(log_p.exp() * log_p).sum(dim=1), log_entropy)
