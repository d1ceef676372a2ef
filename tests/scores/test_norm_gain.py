from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from normgate import scores
from normgate.features import Features
from normgate.scores import ScoreError
from samples import random_features

TRAIN = random_features(90, 0)
ROW = random_features(1, 3)


def with_norms(late: float, early: float) -> Features:
    z = torch.zeros_like(ROW.z)
    z[0, 2] = late
    return dataclasses.replace(ROW, z=z, stage_norms=torch.tensor([[early, 1.0, 1.0]]))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_stage_can_be_chosen(stage: int) -> None:
    assert TRAIN.stage_norms is not None
    exact = TRAIN.z.double().norm(dim=1).log() - TRAIN.stage_norms[:, stage].double().log()
    assert torch.allclose(scores.create("norm_gain", stage=stage)(TRAIN), exact, rtol=1e-12, atol=1e-14)


def test_the_magnitude_vector_decides_where_there_is_one() -> None:
    features = dataclasses.replace(TRAIN, m=3 * TRAIN.z)
    assert torch.allclose(scores.create("norm_gain")(features), scores.create("norm_gain")(TRAIN) + math.log(3))


@pytest.mark.parametrize("contrast", [2.0**-20, 0.25, 4.0])
def test_contrast_cancels(contrast: float) -> None:
    """A network of degree one multiplies all its norms by the contrast."""
    assert TRAIN.stage_norms is not None
    other = dataclasses.replace(TRAIN, z=contrast * TRAIN.z, stage_norms=contrast * TRAIN.stage_norms)
    assert torch.allclose(scores.create("norm_gain")(other), scores.create("norm_gain")(TRAIN), rtol=0, atol=1e-13)


@pytest.mark.parametrize("stage", [0, 5])
def test_refused_where_the_stages_are_not_known(stage: int) -> None:
    score, unknown = scores.create("norm_gain", stage=stage), dataclasses.replace(TRAIN, stage_norms=None)
    reason = score.refusal(unknown)
    assert reason is not None
    assert "the network's stages are not known" in reason
    with pytest.raises(ScoreError, match="norm_gain cannot be computed: the network's stages are not known"):
        score(unknown)


def test_refused_where_there_is_no_such_stage() -> None:
    score = scores.create("norm_gain", stage=3)
    reason = score.refusal(TRAIN)
    assert reason == "the network has 3 stages, numbered from 0, and stage 3 is none of them"
    with pytest.raises(ScoreError, match="3 stages, numbered from 0, and stage 3 is none"):
        score(TRAIN)


def test_refused_where_norms_do_not_vary() -> None:
    flat = dataclasses.replace(TRAIN, z=torch.nn.functional.normalize(TRAIN.z, dim=1))
    reason = scores.create("norm_gain").refusal(flat)
    assert reason is not None
    assert "hardly vary over real images" in reason
    assert scores.create("norm_gain").refusal(TRAIN) is None


def test_where_a_norm_is_zero_the_image_is_unfamiliar_and_the_score_a_number() -> None:
    score = scores.create("norm_gain")
    tiny = math.log(torch.finfo(torch.float32).tiny)
    usual = float(score(TRAIN).min())
    for late, early in ((0.0, 1.0), (5.0, 0.0), (0.0, 0.0)):
        assert float(score(with_norms(late, early))) == pytest.approx(tiny)
        assert tiny < usual - 50


def test_norms_that_are_no_numbers_are_errors() -> None:
    for late, early in ((1.0, math.nan), (1.0, math.inf), (math.nan, 1.0), (math.nan, 0.0)):
        with pytest.raises(ScoreError, match="norm_gain scores of 1 of 1 images are NaN or infinite"):
            scores.create("norm_gain")(with_norms(late, early))
