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


@dataclasses.dataclass(frozen=True)
class Against:
    """Comparisons with other gates, or with one score, as they stand beside the results of an evaluation.

    Attributes:
        comparisons: in the order in which they are shown.
        gates: what the other gates are called; empty where scores of the same evaluation are compared.
        score: the score that others are compared with; None where gates are.
        gate_scores: the scores that the gates of both sides use, whose comparison is marked.
    """

    comparisons: Sequence[Comparison]
    gates: tuple[str, ...] = ()
    score: str | None = None
    gate_scores: tuple[str | None, str | None] = (None, None)

    @property
    def less(self) -> str:
        """What AUROCs are less of, in words."""
        return ", ".join(self.gates) if self.score is None else self.score

    def label(self, comparison: Comparison) -> str:
        """What a comparison is called where it is clear what AUROCs are less of."""
        a, b = comparison.a, comparison.b
        return a if b in (a, self.score) else f"{a} − {b}"

    def is_own(self, comparison: Comparison) -> bool:
        """Whether it is that of the gates' own scores."""
        return (comparison.a, comparison.b) == self.gate_scores

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        of: dict[str, Any] = {"gates": list(self.gates)} if self.score is None else {"score": self.score}
        return {**of, "comparisons": [comparison.to_dict() for comparison in self.comparisons]}


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
