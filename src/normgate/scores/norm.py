"""Norm: the magnitude of the feature vector, the score that L2-normalised training is for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score
from normgate.scores.blocks import blocks

if TYPE_CHECKING:
    from normgate.features import Features

# Norms that vary less than this over real images carry rounding, not familiarity.
MIN_VARIATION = 0.01


@dataclasses.dataclass
class Norm(Score):
    """`‖m‖₂`, where m is the head's input, or the input of a norm layer that feeds the head directly.

    Source: Haas, Yolland, Rabus, arXiv 2306.04072.
    """

    def _refusal(self, features: Features) -> str | None:
        if len(features) < 2:
            return None
        norms = magnitudes(features)
        variation = float(norms.std(correction=0) / norms.mean()) if norms.mean() > 0 else 0.0
        if variation >= MIN_VARIATION:
            return None
        return (
            f"norms of this network hardly vary over real images (coefficient of variation {variation:.2g}, "
            f"below {MIN_VARIATION:g}), as where a layer before the head has normalised them away; if that is "
            "F.normalize in the network's own forward, leave it out and call normgate.l2norm(network)"
        )

    def _score(self, features: Features) -> torch.Tensor:
        return magnitudes(features)


def magnitudes(features: Features) -> torch.Tensor:
    """Norms `‖m‖₂` of the magnitude vectors, (N,), float64."""
    return torch.cat([torch.linalg.vector_norm(m.double(), dim=1) for (m,) in blocks(features.magnitude)])
