"""A figure of two methods over training runs: whether one is better by more than the luck of a seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from normgate.metrics.comparisons import AurocDifference
from normgate.metrics.intervals import normal_quantile
from normgate.metrics.ties import Floats, MetricError, real_numbers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


_ROUNDING = 1e-12
"""Differences that spread by less are alike."""


def paired_difference_over_seeds(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> AurocDifference:
    """Mean of AUROC a − AUROC b over seeds, with Student's interval and p-value for paired samples (Student, 1908).

    They say how far other seeds could have moved the difference, on the same images; how far other images could have,
    `paired_mean_difference` says. One seed says nothing of others, nor do several whose differences are all alike, as
    those of few images may be: from −1 to 1, p = 1. A p-value below about 1e-15 is 0.

    Args:
        a: (S,) AUROC of method a, a value a seed.
        b: (S,) AUROC of method b with the same seeds, in the same order.
        level: confidence level of the interval.

    Raises:
        MetricError: an array is empty or holds a number outside [0, 1], or they are not of as many seeds.
    """
    normal_quantile(level)  # says what is wrong with a level
    first, second = _aurocs(a, "a"), _aurocs(b, "b")
    if len(first) != len(second):
        raise MetricError(f"a is of {len(first)} seeds and b of {len(second)}: pass both of the same seeds")
    differences, seeds = first - second, len(first)
    difference, freedom = math.fsum(differences) / seeds, seeds - 1
    error = math.sqrt(math.fsum((differences - difference) ** 2) / max(freedom, 1) / seeds)
    if error < _ROUNDING:
        return AurocDifference(difference, -1.0, 1.0, 1.0)
    reach = _exact_student_quantile(level, freedom) * error
    p_value = 1 - _exact_student_probability(math.atan(abs(difference) / error / math.sqrt(freedom)), freedom)
    return AurocDifference(difference, max(difference - reach, -1.0), min(difference + reach, 1.0), max(p_value, 0.0))


def _aurocs(values: ArrayLike, name: str) -> Floats:
    """(S,) float64."""
    found = real_numbers(values, name).astype(np.float64)
    if found.ndim != 1 or not found.size:
        raise MetricError(
            f"{name} is one AUROC a seed: pass a flat list of one or more, not one of shape {found.shape}"
        )
    if (strange := found[~((found >= 0) & (found <= 1))]).size:
        raise MetricError(f"{name} holds {strange[0]:g}, which is no AUROC: pass shares from 0 to 1, one a seed")
    return found


def _exact_student_probability(theta: float, freedom: int) -> float:
    """P(|T| ≤ √n · tan θ) of Student's T with n whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4).

    Seeds are few: for one degree the expansion of `intervals.py`, whose degrees are no whole numbers, is a tenth off.
    """
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    total, term = 0.0, cosine if odd else 1.0
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * step / (step + 1)
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def _exact_student_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| ≤ t) = level."""
    low, high = 0.0, math.pi / 2
    while low < (theta := (low + high) / 2) < high:
        if _exact_student_probability(theta, freedom) < level:
            low = theta
        else:
            high = theta
    return math.sqrt(freedom) * math.tan(low)
