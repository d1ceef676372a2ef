from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from normgate import scores
from normgate.features import Features
from normgate.scores import ScoreError
from samples import random_features


def classes_in(dimensions: int, count: int, seed: int, spread: float = 1.0) -> Features:
    """Four correlated classes whose directions overlap with a larger spread."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(1)
    centres = torch.randn(4, dimensions, generator=fixed)
    mixing = torch.randn(dimensions, dimensions, generator=fixed) / dimensions**0.5
    labels = torch.arange(count) % 4
    z = centres[labels] + spread * torch.randn(count, dimensions, generator=generator) @ mixing
    return Features(z, torch.zeros(count, 4), torch.zeros(4, dimensions), None, 1.0, ("",) * count, labels)


@pytest.mark.parametrize("spread", [0.05, 1.0, 20.0])
def test_classes_that_are_given_up_do_not_show(spread: float) -> None:
    """In more dimensions than a step has, against SciPy's whole densities."""
    train, query = classes_in(150, 1200, 0, spread), classes_in(150, 60, 1, spread)
    assert train.labels is not None
    x, u, labels = (value.double().numpy() for value in (query.u, train.u, train.labels))
    densities = []
    for c in range(4):
        covariance = np.cov(u[labels == c].T, bias=True)
        covariance += 1e-6 * np.trace(covariance) / 150 * np.eye(150)
        mean = u[labels == c].mean(axis=0)
        densities.append(multivariate_normal(mean, covariance, allow_singular=True).logpdf(x) + np.log(0.25))
    exact = logsumexp(densities, axis=0)
    np.testing.assert_allclose(scores.create("gmm").fit(train)(query).numpy(), exact, rtol=1e-9)


def test_priors_come_from_counts() -> None:
    """Two classes far apart: the density at either is that of its Gaussian times its share."""
    train = classes_in(6, 400, 0, 0.05)
    assert train.labels is not None
    rare = (train.labels == 0) & (torch.arange(400) >= 80)
    fewer = train.select(~rare)
    full, part = (scores.create("gmm").fit(features)(train.select(train.labels == 1)) for features in (train, fewer))
    assert torch.allclose(part - full, torch.log(torch.tensor(400 / len(fewer), dtype=torch.float64)), rtol=1e-9)


def test_a_class_of_one_image_takes_the_covariance_within_all() -> None:
    train = random_features(90, 0)
    assert train.labels is not None
    alone = dataclasses.replace(train, labels=torch.cat([train.labels[:-1] % 2, torch.tensor([2])]))
    values = scores.create("gmm").fit(alone)(random_features(40, 2))
    assert torch.isfinite(values).all()


def test_no_class_that_varies_is_said() -> None:
    train = random_features(90, 0)
    same = dataclasses.replace(train, z=train.weight[train.labels])
    with pytest.raises(ScoreError, match="do not vary within their classes"):
        scores.create("gmm").fit(same)


def test_too_many_covariances_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normgate.scores.gmm._LIMIT_BYTES", 8 * 3 * 12 * 12)
    scores.create("gmm").fit(random_features(90, 0))
    with pytest.raises(ScoreError, match=r"3 of 13 × 13 are .* use mahalanobis, whose classes share one"):
        scores.create("gmm").fit(random_features(90, 0, 13))
