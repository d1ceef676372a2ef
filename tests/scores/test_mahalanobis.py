from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance

from normgate import scores
from normgate.scores import ScoreError
from normgate.scores.mahalanobis import inverse_cholesky
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


def test_against_scikit_learn() -> None:
    """`EmpiricalCovariance` divides by N and takes the distance from one mean at a time."""
    assert TRAIN.labels is not None
    z, labels = TRAIN.z.double().numpy(), TRAIN.labels.numpy()
    means = np.stack([z[labels == c].mean(axis=0) for c in range(3)])
    fit = EmpiricalCovariance(assume_centered=True).fit(z - means[labels])
    distances = np.stack([fit.mahalanobis(QUERY.z.double().numpy() - mean) for mean in means])
    ours = scores.create("mahalanobis_raw", jitter=1e-12).fit(TRAIN)(QUERY).numpy()
    np.testing.assert_allclose(ours, -distances.min(axis=0), rtol=1e-8)


def test_the_mean_training_score_is_minus_the_dimension() -> None:
    """`Σᵢ (xᵢ − μ)ᵀ Σ⁻¹ (xᵢ − μ) / N = D` where Σ is divided by N, for one class."""
    assert TRAIN.labels is not None
    single = dataclasses.replace(TRAIN, labels=torch.zeros_like(TRAIN.labels))
    score = scores.create("mahalanobis_raw", jitter=1e-12).fit(single)
    assert score(single).mean() == pytest.approx(-12, rel=1e-9)


def test_each_training_image_twice_is_the_same_fit() -> None:
    twice = TRAIN.select([*range(90), *range(90)])
    one, two = (scores.create("mahalanobis").fit(features)(QUERY) for features in (TRAIN, twice))
    assert torch.allclose(one, two, rtol=1e-9)


def test_a_mean_scores_zero() -> None:
    assert TRAIN.labels is not None
    means = torch.stack([TRAIN.z[TRAIN.labels == c].mean(dim=0) for c in range(3)])
    score = scores.create("mahalanobis_raw").fit(TRAIN)
    assert score(dataclasses.replace(QUERY.select([0, 1, 2]), z=means)).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["mahalanobis", "mahalanobis_raw"])
@pytest.mark.parametrize(("rows", "dimensions"), [(4, 40), (9, 40), (90, 2)])
def test_rank_deficient_features_can_be_fitted(name: str, rows: int, dimensions: int) -> None:
    train, query = random_features(rows, 0, dimensions), random_features(30, 2, dimensions)
    values = scores.create(name).fit(train)(query)
    assert torch.isfinite(values).all()
    assert (values < 0).all()


def test_no_covariance_is_said() -> None:
    same = dataclasses.replace(TRAIN, z=TRAIN.weight[TRAIN.labels])
    with pytest.raises(ScoreError, match="do not vary within their classes"):
        scores.create("mahalanobis_raw").fit(same)
    with pytest.raises(ScoreError, match="do not vary within their classes"):
        scores.create("mahalanobis").fit(dataclasses.replace(TRAIN, z=torch.zeros_like(TRAIN.z)))


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1e-60, 1e60), dimensions=st.integers(1, 12), rank=st.integers(1, 12), seed=st.integers(0, 1000))
def test_whitening_is_the_inverse_of_the_covariance_with_jitter(
    scale: float, dimensions: int, rank: int, seed: int
) -> None:
    """Whatever the scale: the jitter is relative to trace/D."""
    x = np.random.default_rng(seed).standard_normal((rank, dimensions)) * np.sqrt(scale)
    covariance = x.T @ x
    whitening = inverse_cholesky(torch.from_numpy(covariance), 1e-6).numpy()
    regular = covariance + 1e-6 * np.trace(covariance) / dimensions * np.eye(dimensions)
    np.testing.assert_allclose(whitening @ regular @ whitening.T, np.eye(dimensions), atol=1e-8)


def test_jitter_grows_until_cholesky_succeeds() -> None:
    covariance = torch.diag(torch.tensor([1.0, 1.0, -0.5], dtype=torch.float64))  # trace/D = 0.5
    regular = covariance + 10 * 0.5 * torch.eye(3, dtype=torch.float64)  # 1e-6 · 10⁷, the first power above 1
    whitening = inverse_cholesky(covariance, 1e-6)
    assert torch.allclose(whitening @ regular @ whitening.T, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_ladder_ends(bad: float) -> None:
    with pytest.raises(ScoreError):
        inverse_cholesky(torch.full((3, 3), bad, dtype=torch.float64), 1e-6)
    with pytest.raises(ScoreError, match="not positive definite"):
        inverse_cholesky(torch.diag(torch.tensor([1e9, 1.0, 1 - 1e9], dtype=torch.float64)), 1e-6)
