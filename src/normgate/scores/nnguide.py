"""NNGuide: energy, guided by how similar the most similar training images are."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score, ScoreError, whole
from normgate.scores.blocks import blocks

if TYPE_CHECKING:
    from normgate.features import Features

_MIN_ROWS = 1000
_USUAL_K = 10
_BLOCK_BYTES = 64 * 2**20


@dataclasses.dataclass
class NNGuide(Score):
    """`E(z) · mean of the k largest ⟨u, E(zᵢ) uᵢ⟩` over a bank of training images; E the energy of `head(z/τ)`.

    The bank holds `fraction` of the training images, but at least 1,000 and k of them or all: within each class, every
    1/fraction-th in the order of the energies, so that the order of the images does not count. Energies are taken
    to be positive, as they are where logits are raw; see `refusal`. k None is 10, or all rows of a smaller bank.
    Source: Park et al., ICCV 2023, arXiv 2309.14888 (1 % and k = 10 for ImageNet).
    """

    needs_fit = True

    fraction: float = 0.01
    k: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ScoreError(f"{self.name} needs a fraction above 0 and at most 1, not {self.fraction!r}")
        if self.k is not None:
            if (k := whole(self.k, 1)) is None:
                raise ScoreError(f"{self.name} needs a whole number k of at least 1, not {self.k!r}")
            self.k = k

    @property
    def least_rows(self) -> int:
        """As many as neighbours are asked for."""
        return self.k or 1

    def _refusal(self, features: Features) -> str | None:
        if len(features) == 0 or (share := float((_energy(features) <= 0).double().mean())) <= 0.05:
            return None
        return f"{share:.0%} of real images have a negative energy, which turns the guidance of {self.name} round"

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        energy = _energy(features)
        rows = min(len(energy), max(_MIN_ROWS, self.k or 0, math.ceil(self.fraction * len(energy))))
        order = energy.argsort(stable=True)
        order = order[features.labels[order].argsort(stable=True)]
        chosen = order[(torch.arange(rows) + 0.5).mul(len(energy) / rows).long()]
        return {"bank": features.u[chosen] * energy[chosen, None].float()}

    def _score(self, features: Features) -> torch.Tensor:
        bank = self.state["bank"]
        rows = max(1, _BLOCK_BYTES // (4 * len(bank)))
        k = min(self.k or _USUAL_K, len(bank))
        parts = blocks(features.u, rows=rows)
        guidance = [(u @ bank.T).topk(k, dim=1).values.double().mean(dim=1) for (u,) in parts]
        return _energy(features) * torch.cat(guidance)


def _energy(features: Features) -> torch.Tensor:
    return torch.logsumexp(features.raw_logits.double(), dim=1)
