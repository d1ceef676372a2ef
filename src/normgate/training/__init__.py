"""Training: recipe, hardware, images, augmentation, the loop and its checkpoints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normgate.training.hardware import Hardware, HardwareError
    from normgate.training.loop import TrainingError, fit
    from normgate.training.recipe import RECIPES, Recipe

__all__ = ["RECIPES", "Hardware", "HardwareError", "Recipe", "TrainingError", "fit"]

_MODULES = {
    "RECIPES": "recipe",
    "Hardware": "hardware",
    "HardwareError": "hardware",
    "Recipe": "recipe",
    "TrainingError": "loop",
    "fit": "loop",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"normgate.training.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'normgate.training' has no attribute {name!r}")
