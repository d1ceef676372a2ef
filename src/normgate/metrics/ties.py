"""Two samples of scores as counts over their distinct values: what every ranking metric is a function of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normgate.errors import NormgateError

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]


class MetricError(NormgateError):
    """These arrays have no such metric; the message says which array, and why."""


def check_scores(scores: ArrayLike, name: str) -> NDArray[np.floating[Any]]:
    """(N,) floats, at least one and none of them NaN; infinities are ordered like any number."""
    values = np.asarray(scores)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 1:
        raise MetricError(f"{name} is one score an image: pass a 1-D array, not one of shape {values.shape}")
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
