"""Mahalanobis: the distance to the nearest class mean under one shared covariance."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch

from normgate.scores.base import Score, ScoreError

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class Mahalanobis(Score):
    """`−min_c (x − μ_c)ᵀ Σ⁻¹ (x − μ_c)`, Σ the covariance within classes (divided by N).

    x is the direction u, or z for `mahalanobis_raw`. Unit features leave Σ rank-deficient: `jitter · trace(Σ)/D` is
    added to its diagonal and raised tenfold until Cholesky succeeds. All in float64.
    Source: Lee et al., NeurIPS 2018, arXiv 1807.03888; on directions: Mueller and Hein, ICML 2025, arXiv 2505.18032.
    """

    needs_fit = True

    space: Literal["u", "z"] = "u"
    jitter: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.jitter <= 1:
            raise ScoreError(f"{self.name} needs a jitter above 0 and at most 1, not {self.jitter!r}")

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        x = features.space(self.space).double()
        means, index = class_means(x, features.labels)
        centred = x - means[index]
        covariance = centred.T @ centred / len(x)
        whitening = inverse_cholesky(covariance, self.jitter)
        return {"whitening": whitening, "means": means @ whitening.T}

    def _score(self, features: Features) -> torch.Tensor:
        whitening, means = self.state["whitening"], self.state["means"]
        whitened = features.space(self.space).double() @ whitening.T
        # Distances from differences, not from the expanded square: exact where an image lies on a mean.
        distances: torch.Tensor = torch.cdist(whitened, means, compute_mode="donot_use_mm_for_euclid_dist")
        return -distances.amin(dim=1).square()


def class_means(x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean row of each class that occurs, (C, D), and which of them is each row's, (N,); x is (N, D)."""
    _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), x.shape[1], dtype=x.dtype).index_add_(0, index, x)
    return sums / counts[:, None], index


def inverse_cholesky(covariance: torch.Tensor, jitter: float) -> torch.Tensor:
    """`L⁻¹` with `L Lᵀ = Σ + j · trace(Σ)/D · I`, j the first of jitter, 10·jitter, … for which Σ is positive definite.

    Raises:
        ScoreError: features do not vary within their classes, so that there is no covariance.
    """
    d = len(covariance)
    scale = covariance.trace() / d
    if not scale > 0:
        raise ScoreError("training features do not vary within their classes; there is no covariance to fit")
    identity = torch.eye(d, dtype=covariance.dtype)
    while jitter < 1e3:  # far more than rounding can ask for
        factor, failed = torch.linalg.cholesky_ex(covariance + jitter * scale * identity)
        if not failed:
            inverse: torch.Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
            return inverse
        jitter *= 10
    raise ScoreError("the covariance of the training features is not positive definite; are they finite?")
