"""Gates beside others on the same images: what one has over another."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from normgate.errors import NormgateWarning
from normgate.evaluation.results import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from normgate.evaluation.comparison import Comparison
    from normgate.evaluation.results import Evaluation
    from normgate.evaluation.seeds import SeedSummary


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
    pairs = list(dict.fromkeys(pairs))
    settings = results.settings, others.settings  # not known of scores from elsewhere
    alike = [a for a, b in pairs if a == b and all(a in part for part in settings)]
    if differing := [name for name in alike if settings[0][name] != settings[1][name]]:
        warnings.warn(
            f"{', '.join(differing)} of these gates differ in their settings, so that a difference is of gates and "
            "settings at once",
            NormgateWarning,
            stacklevel=2,
        )
    compare: Callable[..., Comparison] = results.compare
    return [compare(a, b, others) for a, b in pairs]
