"""Scores that pytorch-ood has too rank the same features as it does, or differ as is said here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from normgate import scores
from normgate.features import Features

if TYPE_CHECKING:
    from collections.abc import Callable

detectors = pytest.importorskip("pytorch_ood.detector", reason="the extra pytorch-ood is not installed")

CLASSES, DIMENSIONS = 4, 16


def sample(count: int, seed: int, noise: float) -> Features:
    """Activations as after a ReLU, around one centre a class, with what a trained head says of them."""
    centres = 2 * torch.rand(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % CLASSES
    generator = torch.Generator().manual_seed(seed)
    z = (centres[labels] + noise * torch.randn(count, DIMENSIONS, generator=generator)).relu()
    weight, bias, tau = (centres - centres.mean(dim=0)) / 5, torch.tensor([0.1, -0.2, 0.3, 0.0]), 0.5
    logits = nn.functional.linear(nn.functional.normalize(z, dim=1) / tau, weight, bias)
    return Features(z, logits, weight, bias, tau, tuple(f"i{i}" for i in range(count)), labels)


TRAIN, QUERY = sample(600, 0, 0.7), sample(300, 1, 1.5)


def head(features: Features) -> nn.Linear:
    """`head(z/τ)` as one layer."""
    layer = nn.Linear(DIMENSIONS, CLASSES)
    assert features.bias is not None
    with torch.no_grad():
        layer.weight.copy_(features.weight / features.temperature)
        layer.bias.copy_(features.bias)
    return layer


def of_logits(detector: Any, space: str) -> Callable[[Features, Features], torch.Tensor]:
    def outlying(train: Features, query: Features) -> torch.Tensor:
        if detector.requires_fit:
            detector.fit_logits(train.space(space), train.labels)
        return detector.predict_logits(query.space(space))

    return outlying


def of_features(make: Callable[[nn.Linear], Any], space: str = "z") -> Callable[[Features, Features], torch.Tensor]:
    """Of features of a space; `make` is given the head."""

    def outlying(train: Features, query: Features) -> torch.Tensor:
        detector = make(head(train))
        detector.fit_features(train.space(space), train.labels)
        return detector.predict_features(query.space(space))

    return outlying


def of_maps(make: Callable[[nn.Module], Any]) -> Callable[[Features, Features], torch.Tensor]:
    """Of features as maps of one pixel; `make` is given the head for these."""

    def outlying(train: Features, query: Features) -> torch.Tensor:
        detector = make(nn.Sequential(nn.Flatten(), head(train)))
        if detector.requires_fit:
            detector.fit_feature_maps(train.z[:, :, None, None], train.labels)
        return detector.predict_feature_maps(query.z[:, :, None, None])

    return outlying


# Name → their outlier scores of the query.
PEERS: dict[str, Callable[[Features, Features], torch.Tensor]] = {
    "msp": of_logits(detectors.MaxSoftmax(None), "logits"),
    "msp_raw": of_logits(detectors.MaxSoftmax(None), "raw_logits"),
    "max_logit": of_logits(detectors.MaxLogit(None), "logits"),
    "max_logit_raw": of_logits(detectors.MaxLogit(None), "raw_logits"),
    "energy": of_logits(detectors.EnergyBased(None), "logits"),
    "energy_raw": of_logits(detectors.EnergyBased(None), "raw_logits"),
    "entropy": of_logits(detectors.Entropy(None), "logits"),
    "entropy_raw": of_logits(detectors.Entropy(None), "raw_logits"),
    "gen": of_logits(detectors.GEN(None), "logits"),
    "gen_raw": of_logits(detectors.GEN(None), "raw_logits"),
    "kl_matching": of_logits(detectors.KLMatching(None), "logits"),
    "she": of_features(lambda layer: detectors.SHE(None, layer)),
    # Their alpha is 0, OpenOOD's and ours 0.0001; the head as one layer has rows w/τ.
    "nci": of_features(lambda layer: detectors.NCI(None, layer, alpha=1e-4 / TRAIN.temperature)),
    "fdbd": of_features(lambda layer: detectors.fDBD(None, layer)),
    "knn": of_features(lambda _: detectors.KNN(None, k=50)),
    "knn_raw": of_features(lambda _: detectors.KNN(None, k=50, normalize=False)),
    # Their matrix is not divided by N, which scales all distances and leaves the ranks.
    "mahalanobis": of_features(lambda _: detectors.Mahalanobis(None), "u"),
    "mahalanobis_raw": of_features(lambda _: detectors.Mahalanobis(None)),
    "relative_mahalanobis": of_features(lambda _: detectors.RMD(None), "u"),
    "relative_mahalanobis_raw": of_features(lambda _: detectors.RMD(None)),
    # Their ridge is absolute, and 1e-6 is not small beside variances of directions.
    "gmm": of_features(lambda _: detectors.GMM(None, reg=1e-9), "u"),
    "vim": of_features(lambda layer: detectors.ViM(None, DIMENSIONS // 2, layer.weight, layer.bias)),
    "nnguide": of_features(lambda layer: detectors.NNGuide(None, layer)),
    "dice": of_features(lambda layer: detectors.DICE(None, layer.weight, layer.bias, p=0.9)),
    "react": of_maps(lambda layer: detectors.ReAct(None, layer)),
    "ash": of_maps(lambda layer: detectors.ASH(None, layer)),
    "scale": of_maps(lambda layer: detectors.SCALE(None, layer)),
}
WITHOUT_PEER = {"norm", "norm_gain", "norm_profile", "cosine", "residual", "polar"}


def values(name: str, query: Features = QUERY, **settings: object) -> np.ndarray:
    return scores.create(name, **settings).fit(TRAIN)(query).numpy()


def familiar(name: str, query: Features = QUERY) -> np.ndarray:
    """Theirs, turned round."""
    return -PEERS[name](TRAIN, query).detach().double().numpy()


def test_every_score_has_a_peer_or_is_known_to_have_none() -> None:
    assert set(scores.names()) == set(PEERS) | WITHOUT_PEER


@pytest.mark.parametrize("name", PEERS)
def test_the_same_order(name: str) -> None:
    """In the order of ours theirs never falls, but for float32 rounding."""
    theirs = familiar(name)[np.argsort(values(name), kind="stable")]
    spread = np.quantile(theirs, 0.75) - np.quantile(theirs, 0.25)
    assert spread > 0
    assert (np.maximum.accumulate(theirs) - theirs).max() <= 1e-4 * spread


@pytest.mark.parametrize("name", ["max_logit", "energy", "entropy", "kl_matching", "she", "fdbd", "knn", "knn_raw"])
def test_the_same_values(name: str) -> None:
    """fDBD's distances are the same too, since τ is in the rows of the head."""
    np.testing.assert_allclose(values(name), familiar(name), rtol=1e-4, atol=1e-5)


def test_gen_is_a_sum_here_and_a_mean_there() -> None:
    np.testing.assert_allclose(values("gen"), CLASSES * familiar("gen"), rtol=1e-4)


@pytest.mark.parametrize("name", ["msp", "entropy", "gen"])
def test_confident_predictions_are_told_apart_here_and_not_there(name: str) -> None:
    """They cut probabilities off at 1e-7, or take them in float32."""
    confident = dataclasses.replace(
        QUERY.select([0, 1, 2]), logits=torch.tensor([[gap, 0.0, 0.0, 0.0] for gap in (25.0, 40.0, 60.0)])
    )
    assert (np.diff(values(name, confident)) > 0).all()
    assert (np.diff(familiar(name, confident)) == 0).all()


def test_nci_counts_the_length_here_and_by_default_not_there() -> None:
    peer = of_features(lambda layer: detectors.NCI(None, layer))
    np.testing.assert_allclose(
        values("nci", alpha=0) / TRAIN.temperature, -peer(TRAIN, QUERY).double().numpy(), rtol=1e-4, atol=1e-5
    )


def test_kl_matching_is_finite_in_float64_here_and_hits_the_end_of_float32_there() -> None:
    train = dataclasses.replace(TRAIN, logits=torch.tensor([[200.0, 0.0, 0.0, 0.0]]).repeat(600, 1))
    query = dataclasses.replace(QUERY.select([0]), logits=torch.tensor([[0.0, 200.0, 0.0, 0.0]]))
    assert scores.create("kl_matching").fit(train)(query).tolist() == [pytest.approx(-200)]
    assert float(PEERS["kl_matching"](train, query)) > 1e30


def test_she_lets_a_class_be_without_a_correct_image_here_and_fails_there() -> None:
    train = TRAIN.select(TRAIN.raw_logits.argmax(dim=1) != 2)
    assert train.labels is not None
    train.labels[0] = 2
    assert torch.isfinite(scores.create("she").fit(train)(QUERY)).all()
    with pytest.raises(ValueError, match="No correct predictions for class 2"):
        PEERS["she"](train, QUERY)
