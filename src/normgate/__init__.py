"""normgate: image classifiers that know when not to answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.backbones import Backbone
    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import open_source
    from normgate.errors import NormgateError, NormgateWarning, ProbeWarning
    from normgate.evaluation import Evaluation, evaluate
    from normgate.gate import Gate, Verdict, Verdicts
    from normgate.normalization import is_normalized, l2norm, remove_l2norm
    from normgate.pipeline import train
    from normgate.screening import screen
    from normgate.training import Hardware, Recipe

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Evaluation",
    "Gate",
    "Hardware",
    "NormgateError",
    "NormgateWarning",
    "Preprocessing",
    "ProbeWarning",
    "Recipe",
    "Verdict",
    "Verdicts",
    "__version__",
    "evaluate",
    "is_normalized",
    "l2norm",
    "open_source",
    "remove_l2norm",
    "screen",
    "train",
]

_MODULES = {
    "Backbone": "backbones",
    "Evaluation": "evaluation",
    "Gate": "gate",
    "Hardware": "training",
    "NormgateError": "errors",
    "NormgateWarning": "errors",
    "Preprocessing": "data.preprocessing",
    "ProbeWarning": "errors",
    "Recipe": "training",
    "Verdict": "gate",
    "Verdicts": "gate",
    "evaluate": "evaluation",
    "is_normalized": "normalization",
    "l2norm": "normalization",
    "open_source": "data.sources",
    "remove_l2norm": "normalization",
    "screen": "screening",
    "train": "pipeline",
}

__getattr__, __dir__ = late_names(__name__, _MODULES)
