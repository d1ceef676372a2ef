"""Every variant of every setting is a recipe, and what was measured was measured with it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

import normgate

ROOT = Path(__file__).parents[1]
MEASURED = sorted((ROOT / "benchmarks" / "results").glob("ablation-*.json"))


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("ablation")


def test_every_variant_is_a_recipe_of_its_own_in_every_setting(ablation: ModuleType) -> None:
    for setting in ablation.SETTINGS.values():
        recipes = [ablation.recipe(setting, variant) for variant in ablation.VARIANTS.values()]
        assert len(set(map(repr, recipes))) == len(recipes)
        assert setting.near.keys() <= ablation.VARIANTS.keys()


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_what_was_measured_is_what_is_said(path: Path, ablation: ModuleType) -> None:
    measured = json.loads(path.read_text(encoding="utf-8"))
    setting, variant = ablation.SETTINGS[measured["setting"]], ablation.VARIANTS[measured["variant"]]
    assert ablation.recipe(setting, variant) == normgate.Recipe.from_dict(measured["recipe"])
    assert setting.near.get(measured["variant"], variant.near) == measured["predicted"]["near"]
    assert len(measured["runs"]) == len(setting.held)
