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


def test_a_linear_descent_falls_by_equal_steps() -> None:
    recipe = Recipe(warmup=0.2, descent="linear")
    rates = [recipe.learning_rate_at(step, 100) for step in range(100)]
    falls = [a - b for a, b in itertools.pairwise(rates[19:99])]
    assert falls == pytest.approx([recipe.learning_rate / 80] * 79)
    assert 0 < rates[-1] < rates[-2]


def test_the_temperature_moves_by_equal_factors_and_then_stays() -> None:
    recipe = Recipe(epochs=10, temperature=1.0, temperature_start=0.1)
    taus = [recipe.temperature_at(epoch) for epoch in range(10)]
    assert taus[0] == pytest.approx(0.1)
    assert [b / a for a, b in itertools.pairwise(taus[:6])] == pytest.approx([10**0.2] * 5)
    assert taus[5:] == [1.0] * 5
    assert Recipe(epochs=1, temperature_start=0.1).temperature_at(0) == 1.0
    assert Recipe().temperature_at(3) is None
    assert Recipe(temperature="learned").temperature_at(3) is None


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epochs": 2.5},
        {"epochs": True},
        {"flip": 1},
        {"momentum": "0.9"},
        {"averaging": -1.0},
        {"averaging": 15.1},
        {"averaging": None},
        {"descent": "steps"},
        {"patterns": 1.5},
        {"rotations": float("inf")},
        {"radial": float("nan")},
        {"temperature": True},
        {"temperature": [1.0]},
        {"temperature_start": 0},
        {"temperature_start": 0.1, "temperature": "learned"},
        {"temperature_start": 0.1, "temperature": None},
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
    with pytest.raises(RecipeError, match=r"no colour; it has epochs, batch_size"):
        Recipe.named("paper", colour=1)
    with pytest.raises(RecipeError, match="colour"):
        Recipe.from_dict({"colour": 1})
