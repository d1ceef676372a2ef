"""Polar: magnitude and direction together, the less familiar of the two."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from normgate.scores.base import Score, ScoreError
from normgate.scores.energy import Energy
from normgate.scores.mahalanobis import Mahalanobis

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class Polar(Score):
    """`min_i (sᵢ − medianᵢ) / (medianᵢ − q-quantileᵢ)` over magnitude and direction: the less familiar of the two.

    The parts sᵢ are `energy_raw` (logits of the features with their magnitude) and `mahalanobis` (directions alone);
    median and q-quantile are those of ID tuning images, so that 0 is a typical image for both and −1 one that they find
    as unfamiliar as a share q of the ID images. The smaller of two p-values is Tippett's combination (1931): whatever
    one part finds at a false-alarm rate α, polar finds at 2α at most, however wrong the other part goes. Derived in
    docs/method.md.
    """

    needs_fit: ClassVar[bool] = True
    needs_tuning: ClassVar[bool] = True

    quantile: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 0.5:
            raise ScoreError(f"{self.name} needs a quantile above 0 and below 0.5, not {self.quantile!r}")

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        return {f"mahalanobis.{key}": value for key, value in Mahalanobis("mahalanobis").fit(features).state.items()}

    def _scale(self, tuning: Features) -> dict[str, torch.Tensor]:
        parts = self._parts(tuning)
        median = parts.median(dim=0).values
        reach = median - parts.quantile(self.quantile, dim=0)
        if not (reach > 0).all():
            raise ScoreError(
                f"{self.name} cannot be scaled on {len(tuning)} tuning images whose scores hardly vary; add some"
            )
        return {"median": median, "reach": reach}

    def _score(self, features: Features) -> torch.Tensor:
        return ((self._parts(features) - self.state["median"]) / self.state["reach"]).amin(dim=1)

    def _parts(self, features: Features) -> torch.Tensor:
        """(N, 2): magnitude and direction."""
        prefix = "mahalanobis."
        own = {key.removeprefix(prefix): value for key, value in self.state.items() if key.startswith(prefix)}
        direction = Mahalanobis("mahalanobis").load_state(own)
        magnitude = Energy("energy_raw", space="raw_logits")
        return torch.stack([magnitude(features), direction(features)], dim=1)
