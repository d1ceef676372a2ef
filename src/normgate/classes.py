"""Classes: their names in the order of a network's outputs, and the numbers of labelled images."""

from __future__ import annotations

from collections.abc import KeysView, Mapping, Set
from typing import TYPE_CHECKING

import torch

from normgate.features import FeatureError

if TYPE_CHECKING:
    from collections.abc import Sequence


def class_names(given: Sequence[str], outputs: int) -> tuple[str, ...]:
    """Names by class number.

    Raises:
        FeatureError: there is not one name an output, they come in no order, or one output makes no classes.
    """
    if isinstance(given, str | bytes | Mapping) or (isinstance(given, Set) and not isinstance(given, KeysView)):
        raise FeatureError(
            f"classes= is a list of names in the order of the network's outputs, and no {type(given).__name__}"
        )
    if outputs < 2:
        raise FeatureError("the network has one output; a classifier of two classes or more is needed")
    names = tuple(str(name) for name in given)
    if len(names) != outputs or len(set(names)) != outputs:
        raise FeatureError(
            f"the network has {outputs} outputs, and {len(set(names))} different classes are named; "
            "pass classes= with one name an output, in their order"
        )
    return names


def class_numbers(ids: Sequence[str], labels: Sequence[str | None], numbers: Mapping[str, int]) -> torch.Tensor:
    """Class numbers (N,) of labelled images.

    Labels are names; they may be class numbers where no class has a number for its name.

    Raises:
        FeatureError: a label is missing or is no class.
    """
    names = list(numbers)
    if not any(name.isdecimal() for name in names):
        numbers = {**numbers, **{str(number): number for number in numbers.values()}}
    for name, label in zip(ids, labels, strict=True):
        if label not in numbers:
            raise FeatureError(
                f"{name} has the label {label!r}, which is none of the {len(names)} classes "
                f"({', '.join(names[:8])}{', …' if len(names) > 8 else ''})"
            )
    return torch.tensor([numbers[str(label)] for label in labels])
