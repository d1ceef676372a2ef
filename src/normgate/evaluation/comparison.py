"""Two scores on the same images: where one is better, and whether that is more than chance."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

from normgate import metrics
from normgate.errors import NormgateWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from normgate.evaluation.results import Evaluation
    from normgate.evaluation.seeds import SeedSummary
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


def against(results: Evaluation | SeedSummary, others: Evaluation | SeedSummary) -> list[Comparison]:
    """What gates have over others: the AUROC of their own scores, and of each score that both have, less the others'.

    Args:
        results: of one gate, or of several over seeds.
        others: the same of other gates, on the same images.

    Returns:
        The comparison of the gates' own scores, where each side has one, and then those of all, best score first.

    Raises:
        EvaluationError: no score is on both sides; see also `Evaluation.compare` and `SeedSummary.compare`.

    Warns:
        NormgateWarning: scores of one name have other settings.
    """
    from normgate.evaluation.results import EvaluationError

    if type(results) is not type(others):
        raise EvaluationError(
            "one evaluation is compared with one, and over_seeds([…]) with over_seeds([…]), and not "
            f"{type(results).__name__} with {type(others).__name__}"
        )
    pairs = [(score, score) for score in results.ranking if score in others.metrics]
    own, theirs = results.gate_score, others.gate_score
    if own is not None and theirs is not None and own in results.metrics and theirs in others.metrics:
        pairs.insert(0, (own, theirs))
    if not pairs:
        raise EvaluationError("there is no score that both sides have; evaluate every gate with the same scores")
    if differing := [a for a, b in pairs if a == b and _settings(results, a) != _settings(others, b)]:
        warnings.warn(
            f"{', '.join(dict.fromkeys(differing))} of these gates differ in their settings, so that gates and "
            "settings are compared in one",
            NormgateWarning,
            stacklevel=2,
        )
    compare: Callable[..., Comparison] = results.compare  # which refuses one beside several
    return [compare(a, b, others) for a, b in dict.fromkeys(pairs)]


def _settings(results: Evaluation | SeedSummary, score: str) -> dict[str, Any] | None:
    first: Evaluation = getattr(results, "evaluations", (results,))[0]  # type: ignore[assignment]
    return first.settings.get(score)


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
