"""Every score against a plain float64 NumPy formula."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp

from normgate import scores
from normgate.features import Features
from normgate.scores import ScoreError
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)
DIRECTIONS = ("knn", "mahalanobis")


def fitted(name: str, **settings: object) -> scores.Score:
    return scores.create(name, **settings).fit(TRAIN)


def expected(name: str) -> np.ndarray:
    z, logits = QUERY.z.double().numpy(), QUERY.logits.double().numpy()
    raw = QUERY.raw_logits.double().numpy()
    bank = TRAIN.z.double().numpy()
    u, v = z / np.linalg.norm(z, axis=1, keepdims=True), bank / np.linalg.norm(bank, axis=1, keepdims=True)
    labels = TRAIN.labels.numpy()

    def mahalanobis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        means = np.stack([y[labels == c].mean(axis=0) for c in range(3)])
        covariance = (y - means[labels]).T @ (y - means[labels]) / len(y)
        covariance += 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        inverse = np.linalg.inv(covariance)
        differences = x[:, None] - means
        return -np.einsum("nci,ij,ncj->nc", differences, inverse, differences).min(axis=1)

    return {
        "norm": np.linalg.norm(z, axis=1),
        "msp": log_softmax(logits, axis=1).max(axis=1),
        "max_logit": logits.max(axis=1),
        "energy": logsumexp(logits, axis=1),
        "energy_raw": logsumexp(raw, axis=1),
        "knn": -np.sort(np.linalg.norm(u[:, None] - v, axis=2), axis=1)[:, 14],
        "mahalanobis": mahalanobis(u, v),
        "mahalanobis_raw": mahalanobis(z, bank),
    }[name]


ORACLES = ("norm", "msp", "max_logit", "energy", "energy_raw", "knn", "mahalanobis", "mahalanobis_raw")


@pytest.mark.parametrize("name", ORACLES)
def test_formula(name: str) -> None:
    np.testing.assert_allclose(fitted(name)(QUERY).numpy(), expected(name), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", scores.names())
def test_rows_are_scored_one_by_one(name: str) -> None:
    score = fitted(name)
    whole = score(QUERY)
    order = torch.randperm(len(QUERY), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(score(QUERY.select(order)), whole[order], rtol=1e-5, atol=1e-6)
    assert torch.allclose(score(QUERY.select([3])), whole[3:4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", scores.names())
def test_a_second_fit_forgets_the_first(name: str) -> None:
    other = scores.create(name).fit(random_features(60, 5))
    assert torch.equal(other.fit(TRAIN)(QUERY), fitted(name)(QUERY))


@pytest.mark.parametrize("name", scores.names())
def test_state_and_settings_make_the_same_score(name: str) -> None:
    score = fitted(name)
    again = scores.create(name, **score.settings).load_state(score.state)
    assert torch.equal(again(QUERY), score(QUERY))


def test_msp_resolves_what_a_probability_rounds_to_one() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0], [60.0, 0.0, 0.0], [70.0, 0.0, 0.0]])
    values = scores.create("msp")(dataclasses.replace(QUERY.select([0, 1, 2]), logits=logits))
    assert (values.diff() > 0).all()
    assert (values < 0).all()


def test_blocks_do_not_change_knn(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted("knn")(QUERY)
    monkeypatch.setattr("normgate.scores.knn._BLOCK_BYTES", 4 * len(TRAIN) * 7)
    assert torch.allclose(fitted("knn")(QUERY), whole, atol=1e-6)


def test_a_training_image_has_itself_as_nearest_neighbour() -> None:
    assert fitted("knn", k=1)(TRAIN).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["mahalanobis", "mahalanobis_raw"])
def test_fewer_images_than_dimensions(name: str) -> None:
    small = random_features(9, 0, dimensions=40)
    values = scores.create(name).fit(small)(random_features(30, 2, dimensions=40))
    assert torch.isfinite(values).all()


def test_no_covariance_is_said() -> None:
    same = dataclasses.replace(TRAIN, z=TRAIN.weight[TRAIN.labels])
    with pytest.raises(ScoreError, match="do not vary"):
        scores.create("mahalanobis_raw").fit(same)


def test_norm_is_refused_where_norms_do_not_vary() -> None:
    flat = dataclasses.replace(TRAIN, z=TRAIN.u * (1 + 0.001 * torch.rand(len(TRAIN), 1)))
    reason = scores.create("norm").refusal(flat)
    assert reason is not None
    assert "hardly vary" in reason
    assert scores.create("norm").refusal(TRAIN) is None


def test_nan_is_an_error() -> None:
    z = QUERY.z.clone()
    z[3, 0] = float("nan")
    broken: Features = dataclasses.replace(QUERY, z=z)
    with pytest.raises(ScoreError, match="1 of 40"):
        scores.create("norm")(broken)


def test_unfitted_and_unlabelled_are_errors() -> None:
    with pytest.raises(ScoreError, match="fit"):
        scores.create("knn")(QUERY)
    with pytest.raises(ScoreError, match="labels"):
        scores.create("knn").fit(dataclasses.replace(TRAIN, labels=None))
    with pytest.raises(ScoreError, match="no images"):
        scores.create("knn").fit(TRAIN.select([]))


def test_unknown_names_and_settings_are_errors() -> None:
    with pytest.raises(ScoreError, match="did you mean 'energy'"):
        scores.create("enrgy")
    with pytest.raises(ScoreError, match="settings"):
        scores.create("norm", k=3)
    assert all(scores.summary(name) for name in scores.names())
