"""Whether a network's outputs come in the order of the class names: nothing else tells that they do not."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch

from normgate.errors import NormgateWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normgate.features import Features

GAIN = 0.1
"""Share of the images that another order must explain in addition, beyond what chance gives of so few."""


def warn_of_order(features: Features, classes: Sequence[str], stacklevel: int) -> None:
    """Warn where labelled images say that the outputs are those of the classes in another order.

    Each output is given the class that most of its images have, no class twice; that explains more images than the
    names as they stand only where these are out of order, or the network knows nothing.

    Args:
        features: of labelled images.
        classes: K names, by class number.
        stacklevel: of the warning, from here.
    """
    assert features.labels is not None
    k, n = len(classes), len(features)
    cells = features.logits.argmax(dim=1) * k + features.labels
    counts = torch.bincount(cells, minlength=k * k).view(k, k)  # by output and label
    most, label = counts.max(dim=1)
    owner: dict[int, int] = {}
    for output in most.argsort(descending=True).tolist():
        if most[output] > 0:
            owner.setdefault(int(label[output]), output)
    agreed = int(counts.diagonal().sum()) / n
    other = sum(int(most[output]) for output in owner.values()) / n
    if other - agreed < GAIN + 2 / math.sqrt(n):
        return
    moved = sorted(((int(most[output]), output, own) for own, output in owner.items() if output != own), reverse=True)
    examples = ", ".join(f"most that it calls {classes[output]!r} are {classes[own]!r}" for _, output, own in moved[:2])
    warnings.warn(
        f"the network's outputs do not seem to come in the order of the class names: it is right on {agreed:.0%} of "
        f"the labelled images, and in another order it would be on {other:.0%} ({examples}); name the classes in the "
        "order of the outputs (classes=, --classes FILE)",
        NormgateWarning,
        stacklevel=stacklevel + 1,
    )
