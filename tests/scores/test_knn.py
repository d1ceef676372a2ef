from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from normgate import scores
from normgate.features import Features
from normgate.scores.base import ScoreError
from normgate.scores.knn import _kth_distances
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


def collapsed(count: int, seed: int, spread: float) -> Features:
    """Three classes so tight that squared distances within them are below float32's rounding of a product."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    z = centres[labels] + spread * torch.randn(count, 16, generator=generator)
    return Features(z, torch.zeros(count, 3), torch.zeros(3, 16), None, 1.0, ("",) * count, labels)


@pytest.mark.parametrize("k", [1, 3, 15])
def test_against_scikit_learn(k: int) -> None:
    tree = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(TRAIN.u.double().numpy())
    distances, _ = tree.kneighbors(QUERY.u.double().numpy())
    ours = scores.create("knn", k=k).fit(TRAIN)(QUERY).numpy()
    np.testing.assert_allclose(ours, -distances[:, -1], rtol=1e-12)


@pytest.mark.parametrize("rows", [0, 1, 7, 39])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    score = scores.create("knn").fit(TRAIN)
    whole = score(QUERY)
    monkeypatch.setattr("normgate.scores.knn._BLOCK_BYTES", 8 * len(TRAIN) * rows)
    assert torch.allclose(score(QUERY), whole, rtol=1e-12, atol=0)


def test_a_training_image_is_its_own_nearest_neighbour() -> None:
    assert scores.create("knn", k=1).fit(TRAIN)(TRAIN).abs().max() < 1e-7


def test_scale_does_not_count() -> None:
    longer = dataclasses.replace(QUERY, z=QUERY.z * 1024)
    score = scores.create("knn").fit(TRAIN)
    assert torch.equal(score(longer), score(QUERY))


@pytest.mark.parametrize(("rows", "used"), [(90, 15), (3, 1), (400, 50)])
def test_k_is_at_most_half_a_small_class(rows: int, used: int) -> None:
    score = scores.create("knn").fit(random_features(rows, 0))
    assert int(score.state["k"]) == used
    assert score.settings["k"] is None


def test_a_k_that_was_asked_for_is_taken_as_it_is() -> None:
    assert int(scores.create("knn", k=80).fit(TRAIN).state["k"]) == 80
    with pytest.raises(ScoreError, match="at least 91 training images, and it is fitted to 90"):
        scores.create("knn", k=91).fit(TRAIN)


def test_one_odd_class_does_not_decide_k_for_all() -> None:
    assert TRAIN.labels is not None
    rows = [*range(60), *(row for row in range(60, 90) if TRAIN.labels[row] != 0)]
    lonely = TRAIN.select([row for row in rows if TRAIN.labels[row] != 2] + [2])
    assert int(scores.create("knn").fit(lonely).state["k"]) == 10


def test_a_bank_of_one_image_will_do() -> None:
    score = scores.create("knn").fit(TRAIN.select([0]))
    np.testing.assert_allclose(score(QUERY).numpy(), -np.linalg.norm(QUERY.u - TRAIN.u[0], axis=1), rtol=1e-5)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-5])
def test_collapsed_classes_keep_their_digits(spread: float) -> None:
    train, query = collapsed(300, 0, spread), collapsed(60, 1, spread)
    u, v = query.u.double().numpy(), train.u.double().numpy()
    exact = -np.sort(np.linalg.norm(u[:, None] - v, axis=2), axis=1)[:, 49]
    np.testing.assert_allclose(scores.create("knn").fit(train)(query).numpy(), exact, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.3, 1e-2, 1e-5])
@pytest.mark.parametrize("name", ["knn", "knn_raw"])
def test_float32_ranks_are_exact_where_they_are_called_certain(name: str, spread: float) -> None:
    train, query = collapsed(3000, 0, spread), collapsed(200, 1, spread)
    x, bank = (features.space("u" if name == "knn" else "z") for features in (query, train))
    exact = torch.cdist(x.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values
    distances, certain = _kth_distances(x, bank, 50, torch.float32)
    np.testing.assert_allclose(distances[certain].numpy(), exact[certain, 49].numpy(), rtol=1e-12)
    assert certain.double().mean() > 0.99 if spread == 0.3 else True
    ours = scores.create(name).fit(train)(query)
    np.testing.assert_allclose(ours.numpy(), -exact[:, 49].numpy(), rtol=1e-6)


@pytest.mark.parametrize("rows", [18, 90])
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_tiny_and_huge_features_keep_their_order(monkeypatch: pytest.MonkeyPatch, scale: float, rows: int) -> None:
    monkeypatch.setattr("normgate.scores.knn._WINDOW", 1)
    train, query = TRAIN.select(range(rows)), QUERY
    plain = scores.create("knn_raw").fit(train)(query)
    train, query = (dataclasses.replace(features, z=features.z * scale) for features in (train, query))
    assert torch.allclose(scores.create("knn_raw").fit(train)(query), scale * plain, rtol=1e-12, atol=0)


def test_copies_of_one_image_have_no_distance() -> None:
    same = TRAIN.select([0] * 90)
    assert (scores.create("knn_raw").fit(same)(same) == 0).all()


def test_far_queries_are_exact() -> None:
    far = dataclasses.replace(QUERY, z=QUERY.z * 1e6)
    exact = np.sort(np.linalg.norm(far.z.double().numpy()[:, None] - TRAIN.z.double().numpy(), axis=2), axis=1)[:, 14]
    np.testing.assert_allclose(scores.create("knn_raw").fit(TRAIN)(far).numpy(), -exact, rtol=1e-12)
