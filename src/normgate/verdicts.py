"""Verdicts: what a gate says of images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from normgate.data.loading import load_batches
from normgate.data.sources import is_nothing, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from normgate.data.loading import PixelBatch
    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import Data


NOT_FINITE = "the network gives NaN or infinite values for this image"
"""The error of an image that can be read and cannot be judged."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a gate says of one image.

    Attributes:
        id: name of the image.
        label: predicted class; None where the image cannot be read or judged.
        probability: of that class, by the trained softmax.
        score: larger = more familiar.
        p_value: share of calibration images at most as familiar, this one counted in; in (0, 1].
        accepted: whether the score passes the threshold; False where the image cannot be read or judged.
        error: why the image cannot be read or judged; None where it can.
    """

    id: str
    label: str | None
    probability: float
    score: float
    p_value: float
    accepted: bool
    error: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Verdicts:
    """Verdicts on N images, column by column; `verdicts[i]` is one of them, and slices, masks or row numbers are some.

    Attributes:
        id: N names.
        label: N predicted classes, None where an image has an error.
        probability: (N,) float64, NaN where an image has an error; so are score and p_value.
        score: (N,) float64; larger = more familiar.
        p_value: (N,) float64 in (0, 1].
        accepted: (N,) bool, False where an image has an error.
        error: N messages, None where an image can be read and judged.
    """

    id: Sequence[str]
    label: Sequence[str | None]
    probability: np.ndarray
    score: np.ndarray
    p_value: np.ndarray
    accepted: np.ndarray
    error: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.id)

    @overload
    def __getitem__(self, index: int) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Verdicts: ...
    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> Verdict | Verdicts:
        if not isinstance(index, int | np.integer):
            chosen = index if isinstance(index, slice) else np.asarray(index, dtype=None if len(index) else np.int64)
            return self._some(np.arange(len(self))[chosen])
        return Verdict(
            id=self.id[index],
            label=self.label[index],
            probability=float(self.probability[index]),
            score=float(self.score[index]),
            p_value=float(self.p_value[index]),
            accepted=bool(self.accepted[index]),
            error=self.error[index],
        )

    def __iter__(self) -> Iterator[Verdict]:
        return (self[index] for index in range(len(self)))

    def _some(self, rows: np.ndarray) -> Verdicts:
        return Verdicts(
            id=[self.id[row] for row in rows],
            label=[self.label[row] for row in rows],
            probability=self.probability[rows],
            score=self.score[rows],
            p_value=self.p_value[rows],
            accepted=self.accepted[rows],
            error=[self.error[row] for row in rows],
        )

    def among(self, ids: Sequence[str], errors: Sequence[str | None]) -> Verdicts:
        """These verdicts spread over all `ids`: those without an error are ours, in order."""
        rows = np.flatnonzero([error is None for error in errors])
        label: list[str | None] = [None] * len(ids)
        said = list(errors)
        for row, value, error in zip(rows, self.label, self.error, strict=True):
            label[row], said[row] = value, error

        def spread(values: np.ndarray) -> np.ndarray:
            column = np.full(len(ids), np.nan)
            column[rows] = values
            return column

        accepted = np.zeros(len(ids), dtype=bool)
        accepted[rows] = self.accepted
        return Verdicts(
            id=list(ids),
            label=label,
            probability=spread(self.probability),
            score=spread(self.score),
            p_value=spread(self.p_value),
            accepted=accepted,
            error=said,
        )


def concatenate(parts: Sequence[Verdicts]) -> Verdicts:
    """Verdicts one after another."""
    return Verdicts(
        id=[name for part in parts for name in part.id],
        label=[label for part in parts for label in part.label],
        probability=np.concatenate([part.probability for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        p_value=np.concatenate([part.p_value for part in parts]),
        accepted=np.concatenate([part.accepted for part in parts]),
        error=[error for part in parts for error in part.error],
    )


def verdicts_on(
    images: Data, judge: Callable[[PixelBatch], Verdicts], preprocessing: Preprocessing, **options: Any
) -> Verdicts:
    """One verdict an image, in order.

    Args:
        images: paths, encoded bytes, Pillow images or uint8 arrays (H, W, C); a folder or a Parquet file.
        judge: of a batch of loaded images, the unreadable ones included.
        preprocessing: how images become the network's input.
        options: of `load_batches`.
    """
    if is_nothing(images):
        return EMPTY
    batches = load_batches(open_source(images, labelled=False), preprocessing, **options)
    return concatenate([judge(batch) for batch in batches] or [EMPTY])


EMPTY = Verdicts(
    id=(),
    label=(),
    probability=np.empty(0),
    score=np.empty(0),
    p_value=np.empty(0),
    accepted=np.empty(0, bool),
    error=(),
)
