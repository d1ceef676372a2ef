from __future__ import annotations

import dataclasses

import torch

from normgate import scores
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


def test_alpha_weighs_the_length() -> None:
    values = [scores.create("nci", alpha=alpha).fit(TRAIN)(QUERY) for alpha in (0, 0.5)]
    assert torch.allclose(values[1] - values[0], 0.5 * QUERY.z.double().abs().sum(dim=1), rtol=1e-12)


def test_without_the_length_no_score_exceeds_that_of_the_longest_row_of_the_head() -> None:
    longest = TRAIN.weight.norm(dim=1).max()
    assert (scores.create("nci", alpha=0).fit(TRAIN)(QUERY).abs() <= longest).all()


def test_a_feature_at_the_mean_has_no_direction() -> None:
    one = TRAIN.select([0])
    assert scores.create("nci", alpha=0).fit(one)(one).tolist() == [0]
    away = dataclasses.replace(one, z=one.z + one.weight[:1])
    assert scores.create("nci", alpha=0).fit(one)(away).item() != 0
