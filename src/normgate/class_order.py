"""Whether a network's outputs come in the order of the class names: nothing else tells that they do not."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from normgate.errors import NormgateWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normgate.features import Features

GAIN = 0.1
"""Share of the images, each class weighing the same, that another order must explain beyond the names as they stand."""


def warn_of_order(features: Features, classes: Sequence[str], stacklevel: int) -> None:
    """Warn where labelled images say that the outputs are those of the classes in another order.

    On one half of each class's images every output is given the class of which the largest share goes there, no class
    twice; on the other half that explains more images than the names as they stand only where these are out of order.
    Classes weigh the same, since what is rare would otherwise be given away for what is frequent.

    Args:
        features: of labelled images.
        classes: K names, by class number.
        stacklevel: of the warning, from here.
    """
    assert features.labels is not None
    labels, outputs = features.labels.numpy(), features.logits.argmax(dim=1).numpy()
    counts = np.bincount(labels, minlength=len(classes))
    first = _within(labels) % 2 == 0
    owner = _owners(outputs[first], labels[first], counts)
    moved = {output: label for output, label in owner.items() if output != label}
    if len(moved) < 2 or first.all():
        return
    labels, outputs = labels[~first], outputs[~first]
    weights = 1 / counts[labels]
    given = np.array([owner.get(int(output), -1) for output in outputs])
    agreed, other = (float(weights[said == labels].sum() / weights.sum()) for said in (outputs, given))
    if other - agreed < GAIN + 2 / math.sqrt(len(labels)):
        return
    examples = ", ".join(
        f"most that it calls {classes[output]!r} are {classes[label]!r}" for output, label in list(moved.items())[:2]
    )
    warnings.warn(
        f"the network's outputs do not seem to come in the order of the class names: it is right on {agreed:.0%} of "
        f"the labelled images, and in another order it would be on {other:.0%} ({examples}); name the classes in the "
        "order of the outputs where the gate is made (classes=, --classes FILE)",
        NormgateWarning,
        stacklevel=stacklevel + 1,
    )


def _within(labels: np.ndarray) -> np.ndarray:
    """The number of each image among those of its class, (N,)."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    numbers = np.empty(len(labels), dtype=np.int64)
    numbers[order] = np.arange(len(labels)) - starts
    return numbers


def _owners(outputs: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> dict[int, int]:
    """The class of each output, the surest first: of the pairs that occur, those with the largest share of a class."""
    pairs, found = np.unique(np.stack([outputs, labels]), axis=1, return_counts=True)
    owner: dict[int, int] = {}
    taken: set[int] = set()
    for column in np.argsort(-found / counts[pairs[1]], kind="stable"):
        output, label = map(int, pairs[:, column])
        if output not in owner and label not in taken:
            owner[output] = label
            taken.add(label)
    return owner
