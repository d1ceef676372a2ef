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
        id_values, ood_values = check_scores(id_scores, "id_scores"), check_scores(ood_scores, "ood_scores")
        scores = np.concatenate([id_values, ood_values])
        order = np.argsort(scores)
        ascending = scores[order]
        last = np.flatnonzero(np.append(ascending[1:] != ascending[:-1], True))  # of each group
        id_up_to = np.cumsum(order < len(id_values))[last]
        id_counts = np.diff(id_up_to, prepend=0)
        return cls(id_counts, np.diff(last, prepend=-1) - id_counts)

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
