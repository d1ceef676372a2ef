"""Geometry: neural collapse, what norms carry, and what both mean for a model, in numbers and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.collapse.classes import CollapseError
    from normgate.collapse.confounders import Correlation, image_statistics, norm_correlations
    from normgate.collapse.frame import Frame
    from normgate.collapse.method import Invariants, invariants
    from normgate.collapse.neural import NeuralCollapse, neural_collapse
    from normgate.collapse.norms import NormStatistics, norm_statistics, norm_statistics_by_class
    from normgate.collapse.shares import Separation, separation
    from normgate.collapse.summary import Geometry, collapse_log, geometry
    from normgate.collapse.words import explain

__all__ = [
    "CollapseError",
    "Correlation",
    "Frame",
    "Geometry",
    "Invariants",
    "NeuralCollapse",
    "NormStatistics",
    "Separation",
    "collapse_log",
    "explain",
    "geometry",
    "image_statistics",
    "invariants",
    "neural_collapse",
    "norm_correlations",
    "norm_statistics",
    "norm_statistics_by_class",
    "separation",
]

_MODULES = {
    "CollapseError": "classes",
    "Correlation": "confounders",
    "Frame": "frame",
    "Geometry": "summary",
    "Invariants": "method",
    "NeuralCollapse": "neural",
    "NormStatistics": "norms",
    "Separation": "shares",
    "collapse_log": "summary",
    "explain": "words",
    "geometry": "summary",
    "image_statistics": "confounders",
    "invariants": "method",
    "neural_collapse": "neural",
    "norm_correlations": "confounders",
    "norm_statistics": "norms",
    "norm_statistics_by_class": "norms",
    "separation": "shares",
}

__getattr__, __dir__ = late_names(__name__, _MODULES)
