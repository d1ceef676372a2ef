"""Cosine: the angle to the nearest class mean."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from normgate.scores.base import Score
from normgate.scores.blocks import blocks
from normgate.scores.mahalanobis import class_means

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class Cosine(Score):
    """`max_c cos(u, μ_c)`, μ_c the mean of the directions u of the training images that are labelled c.

    Every image counts alike in a mean, however long its feature. A zero feature has no direction and scores 0.
    Source: Ngoc-Hieu et al., 2023, arXiv 2306.14920 (class typical matching).
    """

    needs_fit = True

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        means, _ = class_means(features.u, features.labels)
        return {"means": F.normalize(means, dim=1)}

    def _score(self, features: Features) -> torch.Tensor:
        # Once more in float64: the length of a float32 direction is off by more than cosines near 1 differ.
        parts = (F.normalize(u.double(), dim=1) for (u,) in blocks(features.u))
        return torch.cat([(u @ self.state["means"].T).amax(dim=1) for u in parts])
