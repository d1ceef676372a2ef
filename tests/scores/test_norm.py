from __future__ import annotations

import dataclasses

import pytest
import torch

from normgate import scores
from samples import random_features

TRAIN = random_features(90, 0)


def with_variation(coefficient: float) -> torch.Tensor:
    """Features whose norms are 1 ± coefficient, half each: exactly that coefficient of variation."""
    norms = 1 + coefficient * torch.tensor([-1.0, 1.0]).repeat(45)
    return torch.nn.functional.normalize(TRAIN.z.double(), dim=1).mul(norms[:, None]).float()


@pytest.mark.parametrize(("coefficient", "refused"), [(0, True), (0.0099, True), (0.0101, False), (0.5, False)])
def test_refused_below_one_per_cent_of_variation(coefficient: float, refused: bool) -> None:
    reason = scores.create("norm").refusal(dataclasses.replace(TRAIN, z=with_variation(coefficient)))
    assert (reason is not None) == refused
    assert reason is None or "hardly vary over real images" in reason


def test_the_magnitude_vector_decides_where_there_is_one() -> None:
    features = dataclasses.replace(TRAIN, z=with_variation(0), m=2 * with_variation(0.5)[:, :5])
    score = scores.create("norm")
    assert score.refusal(features) is None
    assert features.m is not None
    assert torch.equal(score(features), torch.linalg.vector_norm(features.m.double(), dim=1))


def test_one_image_or_none_cannot_tell_whether_norms_vary() -> None:
    score = scores.create("norm")
    assert score.refusal(TRAIN.select([0])) is None
    assert score.refusal(TRAIN.select([])) is None


def test_zero_norms_are_refused() -> None:
    assert scores.create("norm").refusal(dataclasses.replace(TRAIN, z=torch.zeros_like(TRAIN.z))) is not None


def test_huge_features_do_not_overflow() -> None:
    huge = dataclasses.replace(TRAIN, z=TRAIN.z * 1e30)
    assert torch.allclose(scores.create("norm")(huge), 1e30 * scores.create("norm")(TRAIN))


def test_other_scores_are_never_refused() -> None:
    flat = dataclasses.replace(TRAIN, z=with_variation(0))
    own = ("norm", "norm_gain", "nnguide")  # with reasons of their own
    assert all(scores.create(name).refusal(flat) is None for name in scores.names() if name not in own)
