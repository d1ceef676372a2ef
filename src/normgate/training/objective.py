"""What training minimises: cross-entropy, and what a recipe puts beside it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from normgate.normalization import find_head
from normgate.taps import capture
from normgate.training.radial import FAMILIES, check_norms, radial_loss, statistics_of_the_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normgate.taps import MagnitudeSpec
    from normgate.training.recipe import Recipe


def trained_on_probes(recipe: Recipe) -> tuple[str, ...]:
    """Families of probes that a network of this recipe has been trained on: rotated copies are probes of pose."""
    return (*(FAMILIES if recipe.radial else ()), *(("pose",) if recipe.rotations else ()))


class Losses(NamedTuple):
    """Of one batch of N images, summed over them.

    Attributes:
        total: what is minimised.
        cross_entropy: of the classes alone.
        logits: (N, K), in trained form.
    """

    total: torch.Tensor
    cross_entropy: torch.Tensor
    logits: torch.Tensor


class Objective(nn.Module):
    """A network with the losses that it is trained by; its forward pass is that of the whole step.

    With `recipe.rotations` a copy of each image, turned by a random number of quarters, goes through the network with
    the images, and a second linear head tells from the features that the first one sees how far it was turned
    (RotPred: Hendrycks et al. 2019, arXiv 1906.12340). With `recipe.radial` probes go through it, too; see
    `normgate.training.radial`. `magnitude` says which vector carries the magnitude, where it is not the head's input.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, magnitude: MagnitudeSpec | None = None) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.magnitude = magnitude
        self.head_name, head = find_head(network)
        self.quarters = nn.Linear(head.in_features, 4) if recipe.rotations else None
        self._read: tuple[torch.Tensor, ...] = ()
        if recipe.radial:
            check_norms(network)

    def forward(self, x: torch.Tensor, labels: torch.Tensor, probes: torch.Tensor | None = None) -> Losses:
        """The losses of a batch; with `recipe.rotations`, `at_work`.

        Args:
            x: (N, 3, H, W) images; H = W with `recipe.rotations`.
            labels: (N,) their classes.
            probes: (P, 3, H, W) outliers made of images, for the radial loss.
        """
        count = len(x)
        rows = [x]
        if self.quarters is not None:
            turns = torch.randint(0, 4, (count,), device=x.device)
            rows.append(turned(x, turns))
        seen = sum(map(len, rows))
        if probes is not None:
            rows.append(probes)
        if len(rows) == 1:
            logits = self.network(x)
            cross_entropy = _cross_entropy(logits, labels)
            return Losses(cross_entropy, cross_entropy, logits)
        batch = torch.cat(rows).contiguous(memory_format=torch.channels_last)
        if probes is None:
            logits = self.network(batch)[:count]
        else:
            with (
                capture(self.network, self.head_name, self.magnitude) as tap,
                statistics_of_the_first(seen, seen + len(probes), self.network),
            ):
                logits = self.network(batch)[:count]
        total = cross_entropy = _cross_entropy(logits, labels)
        if self.quarters is not None:
            (read,) = self._read
            self._read = ()
            total = total + self.recipe.rotations * _cross_entropy(self.quarters(read[count:seen]), turns)
        if probes is not None:
            m = tap.z if tap.m is None else tap.m
            total = total + self.recipe.radial * count * radial_loss(m[:count], m[seen:])
        return Losses(total, cross_entropy, logits)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Around all steps: for rotations the head has a hook, and a compiled step wants it to be the same one."""
        with contextlib.ExitStack() as stack:
            if self.quarters is not None:
                head = self.network.get_submodule(self.head_name)
                stack.enter_context(head.register_forward_hook(self._note))
            yield

    def _note(self, _: nn.Module, args: tuple[torch.Tensor], __: torch.Tensor) -> None:
        """What the head has read: directions where the network is normalised."""
        self._read = args

    def parameter_groups(self) -> list[dict[str, object]]:
        """For the optimiser: all in one, or the head's without weight decay."""
        if self.recipe.head_decay:
            return [{"params": list(self.parameters())}]
        own = set(self.network.get_submodule(self.head_name).parameters())
        return [
            {"params": [p for p in self.parameters() if p not in own]},
            {"params": [p for p in self.parameters() if p in own], "weight_decay": 0.0},
        ]


def turned(x: torch.Tensor, quarters: torch.Tensor) -> torch.Tensor:
    """Square images (N, C, H, H), each turned counter-clockwise by its own number of quarters."""
    out = x
    for quarter in (1, 2, 3):
        chosen = (quarters == quarter)[:, None, None, None]
        out = torch.where(chosen, torch.rot90(x, quarter, dims=(2, 3)), out)
    return out


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return F.cross_entropy(logits.float() if half else logits, labels, reduction="sum")
