"""MSP: the maximum softmax probability."""

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
class MSP(Score):
    """`log max_k softmax(logits)_k`.

    `msp` takes the trained logits, `msp_raw` those of `head(z/τ)`, normalisation off. The logarithm keeps the order and
    resolves what a probability rounds to 1; where it, too, would round to 0, the score goes on above 0 (see `negated`).
    Source: Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136.
    """

    space: Literal["logits", "raw_logits"] = "logits"

    def _score(self, features: Features) -> torch.Tensor:
        return torch.cat([_log_maximum(logits) for (logits,) in blocks(features.space(self.space))])


def _log_maximum(logits: torch.Tensor) -> torch.Tensor:
    log_p, odds = log_softmax(logits)
    return negated(-log_p.amax(dim=1), odds)  # −log p is 1 − p, and so are the odds, where these are tiny
