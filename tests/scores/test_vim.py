"""Residual and ViM."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from normgate import scores
from normgate.features import Features
from normgate.scores import ScoreError
from normgate.scores.residual import principal_dims
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


def planar(count: int, seed: int, off: float = 0.0) -> Features:
    """Three dimensions in the span of the head's first three axes and `off` along the last."""
    features = random_features(count, seed)
    z = features.z.clone()
    z[:, 3:] = 0
    z[:, -1] = off
    return dataclasses.replace(features, z=z, weight=torch.eye(3, 12), bias=None)


def test_the_residual_is_the_distance_from_the_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    train = planar(90, 0)
    train = dataclasses.replace(train, z=train.z + 1e-2 * torch.randn(90, 12, generator=generator))
    values = scores.create("residual", dims=3).fit(train)(planar(40, 2, off=5.0))
    np.testing.assert_allclose(values.numpy(), -5.0, rtol=1e-2)


def test_small_directions_beside_classes_far_apart() -> None:
    """As in a collapsed network: images differ within their class by a thousandth of what classes differ."""
    rng = np.random.default_rng(0)
    centres, within = np.abs(rng.normal(size=(40, 128))), 3e-4 * rng.normal(size=(128, 128)) * np.logspace(0, -2.5, 128)
    spread = [centres[np.arange(n) % 40] + rng.normal(size=(n, 128)) @ within.T for n in (2000, 100)]
    train, query = (
        dataclasses.replace(
            random_features(len(z), 0, 128),
            z=torch.from_numpy(z.astype(np.float32)),
            weight=torch.eye(3, 128),
            bias=None,
        )
        for z in spread
    )
    basis = np.linalg.svd(train.z.double().numpy(), full_matrices=False)[2]
    exact = -np.linalg.norm(query.z.double().numpy() @ basis[64:].T, axis=1)
    np.testing.assert_allclose(scores.create("residual").fit(train)(query).numpy(), exact, rtol=1e-2)


def test_the_origin_is_where_logits_vanish() -> None:
    score = scores.create("residual").fit(TRAIN)
    origin = dataclasses.replace(QUERY.select([0]), z=score.state["origin"][None])
    assert origin.raw_logits.abs().max() < 1e-5
    assert score(origin) == 0


def test_vim_is_energy_where_the_virtual_logit_vanishes_and_falls_with_the_residual() -> None:
    score = scores.create("vim", dims=6).fit(TRAIN)
    inside = torch.eye(12) - score.state["complement"] @ score.state["complement"].T
    flat = dataclasses.replace(QUERY, z=score.state["origin"] + (QUERY.z - score.state["origin"]) @ inside)
    assert torch.allclose(score(flat), scores.create("energy_raw")(flat), atol=1e-3)


def test_on_training_images_the_virtual_logit_is_as_large_as_the_largest_logit() -> None:
    score = scores.create("vim").fit(TRAIN)
    virtual = scores.create("energy_raw")(TRAIN) - score(TRAIN)
    assert float(virtual.mean()) == pytest.approx(float(TRAIN.raw_logits.amax(dim=1).mean()), rel=1e-5)


def test_negative_logits_do_not_turn_the_residual_round() -> None:
    negative = dataclasses.replace(TRAIN, bias=torch.full((3,), -1e3))
    assert scores.create("vim").fit(negative).state["alpha"] > 0


def test_the_default_of_dims_is_the_papers_where_features_have_so_many() -> None:
    sizes = [(10**5, 4096), (10**5, 2048), (10**5, 768), (10**5, 512), (10**5, 1), (600, 2048), (1, 12)]
    assert [principal_dims(n, d) for n, d in sizes] == [1000, 1000, 512, 256, 0, 300, 0]


@pytest.mark.parametrize(("d", "rows", "dims"), [(12, 90, 6), (12, 6, 3), (1, 90, 0), (12, 1, 0)])
def test_the_principal_subspace(d: int, rows: int, dims: int) -> None:
    score = scores.create("residual").fit(random_features(rows, 0, d))
    assert score.state["complement"].shape == (d, d - dims)


@pytest.mark.parametrize("name", ["vim", "residual"])
def test_no_residual_is_said(name: str) -> None:
    with pytest.raises(ScoreError, match="do not leave a subspace of 3 dimensions"):
        scores.create(name, dims=3).fit(planar(90, 0))
    with pytest.raises(ScoreError, match="leaves nothing of 12 features"):
        scores.create(name, dims=12).fit(TRAIN)
