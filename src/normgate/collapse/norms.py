"""Statistics of the norms of features, of a set and of its classes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.collapse.classes import CollapseError, labels_of, lengths_of

if TYPE_CHECKING:
    from normgate.collapse.classes import Floats
    from normgate.features import Features

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclasses.dataclass(frozen=True)
class NormStatistics:
    """How the norms of the magnitude vector are spread over some images.

    Attributes:
        images: their number.
        mean: of the norms.
        std: standard deviation, of a population.
        variation: coefficient of variation, std/mean; None where all norms are zero.
        quantiles: of the norms, at `QUANTILES`, interpolated.
    """

    images: int
    mean: float
    std: float
    variation: float | None
    quantiles: tuple[float, ...]

    def quantile(self, q: float) -> float:
        """One of the quantiles by its place, such as 0.5 for the median.

        Raises:
            CollapseError: it is not one of `QUANTILES`.
        """
        if q not in QUANTILES:
            raise CollapseError(f"quantiles are kept at {', '.join(map(str, QUANTILES))}, not at {q!r}")
        return self.quantiles[QUANTILES.index(q)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**dataclasses.asdict(self), "quantiles": dict(zip(map(str, QUANTILES), self.quantiles, strict=True))}


def norms_of(features: Features) -> Floats:
    """(N,) norms of the magnitude vector, in float64.

    Raises:
        CollapseError: there are no images, or a norm is not finite.
    """
    if len(features) == 0:
        raise CollapseError("there are no images to measure; pass features of some")
    norms = lengths_of(features.magnitude)
    if not np.isfinite(norms).all():
        raise CollapseError("some features are NaN or infinite; check the network's weights and the preprocessing")
    return norms


def norm_statistics(features: Features) -> NormStatistics:
    """Of all images of a set, labelled or not."""
    return _statistics(norms_of(features))


def norm_statistics_by_class(features: Features) -> tuple[NormStatistics | None, ...]:
    """Of the images of each class, in the order of the head's rows; None for a class without images.

    Raises:
        CollapseError: the features have no labels.
    """
    norms, labels = norms_of(features), labels_of(features)
    classes = [norms[labels == label] for label in range(len(features.weight))]
    return tuple(_statistics(members) if len(members) else None for members in classes)


def _statistics(norms: Floats) -> NormStatistics:
    mean, std = float(norms.mean()), float(norms.std())
    quantiles = tuple(float(value) for value in np.quantile(norms, QUANTILES))
    return NormStatistics(len(norms), mean, std, std / mean if mean > 0 else None, quantiles)
