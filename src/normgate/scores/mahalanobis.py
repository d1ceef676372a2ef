"""Mahalanobis: the distance to the nearest class mean under one shared covariance."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch

from normgate.scores.base import Score, ScoreError
from normgate.scores.blocks import blocks

if TYPE_CHECKING:
    from normgate.features import Features

_ROWS, _COLUMNS = 512, 128  # of a block, which then stays in the cache


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
        check_jitter(self.name, self.jitter)

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        x = features.space(self.space)
        means, index = class_means(x, features.labels)
        whitening = inverse_cholesky(covariance(x, means, index), self.jitter)
        return {"whitening": whitening, "means": whiten(means, whitening)}

    def _score(self, features: Features) -> torch.Tensor:
        parts = blocks(features.space(self.space), rows=_ROWS)
        return torch.cat([-self._distances(rows.double()) for (rows,) in parts])

    def _distances(self, x: torch.Tensor) -> torch.Tensor:
        """Squared distances of (N, D) rows to the nearest mean, (N,)."""
        means = self.state["means"]
        whitened = whiten(x, self.state["whitening"])
        nearest = torch.addmm(means.square().sum(dim=1), whitened, means.T, alpha=-2).argmin(dim=1)
        # The expanded square finds the mean; the difference gives the distance: exact where an image lies on a mean.
        return (whitened - means[nearest]).square().sum(dim=1)


def whiten(x: torch.Tensor, whitening: torch.Tensor) -> torch.Tensor:
    """`x L⁻ᵀ` for (N, D) float64 rows and a lower triangular L⁻¹, (D, D), whose zeros are left out by blocks."""
    if torch.compiler.is_exporting():
        return x @ whitening.T
    whitened = torch.empty_like(x)
    for start in range(0, x.shape[1], _COLUMNS):
        stop = start + _COLUMNS
        whitened[:, start:stop] = x[:, :stop] @ whitening[start:stop, :stop].T
    return whitened


def class_means(x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean row of each class that occurs, (C, D) float64, and which of them is each row's, (N,); x is (N, D)."""
    _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), x.shape[1], dtype=torch.float64)
    for rows, numbers in blocks(x, index, rows=_ROWS):
        sums.index_add_(0, numbers, rows.double())
    return sums / counts[:, None], index


def covariance(x: torch.Tensor, means: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`Σᵢ (xᵢ − μ)(xᵢ − μ)ᵀ / N` about each row's own mean, (D, D) float64; x is (N, D), means (C, D), index (N,)."""
    d = x.shape[1]
    total = torch.zeros(d, d, dtype=torch.float64)
    for rows, numbers in blocks(x, index, rows=_ROWS):
        centred = rows.double() - means[numbers]
        for start in range(0, d, _COLUMNS):  # the lower triangle alone: the matrix is symmetric
            stop = start + _COLUMNS
            total[start:stop, :stop].addmm_(centred[:, start:stop].T, centred[:, :stop])
    lower = total.tril()
    return (lower + lower.tril(-1).T) / len(x)


def check_jitter(score: str, jitter: float) -> None:
    """Refuse what `inverse_cholesky` cannot begin with.

    Raises:
        ScoreError: it is not above 0 and at most 1.
    """
    if not 0 < jitter <= 1:
        raise ScoreError(f"{score} needs a jitter above 0 and at most 1, not {jitter!r}")


def inverse_cholesky(sigma: torch.Tensor, jitter: float) -> torch.Tensor:
    """`L⁻¹` with `L Lᵀ = Σ + j · trace(Σ)/D · I`, j the first of jitter, 10·jitter, … for which Σ is positive definite.

    Raises:
        ScoreError: features do not vary within their classes, so that there is no covariance.
    """
    d = len(sigma)
    scale = sigma.trace() / d
    if not scale > 0:
        raise ScoreError("training features do not vary within their classes; there is no covariance to fit")
    identity = torch.eye(d, dtype=sigma.dtype)
    while jitter < 1e3:  # far more than rounding can ask for
        factor, failed = torch.linalg.cholesky_ex(sigma + jitter * scale * identity)
        if not failed:
            inverse: torch.Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
            return inverse
        jitter *= 10
    raise ScoreError("the covariance of the training features is not positive definite; are they finite?")
