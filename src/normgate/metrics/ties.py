"""Two samples of scores as counts over their distinct values: what every ranking metric is a function of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from numbers import Integral, Real
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normgate.errors import NormgateError

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]


class MetricError(NormgateError):
    """These arrays have no such metric; the message says which array, and why."""


_UNFIT = {
    "c": "complex numbers, which have no order: pass their real parts or absolute values",
    "M": "dates: pass numbers, such as the seconds since one of them",
    "m": "durations: pass numbers, such as their seconds",
    **dict.fromkeys("UST", "text: convert it to numbers, as by np.asarray(…, dtype=float)"),
}
"""By kind of dtype: what it holds, and what to pass."""

_EXACT = 2**53
"""Up to here, float64 has every integer; further out, different ones would tie."""


def as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    """The same values in NumPy: of a tensor without its gradient, and of its half and smaller floats as float32.

    Raises:
        MetricError: they are no array, such as lists of different lengths, or some of them are masked.
    """
    try:
        if hasattr(values, "detach"):  # a tensor, told without PyTorch
            tensor = cast("Any", values).detach().cpu()
            array = np.asarray(tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor)
        else:
            array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MetricError(
            f"{name} is no array: pass a flat list, a 1-D array or a dense tensor, one number an image ({error})"
        ) from error
    if isinstance(values, np.ma.MaskedArray) and (masked := np.count_nonzero(values.mask)):
        raise MetricError(f"{name} masks {masked} of {values.size} values: leave those images out and say so")
    return array


def real_numbers(values: ArrayLike, name: str) -> NDArray[np.floating[Any]]:
    """Numbers of any shape as floats that are as exact: float32 and wider floats as they are, others as float64.

    Raises:
        MetricError: they are no real numbers, or float64 would round an integer.
    """
    array = as_array(values, name)
    if array.dtype in (np.float32, np.float64, np.longdouble):
        return array
    whole = array
    if array.dtype == object:
        items = array.ravel().tolist()
        if strange := [item for item in items if not (item is None or isinstance(item, Real | Decimal))]:
            kind = type(strange[0]).__name__
            raise MetricError(f"{name} holds a value of type {kind}, which is no real number: pass one number an image")
        whole = np.array([int(item) for item in items if isinstance(item, Integral)], dtype=object)
    elif not np.can_cast(array.dtype, np.float64):
        raise MetricError(f"{name} holds {_UNFIT.get(array.dtype.kind, f'{array.dtype}: pass one number an image')}")
    # Narrower integers cannot be as large.
    wide = whole.dtype == object or (whole.dtype.kind in "iu" and whole.itemsize == 8)
    if wide and whole.size and (whole.max() > _EXACT or whole.min() < -_EXACT):
        fix = "pass smaller numbers, such as ranks over all images"
        raise MetricError(f"{name} has integers beyond 2**53, which would tie as floats: {fix}")
    try:
        return array.astype(np.float64)
    except (OverflowError, ValueError) as error:  # a fraction or a decimal that no float is near to
        raise MetricError(f"{name} holds what is no float ({error}): pass smaller numbers") from error


def number(value: Any) -> float:
    """A setting as a float, be it of NumPy or PyTorch; NaN where it is none."""
    try:
        return math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def check_scores(scores: ArrayLike, name: str) -> NDArray[np.floating[Any]]:
    """(N,) floats, at least one and none of them NaN; infinities are ordered like any number.

    Raises:
        MetricError: these are no such numbers; see `real_numbers`, too.
    """
    values = real_numbers(scores, name)
    if values.ndim != 1:
        what = f"one of shape {values.shape}" if values.ndim else "a single value"
        raise MetricError(f"{name} is one score an image: pass a 1-D array, not {what}")
    if len(values) == 0:
        raise MetricError(f"{name} is empty: a metric needs at least one image")
    missing = int(np.isnan(values).sum())
    if missing:
        raise MetricError(f"{name} has {missing} NaN among {len(values)} scores: leave those images out and say so")
    return values


@dataclass(frozen=True, eq=False)
class TieGroups:
    """How many ID and OoD images share each distinct score, in order of increasing score.

    Attributes:
        id: (G,) ID images in each tie group.
        ood: (G,) OoD images in each tie group.
    """

    id: Counts
    ood: Counts

    @classmethod
    def of(cls, id_scores: ArrayLike, ood_scores: ArrayLike) -> TieGroups:
        """One sort of both samples together."""
        return cls._sorted(id_scores, ood_scores)[0]

    @classmethod
    def numbered(cls, id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[TieGroups, Counts, Counts]:
        """The groups, and the number of the group that each ID (m,) and each OoD image (n,) is in."""
        groups, order, ends = cls._sorted(id_scores, ood_scores)
        numbers = np.empty(len(order), dtype=np.int64)
        numbers[order] = np.cumsum(ends) - ends
        return groups, numbers[: groups.n_id], numbers[groups.n_id :]

    @classmethod
    def _sorted(cls, id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[TieGroups, Counts, NDArray[np.bool_]]:
        """The groups, the images in the order of their scores, and which of them are the last of their group."""
        id_values, ood_values = check_scores(id_scores, "id_scores"), check_scores(ood_scores, "ood_scores")
        scores = np.concatenate([id_values, ood_values])
        order = np.argsort(scores)
        ascending = scores[order]
        ends = np.append(ascending[1:] != ascending[:-1], True)
        last = np.flatnonzero(ends)
        id_up_to = np.cumsum(order < len(id_values))[last]
        id_counts = np.diff(id_up_to, prepend=0)
        return cls(id_counts, np.diff(last, prepend=-1) - id_counts), order, ends

    @cached_property
    def n_id(self) -> int:
        """Number of ID images."""
        return int(self.id.sum())

    @cached_property
    def n_ood(self) -> int:
        """Number of OoD images."""
        return int(self.ood.sum())

    @cached_property
    def wins(self) -> Counts:
        """(G,) twice the number of OoD images that an ID image of this score outranks, ties counting half."""
        return 2 * np.cumsum(self.ood) - self.ood

    @cached_property
    def losses(self) -> Counts:
        """(G,) twice the number of ID images that outrank an OoD image of this score, ties counting half."""
        return 2 * (self.n_id - np.cumsum(self.id)) + self.id
