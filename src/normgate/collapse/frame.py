"""Equal lengths and equal angles: how near class means or head rows are to a simplex (NC2 of arXiv 2008.08186)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from normgate.collapse.classes import ROUNDING

if TYPE_CHECKING:
    from normgate.collapse.classes import Floats


@dataclasses.dataclass(frozen=True)
class Frame:
    """How near K vectors v are to a simplex: equally long, all angles equal and as wide as can be (NC2).

    Angles are None where a vector is zero and so has none, and everything is where all are.

    Attributes:
        equinorm: coefficient of variation of the lengths, `Std ‖v‖ / Ave ‖v‖`.
        equiangularity: standard deviation of the cosines over pairs of two vectors.
        widest_angle: `Ave |cos + 1/(K−1)|` over those pairs.
        simplex_distance: `‖G/‖G‖_F − (I − 11ᵀ/K)/√(K−1)‖_F`, G the Gram matrix of the vectors; between 0 and √2.
            With fewer than K−1 dimensions, D, it is at least `√(2 − 2√(D/(K−1)))`.
    """

    equinorm: float | None
    equiangularity: float | None
    widest_angle: float | None
    simplex_distance: float | None

    @classmethod
    def of(cls, vectors: Floats) -> Frame:
        """Of the rows of a (K, D) matrix."""
        k = len(vectors)
        lengths = np.linalg.norm(vectors, axis=1)
        if lengths.max() == 0:
            return cls(None, None, None, None)
        vectors = vectors / lengths.max()  # no square of a small or large number leaves the floats
        lengths = lengths / lengths.max()
        gram = vectors @ vectors.T
        simplex = (np.eye(k) - 1 / k) / np.sqrt(k - 1)
        distance = float(np.linalg.norm(gram / np.linalg.norm(gram) - simplex))
        equinorm = float(lengths.std() / lengths.mean())
        if lengths.min() <= ROUNDING:
            return cls(equinorm, None, None, distance)
        cosines = (gram / np.outer(lengths, lengths))[np.triu_indices(k, 1)]
        return cls(equinorm, float(cosines.std()), float(np.abs(cosines + 1 / (k - 1)).mean()), distance)
