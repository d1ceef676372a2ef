"""Recipes: how a network is trained, as plain data."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard

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
        weight_decay: on every parameter, or on all but the head's.
        head_decay: whether weight decay holds the head, too.
        head_bias: whether the head has a bias.
        warmup: share of the steps in which the learning rate rises.
        descent: how it falls to zero after that, `"cosine"` or `"linear"`.
        averaging: epochs over which weights are averaged, exponentially and step by step; the average is the network
            that is kept, while the log tells of the one that trains. 0: the last weights are kept.
        flip: whether half of the images, drawn anew in each epoch, are mirrored left to right.
        shift: largest shift in each direction as a share of the image's side; edges are repeated.
        patterns: share of the images, drawn anew in each epoch, that are mixed with generated patterns
            (`normgate.training.patterns`).
        temperature: τ of the L2 normalisation, `"learned"`, or None to train without normalisation.
        temperature_start: τ of the first epoch; it then moves to `temperature`, which it has from the middle epoch on.
            None: it has it all the time.
        standardize: bring each image to its own mean and contrast before the network.
        rotations: weight of a second task, to tell by how many quarters a copy of each image was turned
            (`normgate.training.objective`); images in the network are then twice as many.
        radial: weight of a loss that wants probes to have smaller norms than images (`normgate.training.radial`); of
            large weights, such as 0.5, nothing is left for the classes.
    """

    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    head_decay: bool = True
    head_bias: bool = True
    warmup: float = 0.15
    descent: Literal["cosine", "linear"] = "cosine"
    averaging: float = 0.0
    flip: bool = True
    shift: float = 0.125
    patterns: float = 0.0
    temperature: float | Literal["learned"] | None = 1.0
    temperature_start: float | None = None
    standardize: bool = False
    rotations: float = 0.0
    radial: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_kind(field.name, field.default, getattr(self, field.name))
        tau, start = self.temperature, self.temperature_start
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
            "momentum": (0 <= self.momentum < 1, "from 0 to below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a finite number, 0 or above"),
            "warmup": (0 <= self.warmup < 1, "from 0 to below 1"),
            "descent": (self.descent in ("cosine", "linear"), '"cosine" or "linear"'),
            # Of longer averages the first weights would be a part.
            "averaging": (0 <= self.averaging <= self.epochs / 4, "from 0 to a quarter of the epochs"),
            "shift": (0 <= self.shift < 1, "from 0 to below 1"),
            "patterns": (0 <= self.patterns <= 1, "from 0 to 1"),
            "rotations": (0 <= self.rotations < math.inf, "a finite number, 0 or above"),
            "radial": (0 <= self.radial < math.inf, "a finite number, 0 or above"),
            "temperature": (
                tau is None or tau == "learned" or (_is_number(tau) and 0 < tau < math.inf),
                'a finite number above 0, "learned" or None',
            ),
            "temperature_start": (
                start is None or (_is_number(tau) and _is_number(start) and 0 < start < math.inf),
                "a finite number above 0 beside a temperature that is a number, or None",
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
        # Half a step short of zero, so that the last step still moves.
        fallen = min((progress - self.warmup) / (1 - self.warmup), 1 - 0.5 / steps)
        return self.learning_rate * (0.5 * (1 + math.cos(math.pi * fallen)) if self.descent == "cosine" else 1 - fallen)

    def temperature_at(self, epoch: int) -> float | None:
        """τ of an epoch, counted from 0, where it is set from outside: a geometric mean of both ends; else None."""
        if self.temperature_start is None or not _is_number(self.temperature):
            return None
        moved = min(1.0, epoch / (self.epochs // 2)) if self.epochs > 1 else 1.0
        return float(self.temperature_start ** (1 - moved) * self.temperature**moved)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def named(cls, name: str, **changes: Any) -> Recipe:
        """A recipe of `RECIPES`, with some of its settings changed."""
        if name not in RECIPES:
            raise RecipeError(f"there is no recipe {name!r}; choose from: {', '.join(RECIPES)}")
        return cls.from_dict({**RECIPES[name].to_dict(), **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; unknown names are an error."""
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            known = ", ".join(field.name for field in dataclasses.fields(cls))
            raise RecipeError(f"a recipe has no {', '.join(sorted(unknown))}; it has {known}")
        return cls(**values)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_kind(name: str, default: object, value: object) -> None:
    """Refuse what JSON may hold instead of a number or a truth value."""
    fits, wanted = {
        bool: (isinstance(value, bool), "true or false"),
        int: (isinstance(value, int) and not isinstance(value, bool), "a whole number"),
        float: (_is_number(value) or name == "temperature", "a number"),
    }.get(type(default), (True, ""))
    if not fits:
        raise RecipeError(f"{name} must be {wanted}, not {value!r}")


RECIPES: dict[str, Recipe] = {
    # What is known of the paper: 60 epochs, τ = 1, no further hyper-parameter; optimiser and schedule are ours.
    "paper": Recipe(),
    "plain": Recipe(temperature=None),
}
