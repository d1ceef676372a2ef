"""Names of classes in the order of outputs, and numbers of labelled images."""

from __future__ import annotations

from typing import Any

import pytest

from normgate.classes import class_names, class_numbers
from normgate.features import FeatureError


def test_one_name_an_output() -> None:
    assert class_names(["b", "a"], 2) == ("b", "a")
    assert class_names({"b": 0, "a": 1}.keys(), 2) == ("b", "a")  # type: ignore[arg-type]
    assert class_names([3, 1], 2) == ("3", "1")  # type: ignore[list-item]  (folders of numbers, as people write them)
    for given in (["a"], ["a", "b", "c"], ["a", "a"], []):
        with pytest.raises(FeatureError, match=rf"2 outputs, and {len(set(given))} different classes .* pass classes="):
            class_names(given, 2)


def test_labels_are_names_or_numbers() -> None:
    numbers = {"cat": 0, "dog": 1}
    assert class_numbers(["x", "y", "z"], ["dog", "0", "1"], numbers).tolist() == [1, 0, 1]
    assert class_numbers([], [], numbers).tolist() == []
    for label in ("cow", "2", "-1", None):
        with pytest.raises(
            FeatureError, match=rf"y has the label {label!r}, which is none of the 2 classes \(cat, dog\)"
        ):
            class_numbers(["x", "y"], ["dog", label], numbers)


def test_names_that_are_numbers_are_names() -> None:
    numbers = {"1": 0, "two": 1}
    assert class_numbers(["x"], ["1"], numbers).tolist() == [0]
    with pytest.raises(FeatureError, match="'0', which is none"):
        class_numbers(["x"], ["0"], numbers)


def test_of_many_classes_some_are_named() -> None:
    with pytest.raises(FeatureError, match=r"none of the 10 classes \(c0, .*, c7, …\)"):
        class_numbers(["x"], ["d"], {f"c{i}": i for i in range(10)})


@pytest.mark.parametrize("given", [{"a", "b"}, frozenset("ab"), {"a": 0, "b": 1}, "ab"])
def test_names_without_an_order_are_refused(given: Any) -> None:
    with pytest.raises(FeatureError, match="a list of names in the order of the network's outputs"):
        class_names(given, 2)


def test_one_output_makes_no_classes() -> None:
    with pytest.raises(FeatureError, match="the network has one output"):
        class_names(["a"], 1)
