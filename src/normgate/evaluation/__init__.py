"""Evaluation: how well scores tell known images from unknown ones, and whether the gate kept its promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.evaluation.baselines import against
    from normgate.evaluation.cache import CacheError, FeatureCache
    from normgate.evaluation.comparison import Against, Comparison
    from normgate.evaluation.elsewhere import evaluate_scores
    from normgate.evaluation.figures import MeanMetrics, SetMetrics
    from normgate.evaluation.image_scores import ImageScores, read_image_scores
    from normgate.evaluation.results import Evaluation, EvaluationError, GateOutcome
    from normgate.evaluation.running import evaluate, evaluate_features, open_known
    from normgate.evaluation.seeds import SeedSummary, Spread, over_seeds

__all__ = [
    "Against",
    "CacheError",
    "Comparison",
    "Evaluation",
    "EvaluationError",
    "FeatureCache",
    "GateOutcome",
    "ImageScores",
    "MeanMetrics",
    "SeedSummary",
    "SetMetrics",
    "Spread",
    "against",
    "evaluate",
    "evaluate_features",
    "evaluate_scores",
    "open_known",
    "over_seeds",
    "read_image_scores",
]

_MODULES = {
    "Against": "comparison",
    "CacheError": "cache",
    "Comparison": "comparison",
    "Evaluation": "results",
    "EvaluationError": "results",
    "FeatureCache": "cache",
    "GateOutcome": "results",
    "ImageScores": "image_scores",
    "MeanMetrics": "figures",
    "SeedSummary": "seeds",
    "SetMetrics": "figures",
    "Spread": "seeds",
    "against": "baselines",
    "evaluate": "running",
    "evaluate_features": "running",
    "evaluate_scores": "elsewhere",
    "open_known": "running",
    "over_seeds": "seeds",
    "read_image_scores": "image_scores",
}

__getattr__, __dir__ = late_names(__name__, _MODULES)
