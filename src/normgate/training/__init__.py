"""Training: recipe, images, augmentation, the loop and its checkpoints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normgate.training.loop import TrainingError, fit
    from normgate.training.recipe import RECIPES, Recipe

__all__ = ["RECIPES", "Recipe", "TrainingError", "fit"]

_MODULES = {"RECIPES": "recipe", "Recipe": "recipe", "TrainingError": "loop", "fit": "loop"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"normgate.training.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'normgate.training' has no attribute {name!r}")
