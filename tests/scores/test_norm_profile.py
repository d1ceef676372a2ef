"""What the profile of norms sees, and what it asks for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from normgate import scores
from normgate.features import Features
from normgate.scores import ScoreError
from samples import random_features

TRAIN, OTHERS = random_features(90, 0), random_features(40, 3)


def fitted(train: Features = TRAIN) -> scores.Score:
    return scores.create("norm_profile").fit(train)


def test_too_much_at_any_depth_is_unfamiliar_and_too_little_as_well() -> None:
    score = fitted()
    usual = score(OTHERS)
    assert OTHERS.stage_norms is not None
    for stage in range(4):
        for factor in (0.01, 100.0):
            other = OTHERS
            if stage < 3:
                norms = OTHERS.stage_norms.clone()
                norms[:, stage] *= factor
                other = dataclasses.replace(OTHERS, stage_norms=norms)
            else:
                other = dataclasses.replace(OTHERS, z=OTHERS.z * factor)
            assert (score(other) < usual.min()).all()


def test_an_image_is_compared_with_the_class_that_it_is_taken_for() -> None:
    """Class 1 alone has norms ten times as large."""
    assert TRAIN.labels is not None
    larger = torch.where(TRAIN.labels == 1, 10.0, 1.0)[:, None]
    score = fitted(dataclasses.replace(TRAIN, stage_norms=TRAIN.stage_norms * larger, z=TRAIN.z * larger))
    large = dataclasses.replace(OTHERS, stage_norms=10 * OTHERS.stage_norms, z=10 * OTHERS.z)
    for predicted in range(3):
        logits = torch.nn.functional.one_hot(torch.full((40,), predicted), 3).float()
        small_score, large_score = (score(dataclasses.replace(f, logits=logits)) for f in (OTHERS, large))
        assert ((large_score > small_score) == (predicted == 1)).all()


def test_a_class_without_training_images_has_the_mean_of_all() -> None:
    assert TRAIN.labels is not None
    score = fitted(TRAIN.select(TRAIN.labels != 2))
    rest = TRAIN.select(TRAIN.labels != 2)
    norms = torch.cat([rest.stage_norms.double(), rest.z.double().norm(dim=1, keepdim=True)], dim=1)
    mean = norms.log().mean(dim=0).exp()
    z = torch.zeros(1, TRAIN.z.shape[1])
    z[0, 0] = mean[3]
    row = dataclasses.replace(
        random_features(1, 5), z=z, stage_norms=mean[None, :3].float(), logits=torch.tensor([[0.0, 0.0, 1.0]])
    )
    assert float(score(row)) == pytest.approx(0, abs=1e-6)


def test_the_magnitude_vector_decides_where_there_is_one() -> None:
    other = dataclasses.replace(OTHERS, m=100 * OTHERS.z)
    assert (fitted()(other) < fitted()(OTHERS)).all()


def test_norms_of_zero_are_unfamiliar_and_the_score_a_number() -> None:
    score = fitted()
    nothing = dataclasses.replace(OTHERS, z=0 * OTHERS.z, stage_norms=0 * OTHERS.stage_norms)
    assert (score(nothing) < score(OTHERS).min()).all()


def test_training_images_with_a_norm_of_zero_are_not_fitted_to() -> None:
    z = TRAIN.z.clone()
    z[::30] = 0
    rest = TRAIN.select((z != 0).any(dim=1))
    assert len(rest) == 87
    assert torch.allclose(fitted(dataclasses.replace(TRAIN, z=z))(OTHERS), fitted(rest)(OTHERS), rtol=1e-9)
    with pytest.raises(ScoreError, match="norms are above 0 at all depths, and none is"):
        fitted(dataclasses.replace(TRAIN, z=0 * z))


def test_refused_where_no_norm_varies() -> None:
    still = torch.ones_like(TRAIN.stage_norms)
    flat = dataclasses.replace(TRAIN, z=torch.nn.functional.normalize(TRAIN.z, dim=1), stage_norms=still)
    assert "hardly vary over real images at any depth" in str(scores.create("norm_profile").refusal(flat))
    early = dataclasses.replace(flat, stage_norms=TRAIN.stage_norms)
    assert scores.create("norm_profile").refusal(early) is None


def test_another_number_of_stages_is_an_error() -> None:
    fewer = dataclasses.replace(OTHERS, stage_norms=OTHERS.stage_norms[:, :2])
    with pytest.raises(ScoreError, match="fitted to 3 stages, and the network shows 2"):
        fitted()(fewer)


def test_refused_where_the_stages_are_not_known() -> None:
    unknown = dataclasses.replace(TRAIN, stage_norms=None)
    assert "the network's stages are not known" in str(scores.create("norm_profile").refusal(unknown))
    for compute in (lambda: scores.create("norm_profile").fit(unknown), lambda: fitted()(unknown)):
        with pytest.raises(ScoreError, match="norm_profile cannot be computed: the network's stages are not known"):
            compute()
