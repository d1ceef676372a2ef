"""Max logit: the largest logit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from normgate.scores.base import Score

if TYPE_CHECKING:
    import torch

    from normgate.features import Features


@dataclasses.dataclass
class MaxLogit(Score):
    """`max_k logits_k` in trained form. Source: Hendrycks et al., ICML 2022, arXiv 1911.11132."""

    def _score(self, features: Features) -> torch.Tensor:
        return features.logits.amax(dim=1)
