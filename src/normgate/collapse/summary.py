"""Geometry: all measures of one network in one place."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from normgate import scores
from normgate.collapse.classes import CollapseError
from normgate.collapse.confounders import Correlation, norm_correlations
from normgate.collapse.method import Invariants, invariants
from normgate.collapse.neural import NeuralCollapse, neural_collapse
from normgate.collapse.norms import NormStatistics, norm_statistics, norm_statistics_by_class, norms_of
from normgate.collapse.shares import Separation, separation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from normgate.collapse.classes import Space
    from normgate.features import Features

# What magnitude is weighed against: a distance to training directions, which the head has no part in.
DIRECTION_SCORE = "knn"


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What features say of a network, as numbers; `explain` puts them into words.

    Attributes:
        classes: K, the number of classes of the head.
        dimensions: D, of the features.
        raw: neural collapse of raw features.
        directions: neural collapse of directions.
        invariants: of the method.
        norms: statistics of norms by set: `train` (the labelled features), `id` and each OoD set, where there are such.
        norms_by_class: of the labelled features, in the order of the head's rows; None for a class without images.
        correlations: of norms with statistics of the same images: of the labelled ones where `geometry` was given them,
            of the known test images in a report; else empty.
        separation: by OoD set, what tells it from the `id` images; empty where there are no such sets.
    """

    classes: int
    dimensions: int
    raw: NeuralCollapse
    directions: NeuralCollapse
    invariants: Invariants
    norms: dict[str, NormStatistics]
    norms_by_class: tuple[NormStatistics | None, ...]
    correlations: dict[str, Correlation]
    separation: dict[str, Separation]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "classes": self.classes,
            "dimensions": self.dimensions,
            "raw": self.raw.to_dict(),
            "directions": self.directions.to_dict(),
            "invariants": self.invariants.to_dict(),
            "norms": {name: value.to_dict() for name, value in self.norms.items()},
            "norms_by_class": [None if value is None else value.to_dict() for value in self.norms_by_class],
            "correlations": {name: value.to_dict() for name, value in self.correlations.items()},
            "separation": {name: value.to_dict() for name, value in self.separation.items()},
        }


def geometry(
    features: Features,
    *,
    statistics: Mapping[str, ArrayLike] | None = None,
    id: Features | None = None,  # noqa: A002
    ood: Mapping[str, Features] | None = None,
) -> Geometry:
    """Measure a network's geometry.

    Args:
        features: of labelled images, as a rule the training features that a gate keeps.
        statistics: what `image_statistics` says of the same images, in the same order.
        id: features of other images of the known classes, labelled or not; OoD sets are compared with these.
        ood: features of sets that the gate should reject, by name.

    Raises:
        CollapseError: there are no labels, fewer than two classes have images, or OoD sets have no ID images to be
            compared with.
    """
    ood = ood or {}
    if ood and id is None:
        raise CollapseError("OoD sets are compared with ID images that the network was not trained on; pass id=")
    if taken := {"train", "id"} & ood.keys():
        raise CollapseError(f"{taken.pop()!r} is the name of known images; call that OoD set something else")
    norms = norms_of(features)
    sets = {"train": features, **({} if id is None else {"id": id}), **ood}
    return Geometry(
        classes=len(features.weight),
        dimensions=features.z.shape[1],
        raw=neural_collapse(features, "z"),
        directions=neural_collapse(features, "u"),
        invariants=invariants(features),
        norms={name: norm_statistics(value) for name, value in sets.items()},
        norms_by_class=norm_statistics_by_class(features),
        correlations=norm_correlations(norms, statistics or {}),
        separation={} if id is None else _separations(features, id, ood),
    )


def collapse_log(features: Features) -> dict[str, float | None]:
    """NC1–NC4 of raw features and directions as flat columns, to be logged at each epoch of a training.

    Args:
        features: of the same labelled images at each epoch.

    Returns:
        `nc1_z`, `nc2_equinorm_z`, `nc2_angle_z`, `nc2_simplex_z`, `nc3_z`, `nc4_z`, the same ending in `_u`, and the
        mean and the coefficient of variation of the norms of the magnitude vector, `norm_mean` and `norm_variation`.
    """
    columns: dict[str, float | None] = {}
    spaces: tuple[Space, ...] = ("z", "u")
    for space in spaces:
        collapse = neural_collapse(features, space)
        columns |= {
            f"nc1_{space}": collapse.within_between,
            f"nc2_equinorm_{space}": collapse.means.equinorm,
            f"nc2_angle_{space}": collapse.means.widest_angle,
            f"nc2_simplex_{space}": collapse.means.simplex_distance,
            f"nc3_{space}": collapse.self_duality,
            f"nc4_{space}": collapse.nearest_mean_disagreement,
        }
    norms = norm_statistics(features)
    return {**columns, "norm_mean": norms.mean, "norm_variation": norms.variation}


def _separations(features: Features, known: Features, ood: Mapping[str, Features]) -> dict[str, Separation]:
    score = scores.create(DIRECTION_SCORE).fit(features)
    of_known = norms_of(known), score(known).numpy()
    return {name: separation(*of_known, norms_of(unknown), score(unknown).numpy()) for name, unknown in ood.items()}
