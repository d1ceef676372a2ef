"""Scores: one score, one file; the registry below names them all.

To add one: write its file, add its line to `_REGISTRY`, and a test. Of a score of your own, a subclass of `Score`,
`normgate.evaluate` takes objects.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import TYPE_CHECKING, Any

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.scores.base import Score, ScoreError

__all__ = ["Score", "ScoreError", "create", "described", "names", "summary"]

# name → (module, class, arguments that make this variant)
_REGISTRY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "norm": ("norm", "Norm", {}),
    "norm_gain": ("norm_gain", "NormGain", {}),
    "norm_profile": ("norm_profile", "NormProfile", {}),
    "msp": ("msp", "MSP", {"space": "logits"}),
    "msp_raw": ("msp", "MSP", {"space": "raw_logits"}),
    "max_logit": ("max_logit", "MaxLogit", {"space": "logits"}),
    "max_logit_raw": ("max_logit", "MaxLogit", {"space": "raw_logits"}),
    "energy": ("energy", "Energy", {"space": "logits"}),
    "energy_raw": ("energy", "Energy", {"space": "raw_logits"}),
    "entropy": ("entropy", "Entropy", {"space": "logits"}),
    "entropy_raw": ("entropy", "Entropy", {"space": "raw_logits"}),
    "gen": ("gen", "GEN", {"space": "logits"}),
    "gen_raw": ("gen", "GEN", {"space": "raw_logits"}),
    "kl_matching": ("kl_matching", "KLMatching", {}),
    "knn": ("knn", "KNN", {"space": "u"}),
    "knn_raw": ("knn", "KNN", {"space": "z"}),
    "mahalanobis": ("mahalanobis", "Mahalanobis", {"space": "u"}),
    "mahalanobis_raw": ("mahalanobis", "Mahalanobis", {"space": "z"}),
    "relative_mahalanobis": ("relative_mahalanobis", "RelativeMahalanobis", {"space": "u"}),
    "relative_mahalanobis_raw": ("relative_mahalanobis", "RelativeMahalanobis", {"space": "z"}),
    "gmm": ("gmm", "GMM", {}),
    "cosine": ("cosine", "Cosine", {}),
    "she": ("she", "SHE", {}),
    "nci": ("nci", "NCI", {}),
    "fdbd": ("fdbd", "FDBD", {}),
    "vim": ("vim", "ViM", {}),
    "residual": ("residual", "Residual", {}),
    "nnguide": ("nnguide", "NNGuide", {}),
    "react": ("react", "ReAct", {}),
    "ash": ("ash", "ASH", {}),
    "scale": ("scale", "Scale", {}),
    "dice": ("dice", "DICE", {}),
    "polar": ("polar", "Polar", {}),
}


def names() -> tuple[str, ...]:
    """The names of all scores, in the order of the registry."""
    return tuple(_REGISTRY)


def create(name: str, /, **settings: Any) -> Score:
    """Make an unfitted score by name.

    Args:
        name: one of `names()`.
        settings: hyper-parameters other than the defaults.

    Raises:
        ScoreError: unknown name or setting; the message lists what there is.
    """
    from normgate.scores.base import ScoreError

    if not isinstance(name, str) or name not in _REGISTRY:
        close = difflib.get_close_matches(str(name), _REGISTRY, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ScoreError(f"there is no score {name!r}; {hint}choose from: {', '.join(_REGISTRY)}")
    module, cls, variant = _REGISTRY[name]
    if other := [key for key in variant if settings.get(key, variant[key]) != variant[key]]:
        raise ScoreError(f"{name} is the score with {other[0]}={variant[other[0]]!r}; leave {other[0]} out")
    score_class = getattr(importlib.import_module(f"normgate.scores.{module}"), cls)
    fields = [field.name for field in dataclasses.fields(score_class) if field.init and field.name != "name"]
    if unknown := [key for key in settings if key not in fields]:
        own = [key for key in fields if key not in variant]
        raise ScoreError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(own) or 'none'}")
    try:
        score: Score = score_class(name, **{**variant, **settings})
    except TypeError as error:
        raise ScoreError(f"{name} does not take these settings: {error}") from error
    return score


_SPACES = {"u": "directions", "z": "raw features", "logits": "trained logits", "raw_logits": "raw logits"}


def summary(name: str) -> str:
    """The first line of a score's documentation, and of its two variants which it is."""
    module, _, variant = _REGISTRY[name]
    line = (importlib.import_module(f"normgate.scores.{module}").__doc__ or "").splitlines()[0]
    return line + (f" Of {_SPACES[variant['space']]}." if variant else "")


def described(score: Score) -> str:
    """A score's name, with the settings that are not the default ones: `knn (k=5)`."""
    usual = create(score.name).settings
    settings = [f"{key}={value}" for key, value in score.settings.items() if value != usual.get(key)]
    return score.name + (f" ({', '.join(settings)})" if settings else "")


__getattr__, __dir__ = late_names(__name__, {"Score": "base", "ScoreError": "base"})
