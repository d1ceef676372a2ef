"""NCI: how well a feature points along the head's row of its predicted class, and how long it is."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score, ScoreError
from normgate.scores.blocks import blocks, mean_row

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class NCI(Score):
    """`⟨w_c, z − μ⟩ / ‖z − μ‖₂ + α ‖z‖₁`, μ the mean z of training images, w_c the head's row of the predicted class.

    Predictions are those of `head(z/τ)`, normalisation off. A feature at the mean has no direction: its first term
    is 0.
    Source: Liu and Qin, CVPR 2025, arXiv 2311.01479 (α chosen among 0.0001 … 0.1 on outliers; the smallest is the
    default here, as in OpenOOD's settings, whereas pytorch-ood leaves the second term out).
    """

    needs_fit = True

    alpha: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ScoreError(f"{self.name} needs a finite alpha of at least 0, not {self.alpha!r}")

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        return {"mean": mean_row(features.z)}

    def _score(self, features: Features) -> torch.Tensor:
        weight = features.weight.double()
        predicted = features.raw_logits.argmax(dim=1)
        scores = []
        for z, c in blocks(features.z, predicted):
            centred = z.double() - self.state["mean"]
            along = torch.linalg.vecdot(centred, weight[c])
            along /= torch.linalg.vector_norm(centred, dim=1).clamp_min(torch.finfo(torch.float32).tiny)
            length = torch.linalg.vector_norm(z, ord=1, dim=1, dtype=torch.float64)
            scores.append(along + self.alpha * length)
        return torch.cat(scores)
