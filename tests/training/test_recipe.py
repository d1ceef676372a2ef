"""Recipes are plain data with sane limits."""

import itertools

import pytest

from normgate.training import Recipe
from normgate.training.recipe import RECIPES, RecipeError


def test_the_learning_rate_rises_to_its_peak_and_falls_without_reaching_zero() -> None:
    recipe = Recipe(warmup=0.2)
    rates = [recipe.learning_rate_at(step, 100) for step in range(100)]
    assert rates[19] == pytest.approx(recipe.learning_rate)
    assert all(a < b for a, b in itertools.pairwise(rates[:20]))
    assert all(a > b for a, b in itertools.pairwise(rates[19:]))
    assert rates[-1] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"temperature": -1.0},
        {"temperature": "hot"},
        {"shift": 1.0},
    ],
)
def test_odd_settings_are_errors(change: dict) -> None:
    with pytest.raises(RecipeError, match=next(iter(change))):
        Recipe(**change)


def test_recipes_are_data() -> None:
    for recipe in RECIPES.values():
        assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.named("paper", epochs=3).epochs == 3
    with pytest.raises(RecipeError, match="paper, plain"):
        Recipe.named("best")
    with pytest.raises(RecipeError, match="colour"):
        Recipe.from_dict({"colour": 1})
