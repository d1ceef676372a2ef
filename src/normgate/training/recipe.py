"""Recipes: how a network is trained, as plain data."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, Self

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Mapping


class RecipeError(NormgateError):
    """A recipe that cannot be followed."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum, a linear warm-up and a cosine descent to zero.

    Attributes:
        epochs: passes over the training images.
        batch_size: images in a step, over all processes together, so that a recipe means the same on any number of
            them. The last images of an epoch's random order that fill no batch are left out of that epoch.
        learning_rate: at its peak.
        momentum: of SGD.
        weight_decay: on every parameter.
        warmup: share of the steps in which the learning rate rises.
        flip: whether half of the images, drawn anew in each epoch, are mirrored left to right.
        shift: largest shift in each direction as a share of the image's side; edges are repeated.
        temperature: τ of the L2 normalisation, `"learned"`, or None to train without normalisation.
        standardize: bring each image to its own mean and contrast before the network.
    """

    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.15
    flip: bool = True
    shift: float = 0.125
    temperature: float | Literal["learned"] | None = 1.0
    standardize: bool = False

    def __post_init__(self) -> None:
        tau = self.temperature
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
            "momentum": (0 <= self.momentum < 1, "from 0 to below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a finite number, 0 or above"),
            "warmup": (0 <= self.warmup < 1, "from 0 to below 1"),
            "shift": (0 <= self.shift < 1, "from 0 to below 1"),
            "temperature": (
                tau is None or tau == "learned" or (not isinstance(tau, str) and 0 < tau < math.inf),
                'a finite number above 0, "learned" or None',
            ),
        }
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise RecipeError(f"{name} must be {wanted}, not {getattr(self, name)!r}")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of one of `steps` steps, counted from 0."""
        progress = (step + 1) / steps
        if progress <= self.warmup:
            return self.learning_rate * progress / self.warmup
        descent = (progress - self.warmup) / (1 - self.warmup)
        # Half a step short of zero, so that the last step still moves.
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(descent, 1 - 0.5 / steps)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def named(cls, name: str, **changes: Any) -> Recipe:
        """A recipe of `RECIPES`, with some of its settings changed."""
        if name not in RECIPES:
            raise RecipeError(f"there is no recipe {name!r}; choose from: {', '.join(RECIPES)}")
        return dataclasses.replace(RECIPES[name], **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; unknown names are an error."""
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise RecipeError(f"a recipe has no {', '.join(sorted(unknown))}")
        return cls(**values)


RECIPES: dict[str, Recipe] = {
    # What is known of the paper: 60 epochs, τ = 1, no further hyper-parameter; optimiser and schedule are ours.
    "paper": Recipe(),
    "plain": Recipe(temperature=None),
}
