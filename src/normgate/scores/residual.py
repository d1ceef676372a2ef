"""Residual: the length of the feature outside the principal subspace of training features."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score, ScoreError, whole
from normgate.scores.blocks import mean_row
from normgate.scores.mahalanobis import covariance

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class Residual(Score):
    """`−‖P⊥ (z − o)‖₂`: P⊥ projects out the leading `dims` eigenvectors of `Σ (z − o)(z − o)ᵀ`.

    The origin `o = −τ W⁺ b` is where the logits of `head(z/τ)` vanish. `dims` is 1000 for D ≥ 2048, 512 for D ≥ 768 and
    D/2 below that, and at most half the number of training images, so that these have a residual, too.
    Source: Wang et al., CVPR 2022, arXiv 2203.10807.
    """

    needs_fit = True

    dims: int | None = None

    def __post_init__(self) -> None:
        if self.dims is not None:
            if (dims := whole(self.dims, 0)) is None:
                raise ScoreError(f"{self.name} needs a whole number dims of at least 0, or None, not {self.dims!r}")
            self.dims = dims

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        n, d = features.z.shape
        origin = torch.zeros(d, dtype=torch.float64)
        if features.bias is not None:
            # Rows that sum to zero but for float32 rounding, as weight decay makes them, are not of full rank.
            rounding = max(features.weight.shape) * torch.finfo(torch.float32).eps
            inverse = torch.linalg.pinv(features.weight.double(), rtol=rounding)
            origin -= features.temperature * inverse @ features.bias.double()
        dims = principal_dims(n, d) if self.dims is None else self.dims
        if dims >= d:
            raise ScoreError(f"{self.name} with dims={dims} leaves nothing of {d} features; choose a smaller dims")
        # In float64: beside means of classes that lie far apart, float32 sums would lose the small directions.
        mean = mean_row(features.z)
        scatter = covariance(features.z, mean[None], torch.zeros(n, dtype=torch.int64))
        shift = mean - origin
        eigenvalues, eigenvectors = torch.linalg.eigh(scatter + torch.outer(shift, shift))  # ascending
        state = {"origin": origin.float(), "complement": eigenvectors[:, : d - dims].float()}
        if not eigenvalues[: d - dims].sum() > 1e-12 * eigenvalues.sum():
            raise ScoreError(
                f"training features do not leave a subspace of {dims} dimensions; {self.name} needs features that vary "
                "more, or smaller dims"
            )
        return state

    def _score(self, features: Features) -> torch.Tensor:
        return -residuals(features, self.state)


def principal_dims(n: int, d: int) -> int:
    """Dimensions of the principal subspace of n features of d dimensions where none are given."""
    return min(1000 if d >= 2048 else 512 if d >= 768 else d // 2, n // 2)


def residuals(features: Features, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """`‖P⊥ (z − o)‖₂` of each image, (N,), for the `origin` o (D,) and the `complement`, a basis (D, D − dims)."""
    centred = features.z - state["origin"]
    lengths: torch.Tensor = torch.linalg.vector_norm(centred @ state["complement"], dim=1)
    return lengths.double()
