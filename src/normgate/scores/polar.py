"""Polar: magnitude and direction together, the less familiar of the two."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar

import torch

from normgate.scores.base import Score, ScoreError
from normgate.scores.energy import Energy
from normgate.scores.mahalanobis import Mahalanobis

if TYPE_CHECKING:
    from normgate.features import Features


KNOTS = 50
"""Quantiles of the tuning scores between which p-values are interpolated."""


@dataclasses.dataclass
class Polar(Score):
    """`min_i log pᵢ` over magnitude and direction: the less familiar of the two, each as a p-value.

    The parts are `energy_raw` (logits of the features with their magnitude) and `mahalanobis` (directions alone). pᵢ is
    the share of ID tuning images that part i finds at most as familiar, made smooth: from the q-quantile to the largest
    tuning score log p is interpolated between quantiles, and below the q-quantile l it goes on as an exponential tail,
    `log q − (l − s)/e` with e the mean of l − s over the tuning scores there (peaks over threshold: Pickands 1975), so
    that scores far outside the tuning images still differ. The smaller of two p-values is Tippett's combination (1931):
    whatever one part finds at a false-alarm rate α, polar finds at 2α at most, however wrong the other part goes.
    Derived in docs/method.md.
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
        if len(tuning) * self.quantile < 1:
            raise ScoreError(
                f"{self.name} measures the tail of at least {math.ceil(1 / self.quantile)} tuning images, and there "
                f"are {len(tuning)}; add some (tuning=, --tuning)"
            )
        parts = self._parts(tuning)
        knots = parts.quantile(self._shares(), dim=1).T.contiguous()
        low = knots[:, :1]
        tail = parts <= low
        excess = ((low - parts) * tail).sum(dim=1) / tail.sum(dim=1)
        # Where the lowest tie, the tail goes on as steeply as log p falls from the middle to it.
        middle = parts.median(dim=1).values
        excess = torch.where(excess > 0, excess, (middle - low[:, 0]) / math.log(0.5 / self.quantile))
        if not (excess > 0).all():
            raise ScoreError(
                f"{self.name} cannot be scaled on {len(tuning)} tuning images whose scores hardly vary; add some"
            )
        return {"knots": knots, "excess": excess}

    def _score(self, features: Features) -> torch.Tensor:
        parts = self._parts(features)
        return self._log_p_values(parts, torch.searchsorted(self.state["knots"], parts, right=True)).amin(dim=0)

    def _traced(self, features: Features) -> torch.Tensor:
        direction, magnitude = self._pair()
        parts = torch.stack([magnitude.traced(features), direction.traced(features)])
        at_most = (self.state["knots"][:, None] <= parts[:, :, None]).sum(dim=2)
        return self._log_p_values(parts, at_most).amin(dim=0)

    def _log_p_values(self, parts: torch.Tensor, at_most: torch.Tensor) -> torch.Tensor:
        """(2, N): logarithms of the smooth p-values of (2, N) parts, `at_most` counting the knots at or below each."""
        knots, log_shares = self.state["knots"], self._shares().log()
        right = at_most.clamp(1, KNOTS - 1)
        below, above = knots.gather(1, right - 1), knots.gather(1, right)
        # Where quantiles tie there is no room between them, and any share of it is as good.
        share = ((parts - below) / (above - below).clamp_min(torch.finfo(parts.dtype).tiny)).clamp(0, 1)
        inner = torch.lerp(log_shares[right - 1], log_shares[right], share)
        tail = log_shares[0] - (knots[:, :1] - parts) / self.state["excess"][:, None]
        return torch.where(parts < knots[:, :1], tail, inner)

    def _shares(self) -> torch.Tensor:
        return torch.linspace(self.quantile, 1, KNOTS, dtype=torch.float64)

    def _parts(self, features: Features) -> torch.Tensor:
        """(2, N): magnitude and direction."""
        direction, magnitude = self._pair()
        return torch.stack([magnitude(features), direction(features)])

    def _pair(self) -> tuple[Mahalanobis, Energy]:
        prefix = "mahalanobis."
        own = {key.removeprefix(prefix): value for key, value in self.state.items() if key.startswith(prefix)}
        return Mahalanobis("mahalanobis").load_state(own), Energy("energy_raw", space="raw_logits")
