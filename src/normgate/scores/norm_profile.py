"""Norm profile: how like those of the predicted class the magnitudes at all depths of the network are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score, ScoreError
from normgate.scores.mahalanobis import check_jitter, class_means, covariance, inverse_cholesky, whiten
from normgate.scores.norm import MIN_VARIATION, magnitudes
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
    norm of 0 counts as the smallest normal float32 number, but training images that have one are not fitted to. All in
    float64.
    Source: this project. That y is the predicted class, and not the nearest mean or none, was chosen on probes.
    """

    needs_fit = True
    needs_stages = True

    jitter: float = 1e-6

    def __post_init__(self) -> None:
        check_jitter(self.name, self.jitter)

    def _refusal(self, features: Features) -> str | None:
        if reason := unknown_stages(features):
            return reason
        if len(features) < 2 or (self._norms(features).log().std(dim=0, correction=0) >= MIN_VARIATION).any():
            return None
        return "norms of this network hardly vary over real images at any depth"

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        norms = self._norms(features)
        # The logarithm of nothing would be all that the covariance sees.
        seen = (norms > _TINY).all(dim=1)
        if not seen.any():
            raise ScoreError(f"{self.name} needs training images whose norms are above 0 at all depths, and none is")
        p, labels = norms[seen].log(), features.labels[seen]
        present, index = class_means(p, labels)
        whitening = inverse_cholesky(covariance(p, present, index), self.jitter)
        means = p.mean(dim=0).repeat(len(features.weight), 1)
        means[torch.unique(labels)] = present
        return {"whitening": whitening, "means": whiten(means, whitening)}

    def _score(self, features: Features) -> torch.Tensor:
        p = self._norms(features).log()
        if (depths := self.state["whitening"].shape[1]) != p.shape[1]:
            raise ScoreError(f"{self.name} was fitted to {depths - 1} stages, and the network shows {p.shape[1] - 1}")
        whitened = whiten(p, self.state["whitening"])
        return -(whitened - self.state["means"][features.logits.argmax(dim=1)]).square().sum(dim=1)

    def _norms(self, features: Features) -> torch.Tensor:
        """(N, stages + 1) float64, above 0."""
        if reason := unknown_stages(features):
            raise ScoreError(f"{self.name} cannot be computed: {reason}")
        assert features.stage_norms is not None
        return torch.cat([features.stage_norms.double(), magnitudes(features)[:, None]], dim=1).clamp_min(_TINY)
