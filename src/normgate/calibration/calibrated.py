"""Calibration scores and the false-alarm rate they are to keep, together: what a gate holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normgate.calibration.conformal import (
    CalibrationError,
    Floats,
    check_calibration,
    check_scores,
    expected_false_alarm_rate,
    p_values_sorted,
    rank,
    smallest_n,
)
from normgate.calibration.discovery import RankHistogram

Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """One threshold for all images, or one for each predicted class.

    With `predicted` and `classes`, an image is ranked among the calibration images that were given the same
    label, and the false-alarm rate holds within each *predicted* class (Mondrian conformal prediction: Vovk,
    Gammerman & Shafer 2005, ch. 4.5).

    Attributes:
        scores: (n,) scores of the calibration images, larger = more familiar.
        alpha: false-alarm rate, in (0, 1).
        predicted: (n,) predicted class indices of the same images, for thresholds by class.
        classes: the names of all classes, for thresholds by class.

    Raises:
        CalibrationError: no scores, NaN, labels that do not fit, or too few scores (in some class) for alpha.
    """

    scores: Floats
    alpha: float
    predicted: Integers | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.predicted is None) != (self.classes is None):
            raise CalibrationError("thresholds by class need predicted labels and the names of the classes")
        object.__setattr__(self, "alpha", float(self.alpha))
        object.__setattr__(self, "scores", check_calibration(self.scores))
        if self.predicted is not None and self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
            object.__setattr__(self, "predicted", self._check_labels(self.predicted, self.n))
            self._check_sizes()
        else:
            rank(self.alpha, self.n)

    @property
    def n(self) -> int:
        """Number of calibration scores, over all classes."""
        return len(self.scores)

    @property
    def by_class(self) -> bool:
        """Whether each predicted class has a threshold of its own."""
        return self.predicted is not None

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of calibration scores behind each threshold: one number, or one a class."""
        return tuple(len(group) for group in self._groups)

    @cached_property
    def thresholds(self) -> Floats:
        """(1,) or (classes,): the scores from which on an image is accepted."""
        return np.array([group[rank(self.alpha, len(group)) - 1] for group in self._groups])

    @property
    def expected_false_alarm_rate(self) -> float:
        """k/(n+1); by class, its mean over classes weighted by their shares of the calibration images."""
        return sum(n * expected_false_alarm_rate(self.alpha, n) for n in self.sizes) / self.n

    def p_values(self, scores: ArrayLike, predicted: ArrayLike | None = None) -> Floats:
        """(N,) p-values of (N,) scores; by class, each among the scores of its `predicted` (N,) class."""
        values = check_scores(scores)
        if not self.by_class:
            return p_values_sorted(values, self._groups[0])
        labels = self._check_labels(predicted, len(values))
        result = np.empty(len(values))
        for label in np.unique(labels):
            members = labels == label
            result[members] = p_values_sorted(values[members], self._groups[label])
        return result

    def accepts(self, scores: ArrayLike, predicted: ArrayLike | None = None) -> NDArray[np.bool_]:
        """(N,) whether each of (N,) scores reaches its threshold: exactly where its p-value exceeds alpha."""
        values = check_scores(scores)
        limits = self.thresholds
        if self.by_class:
            limits = limits[self._check_labels(predicted, len(values))]
        return np.greater_equal(values, limits)

    def histogram(self) -> RankHistogram:
        """An empty histogram of this calibration's p-values, for false-discovery control over a stream."""
        return RankHistogram(self.sizes)

    @cached_property
    def _groups(self) -> tuple[Floats, ...]:
        """The calibration scores behind each threshold, ascending."""
        if self.predicted is None or self.classes is None:
            return (np.sort(self.scores),)
        return tuple(np.sort(self.scores[self.predicted == label]) for label in range(len(self.classes)))

    def _check_sizes(self) -> None:
        assert self.classes is not None
        needed = smallest_n(self.alpha)
        small = [f"{name!r} has {n}" for name, n in zip(self.classes, self.sizes, strict=True) if n < needed]
        if small:
            more = f" (and {len(small) - 5} more)" if len(small) > 5 else ""
            raise CalibrationError(
                f"a false-alarm rate of {self.alpha:g} by class needs at least {needed} calibration images "
                f"in each predicted class, and {', '.join(small[:5])}{more}: "
                f"add images, allow a higher rate (--alpha), or use one threshold for all classes "
                f"(leave out --by-class; --pooled in 'normgate calibrate')"
            )

    def _check_labels(self, predicted: ArrayLike | None, count: int) -> Integers:
        if predicted is None:
            raise CalibrationError("this calibration has one threshold a class: pass the predicted labels too")
        labels = np.asarray(predicted)
        if labels.shape != (count,):
            raise CalibrationError(f"{count} scores need as many predicted labels, not {labels.shape}")
        if count and not np.issubdtype(labels.dtype, np.integer):
            raise CalibrationError(f"predicted labels are class indices, so integers, not {labels.dtype}")
        classes = len(self.classes or ())
        if count and not 0 <= labels.min() <= labels.max() < classes:
            raise CalibrationError(
                f"predicted labels of {classes} classes are indices from 0 to {classes - 1}; "
                f"these run from {labels.min()} to {labels.max()}"
            )
        return labels.astype(np.int64)
