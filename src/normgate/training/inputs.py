"""What a network sees in an epoch: images moved, mixed and normalised, a batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from normgate.network_input import network_input
from normgate.training.augmentation import flip_and_shift
from normgate.training.radial import draw_probes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from normgate.data.preprocessing import Preprocessing
    from normgate.training.images import TrainingImages
    from normgate.training.patterns import Patterns

TOGETHER = 16
"""Most batches made ready at once where images lie on a GPU: there a small kernel is sooner run than launched."""
VALUES = 2**26
"""Most pixel values of such batches: larger images are worth a launch, and would take memory that the network needs."""


class Batch(NamedTuple):
    """One step's input, on the device.

    Attributes:
        x: (B, 3, H, W) normalised images, channels last in memory.
        labels: (B,) class numbers.
        probes: (P, 3, H, W), where the recipe has a radial loss.
    """

    x: torch.Tensor
    labels: torch.Tensor
    probes: torch.Tensor | None


def input_batches(
    images: TrainingImages,
    order: torch.Tensor,
    batch_size: int,
    *,
    moves: torch.Tensor,
    patterns: Patterns | None,
    probes: np.random.Generator | None,
    preprocessing: Preprocessing,
    device: torch.device,
    together: int | None = None,
) -> Iterator[Batch]:
    """An epoch's batches in the order given; smaller or empty where images cannot be read any longer.

    Args:
        images: the training images.
        order: numbers of the images.
        batch_size: images in a batch.
        moves: of all images; see `draw_moves`.
        patterns: of all images, or None to mix nothing.
        probes: source of randomness for the probes of a radial loss, or None for no probes.
        preprocessing: its normalisation is applied.
        device: where the network is.
        together: batches that are made ready at once; by default up to `TOGETHER` on a GPU that holds the images, or
            else one.
    """
    if together is None:
        together = 1 if images.labels.device.type == "cpu" else _together(batch_size, preprocessing.size)
    for pixels, numbers in images.batches(order, together * batch_size):
        labels = images.labels[numbers]
        if not len(labels):  # nothing to move or normalise: of no pixels there is no deviation
            yield Batch(torch.empty(0, 3, *preprocessing.size, device=device), labels.to(device), None)
            continue
        made: list[torch.Tensor | None] = []
        if probes is not None:
            shown, classes = pixels.cpu(), labels.cpu()
            drawn = [
                draw_probes(part, kinds, probes)
                for part, kinds in zip(torch.split(shown, batch_size), torch.split(classes, batch_size), strict=True)
            ]
            x = network_input(torch.cat(drawn).to(device), preprocessing)
            made += torch.split(x, [len(part) for part in drawn])
        moved = flip_and_shift(pixels, moves[numbers])
        if patterns is not None:
            moved = patterns.mix(moved, numbers)
        x = network_input(moved.to(device), preprocessing)
        batches = zip(torch.split(x, batch_size), torch.split(labels.to(device), batch_size), strict=True)
        for index, (part, kinds) in enumerate(batches):
            yield Batch(part, kinds, made[index] if made else None)


def _together(batch_size: int, size: tuple[int, int]) -> int:
    return min(max(VALUES // (batch_size * size[0] * size[1] * 3), 1), TOGETHER)
