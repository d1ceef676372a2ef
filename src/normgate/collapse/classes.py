"""Class means of labelled features: what every measure of collapse starts from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from normgate.features import Features

Floats: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64]
Space: TypeAlias = Literal["z", "u"]

# Features are float32: differences of means below this share of the largest length around are rounding.
ROUNDING = 1e-6


class CollapseError(NormgateError):
    """These features have no such geometry; the message says what is missing."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMeans:
    """Features seen from the mean of their class means, so that each class weighs the same.

    Attributes:
        present: (C,) numbers of the classes that have images, in order.
        counts: (C,) their numbers of images.
        labels: (N,) the row of `means` that each image belongs to.
        deviations: (N, D) features minus the global mean.
        means: (C, D) class means minus the global mean; those that are rounding alone are zero.
    """

    present: Labels
    counts: Labels
    labels: Labels
    deviations: Floats
    means: Floats

    @classmethod
    def of(cls, values: Floats, labels: Labels) -> ClassMeans:
        """From (N, D) features, which are overwritten, and (N,) class numbers.

        Raises:
            CollapseError: fewer than two classes have images.
        """
        present, rows, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if len(present) < 2:
            raise CollapseError(f"geometry compares classes, and only {len(present)} has images; pass images of two")
        length = np.sqrt(np.vdot(values, values) / len(values))
        means = np.stack([values[rows == row].mean(axis=0) for row in range(len(present))])
        centre = means.mean(axis=0)
        values -= centre
        means -= centre
        means[np.linalg.norm(means, axis=1) <= ROUNDING * length] = 0
        return cls(present, counts, rows, values, means)


def labels_of(features: Features) -> Labels:
    """The (N,) class numbers of labelled features.

    Raises:
        CollapseError: there are no images or labels, the head has one class, or a feature or weight is not finite.
    """
    if len(features) == 0:
        raise CollapseError("there are no images to measure; pass features of some")
    if features.labels is None:
        raise CollapseError("geometry is measured class by class; pass features of images with labels")
    if len(features.weight) < 2:
        raise CollapseError("the head has one output: geometry needs a classifier of two classes or more")
    for name, values in (("features", features.z), ("logits", features.logits), ("head weights", features.weight)):
        if not bool(values.isfinite().all()):
            raise CollapseError(f"some {name} are NaN or infinite; check the network's weights and the preprocessing")
    labels: Labels = features.labels.numpy()
    return labels


def lengths_of(vectors: torch.Tensor) -> Floats:
    """The (N,) norms of (N, D) float32 rows, in float64."""
    lengths: Floats = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).numpy()
    return lengths


def values_in(features: Features, space: Space) -> Floats:
    """A float64 copy of the features, raw (`z`) or as directions (`u`; a zero feature stays zero), (N, D).

    Raises:
        CollapseError: there is no such space.
    """
    if not isinstance(space, str) or space not in get_args(Space):
        raise CollapseError(f"space is 'z', raw features, or 'u', directions, not {space!r}")
    values = features.z.numpy().astype(np.float64)
    if space == "u":
        norms = lengths_of(features.z)[:, None]
        values /= np.where(norms > 0, norms, 1)
    return values
