"""ReAct: energy after the largest activations are cut off."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from normgate.scores.base import Score, ScoreError

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class ReAct(Score):
    """`log Σ_k exp(l_k)`, l the logits of `head(min(z, c)/τ)`; c the `quantile` of all entries of training features.

    Source: Sun et al., NeurIPS 2021, arXiv 2111.12797 (quantile 0.9).
    """

    needs_fit = True

    quantile: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ScoreError(f"{self.name} needs a quantile above 0 and at most 1, not {self.quantile!r}")

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        # NumPy's, since torch's does not take more than 2²⁴ entries.
        return {"cut": torch.tensor(float(np.quantile(features.z.numpy(), self.quantile)))}

    def _score(self, features: Features) -> torch.Tensor:
        return torch.logsumexp(features.head(features.z.clamp(max=self.state["cut"])).double(), dim=1)
