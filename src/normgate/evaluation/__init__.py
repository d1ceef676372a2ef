"""Evaluation: how well scores tell known images from unknown ones, and whether the gate kept its promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.evaluation.baselines import against
    from normgate.evaluation.cache import CacheError, FeatureCache
    from normgate.evaluation.comparison import Comparison
    from normgate.evaluation.figures import MeanMetrics, SetMetrics
    from normgate.evaluation.results import Evaluation, EvaluationError, GateOutcome
    from normgate.evaluation.running import evaluate, evaluate_features, open_known
    from normgate.evaluation.seeds import SeedSummary, Spread, over_seeds

__all__ = [
    "CacheError",
    "Comparison",
    "Evaluation",
    "EvaluationError",
    "FeatureCache",
    "GateOutcome",
    "MeanMetrics",
    "SeedSummary",
    "SetMetrics",
    "Spread",
    "against",
    "evaluate",
    "evaluate_features",
    "open_known",
    "over_seeds",
]

_MODULES = {
    "CacheError": "cache",
    "Comparison": "comparison",
    "Evaluation": "results",
    "EvaluationError": "results",
    "FeatureCache": "cache",
    "GateOutcome": "results",
    "MeanMetrics": "figures",
    "SeedSummary": "seeds",
    "SetMetrics": "figures",
    "Spread": "seeds",
    "against": "baselines",
    "evaluate": "running",
    "evaluate_features": "running",
    "open_known": "running",
    "over_seeds": "seeds",
}

__getattr__, __dir__ = late_names(__name__, _MODULES)
