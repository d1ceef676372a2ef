"""Two scores on the same images: where one is better, and whether that is more than chance."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from normgate import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from normgate.metrics import AurocDifference


@dataclasses.dataclass(frozen=True)
class Comparison:
    """AUROC of one score minus that of another, paired image by image or, over seeds, seed by seed.

    Attributes:
        a: the score from whose AUROC the other's is taken.
        b: the other score.
        sets: the difference on each OoD set.
        means: the difference of the means over each group of sets; of images, with their joint covariance.
    """

    a: str
    b: str
    sets: dict[str, AurocDifference]
    means: dict[str, AurocDifference]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; differences of shares from 0 to 1."""
        sets, means = ({name: d._asdict() for name, d in part.items()} for part in (self.sets, self.means))
        return {"a": self.a, "b": self.b, "sets": sets, "means": means}


def compared(
    a: str,
    b: str,
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    groups: Mapping[str, Sequence[str]],
) -> Comparison:
    """Compare scores called a and b, given the scores (N,) of the same images by set; the ID set is `id`."""
    return Comparison(
        a,
        b,
        sets={
            name: metrics.paired_auroc_difference(first["id"], first[name], second["id"], second[name])
            for name in first
            if name != "id"
        },
        means={
            group: metrics.paired_mean_difference(
                first["id"],
                {name: first[name] for name in names},
                second["id"],
                {name: second[name] for name in names},
            )
            for group, names in groups.items()
        },
    )
