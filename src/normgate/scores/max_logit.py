"""Max logit: the largest logit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from normgate.scores.base import Score

if TYPE_CHECKING:
    import torch

    from normgate.features import Features


@dataclasses.dataclass
class MaxLogit(Score):
    """`max_k logits_k`.

    `max_logit` takes the trained logits, `max_logit_raw` those of `head(z/τ)`, normalisation off.
    Source: Hendrycks et al., ICML 2022, arXiv 1911.11132.
    """

    space: Literal["logits", "raw_logits"] = "logits"

    def _score(self, features: Features) -> torch.Tensor:
        return features.space(self.space).amax(dim=1)
