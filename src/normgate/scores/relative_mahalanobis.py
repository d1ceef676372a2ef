"""Relative Mahalanobis: how much nearer the nearest class is than the training images as one cloud."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.mahalanobis import Mahalanobis, class_means, covariance, inverse_cholesky, whiten

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class RelativeMahalanobis(Mahalanobis):
    """`−min_c [(x − μ_c)ᵀ Σ⁻¹ (x − μ_c) − (x − μ₀)ᵀ Σ₀⁻¹ (x − μ₀)]`, μ₀ and Σ₀ those of all images without classes.

    x is the direction u, or z for `relative_mahalanobis_raw`; both covariances are divided by N and regularised as
    those of `mahalanobis`.
    Source: Ren et al., arXiv 2106.09022.
    """

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        x = features.space(self.space)
        means, index = class_means(x, features.labels)
        within = covariance(x, means, index)
        whitening = inverse_cholesky(within, self.jitter)
        shares = torch.bincount(index).double() / len(x)
        mean = shares @ means
        between = (means - mean).T @ (shares[:, None] * (means - mean))
        return {
            "whitening": whitening,
            "means": whiten(means, whitening),
            "background_whitening": inverse_cholesky(within + between, self.jitter),
            "background_mean": mean,
        }

    def _distances(self, x: torch.Tensor) -> torch.Tensor:
        background = whiten(x - self.state["background_mean"], self.state["background_whitening"])
        return super()._distances(x) - background.square().sum(dim=1)
