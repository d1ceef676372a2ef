"""MSP: the maximum softmax probability."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class MSP(Score):
    """`log max_k softmax(logits)_k` in trained form.

    The logarithm keeps the order and resolves what a probability rounds to 1.
    Source: Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136.
    """

    def _score(self, features: Features) -> torch.Tensor:
        logits = features.logits.double()
        others = logits - logits.amax(dim=1, keepdim=True)
        # -log Σ exp(l - max): the maximum contributes exactly 1, so log1p keeps the rest's digits.
        others.scatter_(1, others.argmax(dim=1, keepdim=True), float("-inf"))
        return -torch.log1p(others.exp().sum(dim=1))
