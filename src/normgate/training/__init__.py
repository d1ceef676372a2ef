"""Training: recipe, hardware, images, augmentation, the loop and its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

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

__getattr__, __dir__ = late_names(__name__, _MODULES)
