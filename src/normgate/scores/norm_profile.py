"""Norm profile: how like those of the predicted class the magnitudes at all depths of the network are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score, ScoreError
from normgate.scores.mahalanobis import class_means, covariance, inverse_cholesky, whiten
from normgate.scores.norm import magnitudes
from normgate.scores.norm_gain import unknown_stages

if TYPE_CHECKING:
    from normgate.features import Features

_TINY = torch.finfo(torch.float32).tiny


@dataclasses.dataclass
class NormProfile(Score):
    """`−(p − μ_y)ᵀ Σ⁻¹ (p − μ_y)`, p the logarithms of all stages' pooled norms and of ‖m‖₂, y the predicted class.

    μ_y is the mean profile of a class's training images, of all of them for a class that has none, Σ the covariance
    within classes (divided by N), with `jitter · trace(Σ)/D` on its diagonal, raised tenfold until Cholesky succeeds.
    An image of much contrast or texture has large norms early on, and is unfamiliar however large its last norm is. A
    norm of 0 counts as the smallest normal float32 number. All in float64.
    Source: this project. That y is the predicted class, and not the nearest mean or none, was chosen on probes.
    """

    needs_fit = True

    jitter: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.jitter <= 1:
            raise ScoreError(f"{self.name} needs a jitter above 0 and at most 1, not {self.jitter!r}")

    def refusal(self, features: Features) -> str | None:  # noqa: D102
        return unknown_stages(features)

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        p = self._profiles(features)
        present, index = class_means(p, features.labels)
        whitening = inverse_cholesky(covariance(p, present, index), self.jitter)
        means = p.mean(dim=0).repeat(len(features.weight), 1)
        means[torch.unique(features.labels)] = present
        return {"whitening": whitening, "means": whiten(means, whitening)}

    def _score(self, features: Features) -> torch.Tensor:
        whitened = whiten(self._profiles(features), self.state["whitening"])
        return -(whitened - self.state["means"][features.logits.argmax(dim=1)]).square().sum(dim=1)

    def _profiles(self, features: Features) -> torch.Tensor:
        """(N, stages + 1) float64."""
        if reason := self.refusal(features):
            raise ScoreError(f"{self.name} cannot be computed: {reason}")
        assert features.stage_norms is not None
        norms = torch.cat([features.stage_norms.double(), magnitudes(features)[:, None]], dim=1)
        return norms.clamp_min(_TINY).log()
