from __future__ import annotations

import dataclasses

import pytest
import torch

from normgate import scores
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


def test_lengths_do_not_count() -> None:
    """Neither of images, nor of training images: means are those of directions."""
    lengths = 2.0 ** torch.randint(-3, 4, (90, 1), generator=torch.Generator().manual_seed(0))
    score = scores.create("cosine").fit(dataclasses.replace(TRAIN, z=TRAIN.z * lengths))
    scaled = dataclasses.replace(QUERY, z=QUERY.z * 4)
    assert torch.allclose(score(scaled), scores.create("cosine").fit(TRAIN)(QUERY), rtol=1e-14)


def test_one_along_a_mean_and_zero_without_a_direction() -> None:
    one = TRAIN.select([0])
    score = scores.create("cosine").fit(one)
    rows = dataclasses.replace(QUERY.select([0, 1, 2]), z=torch.cat([3 * one.z, -one.z, 0 * one.z]))
    assert score(rows).tolist() == [pytest.approx(1, abs=1e-14), pytest.approx(-1, abs=1e-14), 0]


def test_cosines_near_one_are_told_apart() -> None:
    """1 − cos of 1e-9, far below what a float32 direction's length is off by."""
    axis = torch.zeros(2, 12)
    axis[:, 0] = 1
    axis[1, 1] = 2**-14.5
    train = dataclasses.replace(TRAIN.select([0]), z=axis[:1])
    value = scores.create("cosine").fit(train)(dataclasses.replace(QUERY.select([0, 1]), z=axis))
    assert (1 - value).tolist() == [0, pytest.approx(2**-30, rel=1e-5)]
