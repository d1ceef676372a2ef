"""GMM: the density of a mixture of one Gaussian a class, between directions."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score, ScoreError
from normgate.scores.blocks import blocks
from normgate.scores.mahalanobis import check_jitter, class_means, covariance, inverse_cholesky

if TYPE_CHECKING:
    from normgate.features import Features

_LIMIT_BYTES = 2 * 2**30
_ROWS = 2048
_STEP = 128


@dataclasses.dataclass
class GMM(Score):
    """`log Σ_c π_c N(u; μ_c, Σ_c)` of the direction u; π_c the share, Σ_c the covariance (divided by N_c) of class c.

    `jitter · trace(Σ_c)/D` is added to the diagonal and raised tenfold until Cholesky succeeds. A class that does not
    vary, such as one of a single image, takes the covariance within all classes. All in float64.
    Source: Mukhoti et al., CVPR 2023, arXiv 2102.11582 (DDU); on normalised features: Haas et al., arXiv 2209.08378.
    """

    needs_fit = True

    jitter: float = 1e-6

    def __post_init__(self) -> None:
        check_jitter(self.name, self.jitter)

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        x = features.u
        means, index = class_means(x, features.labels)
        (k, d), counts = means.shape, torch.bincount(index)
        if 8 * k * d * d > _LIMIT_BYTES:
            raise ScoreError(
                f"{self.name} keeps a covariance a class: {k} of {d} × {d} are {8 * k * d * d / 2**30:.1f} GiB, more "
                f"than {_LIMIT_BYTES / 2**30:g}; use mahalanobis, whose classes share one"
            )
        whitening = torch.empty(k, d, d, dtype=torch.float64)
        shared: torch.Tensor | None = None
        for c in range(k):
            own = x[index == c]
            if (own == own[0]).all():
                if shared is None:
                    shared = inverse_cholesky(covariance(x, means, index), self.jitter)
                whitening[c] = shared
            else:
                numbers = torch.zeros(len(own), dtype=torch.int64)
                whitening[c] = inverse_cholesky(covariance(own, means[c, None], numbers), self.jitter)
        # log π_c − ½ log |2π Σ_c|, the log density at the mean.
        peaks = torch.log(counts.double() / len(x)) - 0.5 * d * math.log(2 * math.pi)
        peaks += whitening.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return {"means": means, "whitening": whitening, "peaks": peaks}

    def _score(self, features: Features) -> torch.Tensor:
        return torch.cat([self._log_density(part.double()) for (part,) in blocks(features.u, rows=_ROWS)])

    def _traced(self, features: Features) -> torch.Tensor:
        """Every class followed to its end."""
        x, (k, d) = features.u.double(), self.state["means"].shape
        squares = torch.stack([self._squares(x, c, 0, d) for c in range(k)], dim=1)
        return torch.logsumexp(self.state["peaks"] - 0.5 * squares, dim=1)

    def _log_density(self, x: torch.Tensor) -> torch.Tensor:
        """Log densities of (N, D) rows.

        The distances grow as whitened coordinates are added, a block of them at a time: `L⁻¹` is triangular, so the
        first ones need but the first coordinates of x. A class whose density has fallen so far below that of the
        likeliest one that float64 cannot see it in the sum is followed no further.
        """
        peaks = self.state["peaks"]
        k, d = self.state["means"].shape
        rows = torch.arange(len(x))
        density = peaks - 0.5 * torch.stack([self._squares(x, c, 0, _STEP) for c in range(k)], dim=1)
        likeliest = density.argmax(dim=1)
        for c in torch.unique(likeliest).tolist():
            own = rows[likeliest == c]
            density[own, c] -= 0.5 * self._squares(x[own], c, _STEP, d)
        negligible = density[rows, likeliest] + math.log(torch.finfo(torch.float64).eps / k) - 1
        for start in range(_STEP, d, _STEP):
            alive = density > negligible[:, None]
            alive[rows, likeliest] = False
            for c in range(k):
                others = rows[alive[:, c]]
                density[others, c] -= 0.5 * self._squares(x[others], c, start, start + _STEP)
        return torch.logsumexp(density, dim=1)

    def _squares(self, x: torch.Tensor, c: int, start: int, stop: int) -> torch.Tensor:
        """What whitened coordinates start … stop add to the squared distance from a class."""
        whitening = self.state["whitening"][c, start:stop, :stop]
        return ((x[:, :stop] - self.state["means"][c, :stop]) @ whitening.T).square().sum(dim=1)
