"""KL matching: how far the softmax is from the typical one of any class."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score
from normgate.scores.blocks import blocks
from normgate.scores.softmax import log_softmax

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class KLMatching(Score):
    """`−min_k KL(p ‖ d_k)`, p the softmax of the trained logits, d_k its mean over images predicted as class k.

    Images are grouped by what the network predicts, as in the paper, OpenOOD and pytorch-ood, and not by their labels;
    the paper averages over validation images, this over the training images that scores are fitted to.
    Source: Hendrycks et al., ICML 2022, arXiv 1911.11132.
    """

    needs_fit = True

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        predicted = features.logits.argmax(dim=1)
        typical = [_log_mean(features.logits[predicted == k]) for k in torch.unique(predicted).tolist()]
        return {"typical": torch.stack(typical)}

    def _score(self, features: Features) -> torch.Tensor:
        return torch.cat([self._nearest(logits) for (logits,) in blocks(features.logits)])

    def _nearest(self, logits: torch.Tensor) -> torch.Tensor:
        typical = self.state["typical"]
        log_p, _ = log_softmax(logits)
        p = log_p.exp()
        # Products find the nearest; differences of logarithms give the divergence, exact where it is 0.
        nearest = (p @ typical.T).argmax(dim=1)
        return (p * (typical[nearest] - log_p)).sum(dim=1)


def _log_mean(logits: torch.Tensor) -> torch.Tensor:
    """Logarithm of the mean softmax, (K,); never −inf, since no probability is."""
    total = torch.full(logits.shape[1:], float("-inf"), dtype=torch.float64)
    for (part,) in blocks(logits):
        total = torch.logaddexp(total, torch.logsumexp(log_softmax(part)[0], dim=0))
    return total - torch.tensor(len(logits), dtype=torch.float64).log()
