"""Norm gain: the magnitude of the feature vector over that of an early stage, so that contrast cancels."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import ScoreError, whole
from normgate.scores.norm import Norm, magnitudes

if TYPE_CHECKING:
    from normgate.features import Features

_TINY = torch.finfo(torch.float32).tiny


@dataclasses.dataclass
class NormGain(Norm):
    """`log ‖m‖₂ − log ‖pool(h)‖₂`, h the output of a stage (0 = the earliest) and pool its mean over space.

    A network that multiplied contrast through all layers would give each image the same gain. The norm alone follows
    contrast and texture instead: an image that is only brighter looks more familiar.
    A norm of 0 has no logarithm: ‖m‖₂ = 0 counts as the smallest normal float32 number t, and where the early stage
    sees nothing (‖pool(h)‖₂ = 0) what reaches m is no evidence of the image, and the score is log t: lower than of any
    image with usual norms.
    Source: this project; see the magnitude in Haas, Yolland, Rabus, arXiv 2306.04072.
    """

    needs_stages = True

    stage: int = 0

    def __post_init__(self) -> None:
        if (stage := whole(self.stage, 0)) is None:
            raise ScoreError(f"{self.name} needs the number of a stage, 0 or above, not {self.stage!r}")
        self.stage = stage

    def _refusal(self, features: Features) -> str | None:
        return self._unknown_stage(features) or super()._refusal(features)

    def _unknown_stage(self, features: Features) -> str | None:
        if features.stage_norms is None:
            return unknown_stages(features)
        if self.stage >= (count := features.stage_norms.shape[1]):
            return f"the network has {count} stages, numbered from 0, and stage {self.stage} is none of them"
        return None

    def _score(self, features: Features) -> torch.Tensor:
        if reason := self._unknown_stage(features):
            raise ScoreError(f"{self.name} cannot be computed: {reason}")
        assert features.stage_norms is not None
        early = features.stage_norms[:, self.stage].double()
        gain = magnitudes(features).clamp_min(_TINY).log() - early.log()
        return torch.where(early == 0, gain.clamp_max(math.log(_TINY)), gain)


def unknown_stages(features: Features) -> str | None:
    """Why scores that look at stages cannot be had; None where they can."""
    if features.stage_norms is None:
        return "the network's stages are not known: it does not list them as timm's networks do"
    return None
