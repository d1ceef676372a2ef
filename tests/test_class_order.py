"""That outputs in another order than the class names are noticed, and weak networks are not blamed for it."""

from __future__ import annotations

import tracemalloc
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normgate.class_order import warn_of_order
from normgate.errors import NormgateWarning
from normgate.features import Features


def features(predicted: torch.Tensor, labels: torch.Tensor, k: int) -> Features:
    n = len(labels)
    logits = torch.nn.functional.one_hot(predicted, k).float()
    return Features(torch.zeros(n, 2), logits, torch.zeros(k, 2), None, 1.0, ("",) * n, labels)


def warned(predicted: torch.Tensor, labels: torch.Tensor, k: int) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_order(features(predicted, labels, k), [f"class {i}" for i in range(k)], stacklevel=1)
    return [str(warning.message) for warning in found]


def weak(labels: torch.Tensor, k: int, accuracy: float) -> torch.Tensor:
    """Predictions that are right on about that share, and otherwise any class."""
    generator = torch.Generator().manual_seed(0)
    anything = torch.randint(k, labels.shape, generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < accuracy, labels, anything)


@pytest.mark.parametrize("accuracy", [0.35, 0.9, 1.0])
@pytest.mark.parametrize("k", [2, 10, 100])
def test_another_order_is_noticed_of_weak_networks_too(k: int, accuracy: float) -> None:
    labels = torch.arange(2000) % k
    predicted = weak(labels, k, accuracy)
    assert warned(predicted, labels, k) == []
    (said,) = warned((predicted + 1) % k, labels, k)
    assert "most that it calls 'class 1' are 'class 0'" in said or k > 2


def test_two_classes_that_changed_places_are_named() -> None:
    labels = torch.arange(1000) % 10
    predicted = labels.clone()
    predicted[labels == 3], predicted[labels == 7] = 7, 3
    (said,) = warned(predicted, labels, 10)
    assert "right on 80%" in said
    assert "on 100%" in said
    assert "most that it calls 'class 7' are 'class 3'" in said
    assert "most that it calls 'class 3' are 'class 7'" in said


@given(st.integers(2, 200), st.integers(1, 400), st.integers(0, 2**31))
def test_a_network_that_knows_nothing_or_always_says_the_same_is_not_blamed(k: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=generator)
    assert warned(torch.zeros_like(labels), labels, k) == []
    assert warned(torch.randint(k, (n,), generator=generator), labels, k) == []


def test_one_class_and_rare_classes_blame_nobody() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.zeros(2000, dtype=torch.int64)
    assert warned(torch.multinomial(torch.tensor([0.15, 0.55, 0.3]), 2000, True, generator=generator), one, 3) == []
    rare = (torch.rand(5000, generator=generator) < 0.05).long()
    assert warned(torch.where(torch.rand(5000, generator=generator) < 0.41, rare, 1 - rare), rare, 2) != []
    weak_on_frequent = torch.where(rare == 1, rare, (torch.rand(5000, generator=generator) < 0.6).long())
    assert warned(weak_on_frequent, rare, 2) == []


def test_many_classes_cost_no_memory_of_their_square() -> None:
    labels = torch.arange(300) % 100 * 200
    made = features(labels, labels, 20_000)
    tracemalloc.start()
    warn_of_order(made, [str(i) for i in range(20_000)], stacklevel=1)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_the_warning_is_one_of_ours() -> None:
    labels = torch.arange(200) % 2
    with pytest.warns(NormgateWarning, match="--classes FILE"):
        warn_of_order(features(1 - labels, labels, 2), ["a", "b"], stacklevel=1)
