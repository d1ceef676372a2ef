"""What holds of every score: its formula, and what it does with rows, fits, settings and bad input."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from normgate import scores
from normgate.features import Features
from normgate.scores import Score, ScoreError
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)
FITTED = ("knn", "mahalanobis", "mahalanobis_raw")


def fitted(name: str, train: Features = TRAIN) -> Score:
    return scores.create(name).fit(train)


def mahalanobis(x: np.ndarray, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """From the explicit inverse, image by image and class by class."""
    present = np.unique(labels)
    means = {c: train[labels == c].mean(axis=0) for c in present}
    centred = np.stack([row - means[c] for row, c in zip(train, labels, strict=True)])
    covariance = sum(np.outer(row, row) for row in centred) / len(centred)
    covariance += 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse = np.linalg.inv(covariance)
    return np.array([-min((row - m) @ inverse @ (row - m) for m in means.values()) for row in x])


def expected(name: str, train: Features, query: Features) -> np.ndarray:
    """Float64 NumPy from the same float32 features."""
    space = {key: getattr(query, key).double().numpy() for key in ("z", "u", "logits", "raw_logits")}
    bank = {key: getattr(train, key).double().numpy() for key in ("z", "u")}
    assert train.labels is not None
    labels = train.labels.numpy()
    k = max(1, min(50, np.unique(labels, return_counts=True)[1].min() // 2))
    formulas = {
        "norm": lambda: np.linalg.norm(space["z"], axis=1),
        "msp": lambda: log_softmax(space["logits"], axis=1).max(axis=1),
        "max_logit": lambda: space["logits"].max(axis=1),
        "energy": lambda: logsumexp(space["logits"], axis=1),
        "energy_raw": lambda: logsumexp(space["raw_logits"], axis=1),
        "knn": lambda: -np.sort(np.linalg.norm(space["u"][:, None] - bank["u"], axis=2), axis=1)[:, k - 1],
        "mahalanobis": lambda: mahalanobis(space["u"], bank["u"], labels),
        "mahalanobis_raw": lambda: mahalanobis(space["z"], bank["z"], labels),
    }
    return formulas[name]()


def test_every_score_has_an_oracle() -> None:
    assert set(scores.names()) == {
        "norm", "msp", "max_logit", "energy", "energy_raw", "knn", "mahalanobis", "mahalanobis_raw"
    }  # fmt: skip


@pytest.mark.parametrize("name", scores.names())
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000), rows=st.integers(3, 80), dimensions=st.integers(1, 20), tau=st.sampled_from([0.1, 1.0])
)
def test_formula(name: str, seed: int, rows: int, dimensions: int, tau: float) -> None:
    train, query = (random_features(n, seed + i, dimensions, tau) for i, n in enumerate((rows, 20)))
    try:
        score = fitted(name, train)
    except ScoreError:
        assert "mahalanobis" in name
        assert rows == 3 or dimensions == 1  # one image a class, or directions that are only +1 and -1
        return
    np.testing.assert_allclose(score(query).numpy(), expected(name, train, query), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", scores.names())
def test_larger_is_more_familiar(name: str) -> None:
    """Around the class centres, with the head's rows pointing there, against noise of half the length."""
    z = 0.5 * torch.randn(200, 12, generator=torch.Generator().manual_seed(3))
    logits = torch.nn.functional.linear(torch.nn.functional.normalize(z, dim=1) / 0.5, TRAIN.weight, TRAIN.bias)
    noise = dataclasses.replace(random_features(200, 3), z=z, logits=logits)
    score = fitted(name)
    known, unknown = score(random_features(200, 4)), score(noise)
    assert (known[:, None] > unknown).double().mean() > 0.8


@pytest.mark.parametrize("name", scores.names())
def test_rows_are_scored_one_by_one(name: str) -> None:
    score = fitted(name)
    whole = score(QUERY)
    spread = float(whole.quantile(0.75) - whole.quantile(0.25))
    tolerance = 1e-5 * torch.maximum(whole.abs(), torch.tensor(spread, dtype=torch.float64))
    order = torch.randperm(len(QUERY), generator=torch.Generator().manual_seed(0))
    assert ((score(QUERY.select(order)) - whole[order]).abs() <= tolerance[order]).all()
    alone = torch.cat([score(QUERY.select([row])) for row in range(len(QUERY))])
    assert ((alone - whole).abs() <= tolerance).all()


@pytest.mark.parametrize("name", scores.names())
def test_scores_are_float64_and_no_rows_have_no_scores(name: str) -> None:
    score = fitted(name)
    assert score(QUERY).dtype == torch.float64
    assert score(QUERY.select([])).shape == (0,)


@pytest.mark.parametrize("name", scores.names())
def test_a_second_fit_forgets_the_first(name: str) -> None:
    other = scores.create(name).fit(random_features(60, 5))
    assert torch.equal(other.fit(TRAIN)(QUERY), fitted(name)(QUERY))


@pytest.mark.parametrize("name", FITTED)
def test_the_order_of_training_images_does_not_matter(name: str) -> None:
    order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fitted(name, TRAIN.select(order))(QUERY), fitted(name)(QUERY), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FITTED)
def test_classes_without_training_images_are_no_classes(name: str) -> None:
    """Class numbers with gaps are as good as without."""
    assert TRAIN.labels is not None
    weight = torch.nn.functional.pad(TRAIN.weight, (0, 0, 2, 2))
    gaps = dataclasses.replace(
        TRAIN, labels=2 + TRAIN.labels, weight=weight, bias=None, logits=torch.zeros(len(TRAIN), 7)
    )
    assert torch.equal(fitted(name, gaps)(QUERY), fitted(name)(QUERY))


@pytest.mark.parametrize("name", scores.names())
def test_fitting_leaves_the_features_alone(name: str) -> None:
    z, logits = TRAIN.z.clone(), QUERY.logits.clone()
    score = fitted(name)
    score(QUERY)
    assert torch.equal(TRAIN.z, z)
    assert torch.equal(QUERY.logits, logits)
    assert not any(value.data_ptr() == TRAIN.z.data_ptr() for value in score.state.values())


@pytest.mark.parametrize("name", scores.names())
def test_autocast_around_changes_nothing(name: str) -> None:
    plain = fitted(name)(QUERY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fitted(name)(QUERY), plain)


@pytest.mark.parametrize("name", scores.names())
def test_state_and_settings_make_the_same_score(name: str) -> None:
    score = fitted(name)
    stored = json.loads(json.dumps(score.settings))
    again = scores.create(name, **stored).load_state(score.state)
    assert again == score if not score.state else again.settings == score.settings
    assert torch.equal(again(QUERY), score(QUERY))


@pytest.mark.parametrize(
    ("name", "bad"),
    [(name, bad) for name in scores.names() for bad in (float("nan"), float("inf")) if (name, bad) != ("msp", np.inf)],
)
def test_nan_is_an_error(name: str, bad: float) -> None:
    z, logits = QUERY.z.clone(), QUERY.logits.clone()
    z[3, 0] = logits[3, 0] = bad
    with pytest.raises(ScoreError, match=rf"{name} scores of 1 of 40 images are NaN or infinite; check"):
        fitted(name)(dataclasses.replace(QUERY, z=z, logits=logits))


@pytest.mark.parametrize("name", FITTED)
def test_fitting_needs_finite_labelled_rows(name: str) -> None:
    z = TRAIN.z.clone()
    z[3, 0] = float("nan")
    with pytest.raises(ScoreError, match="features of 1 of 90 images"):
        fitted(name, dataclasses.replace(TRAIN, z=z))
    with pytest.raises(ScoreError, match=f"{name} has not been fitted"):
        scores.create(name)(QUERY)
    with pytest.raises(ScoreError, match="labels"):
        fitted(name, dataclasses.replace(TRAIN, labels=None))
    with pytest.raises(ScoreError, match="no images; pass training images"):
        fitted(name, TRAIN.select([]))
    with pytest.raises(ScoreError, match="nothing is stored"):
        scores.create(name).load_state({})


def test_unknown_names_are_errors_that_name_the_nearest() -> None:
    with pytest.raises(ScoreError, match=r"no score 'enrgy'; did you mean 'energy'\? choose from: norm, msp"):
        scores.create("enrgy")
    with pytest.raises(ScoreError, match="no score 'xyz'; choose from"):
        scores.create("xyz")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("norm", {"k": 3}),
        ("knn", {"k": 0}),
        ("knn", {"k": 2.5}),
        ("knn", {"k": True}),
        ("knn", {"k": "5"}),
        ("knn", {"space": "z"}),
        ("energy", {"space": "raw_logits"}),
        ("energy", {"temperature": 0}),
        ("energy", {"temperature": float("nan")}),
        ("energy_raw", {"temperature": "1"}),
        ("mahalanobis", {"jitter": 0}),
        ("mahalanobis", {"jitter": -1e-6}),
        ("mahalanobis", {"jitter": float("nan")}),
        ("mahalanobis", {"jitter": [1]}),
        ("mahalanobis", {"name": "other"}),
    ],
)
def test_settings_that_make_no_sense_are_errors(name: str, given: dict[str, object]) -> None:
    with pytest.raises(ScoreError, match=name):
        scores.create(name, **given)


def test_every_score_says_what_it_is() -> None:
    assert len({scores.summary(name) for name in scores.names()}) == 6  # two files have two variants
    assert all(scores.summary(name).endswith(".") for name in scores.names())
