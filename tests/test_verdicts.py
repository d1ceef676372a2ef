"""Verdicts by row, slice and mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normgate.verdicts import EMPTY, Verdicts, concatenate

FIVE = Verdicts(
    id=["a", "b", "c", "d", "e"],
    label=["x", None, "y", "x", "y"],
    probability=np.array([0.1, np.nan, 0.3, 0.4, 0.5]),
    score=np.array([1.0, np.nan, 3.0, 4.0, 5.0]),
    p_value=np.array([0.2, np.nan, 0.4, 0.6, 0.8]),
    accepted=np.array([False, False, True, True, True]),
    error=[None, "no image", None, None, None],
)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [4, 2, 0]),
        (FIVE.accepted, [2, 3, 4]),
        ([0, 4], [0, 4]),
        (np.array([-1]), [4]),
        (slice(0), []),
        ([], []),
        ((1, 2), [1, 2]),
        (torch.tensor([False, True, False, False, True]), [1, 4]),
        (torch.tensor([3]), [3]),
    ],
)
def test_some_of_them_are_verdicts(index: slice | list[int] | np.ndarray, rows: list[int]) -> None:
    some = FIVE[index]
    assert isinstance(some, Verdicts)
    assert len(some) == len(rows)
    assert repr([some[i] for i in range(len(some))]) == repr([FIVE[row] for row in rows])


def test_one_of_them_is_a_verdict() -> None:
    assert FIVE[2].label == "y"
    assert FIVE[np.int64(-1)].id == "e"
    assert [verdict.id for verdict in FIVE] == list(FIVE.id)
    with pytest.raises(IndexError):
        FIVE[5]
    assert len(concatenate([FIVE, EMPTY, FIVE[1:]])) == 9
