"""Energy: the log-sum-exp of the logits."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

import torch

from normgate.scores.base import Score, ScoreError

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class Energy(Score):
    """`T · log Σ_k exp(logits_k / T)`, the negative free energy.

    `energy` takes the trained logits, `energy_raw` those of `head(z/τ)`, normalisation off.
    Source: Liu et al., NeurIPS 2020, arXiv 2010.03759.
    """

    space: Literal["logits", "raw_logits"] = "logits"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ScoreError(f"{self.name} needs a finite temperature above 0, not {self.temperature!r}")

    def _score(self, features: Features) -> torch.Tensor:
        logits = features.space(self.space).double()
        return self.temperature * torch.logsumexp(logits / self.temperature, dim=1)
