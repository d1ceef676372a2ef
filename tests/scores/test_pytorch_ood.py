"""Detectors of pytorch-ood as scores."""

from __future__ import annotations

import builtins
import dataclasses
from typing import Any

import pytest
import torch

from normgate.scores import ScoreError
from normgate.scores.pytorch_ood import adapt
from samples import random_features

detectors = pytest.importorskip("pytorch_ood.detector", reason="the extra pytorch-ood is not installed")
TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


@pytest.mark.parametrize("space", ["z", "u", "logits", "raw_logits"])
def test_a_fitted_detector_of_features(space: Any) -> None:
    peer = detectors.Mahalanobis(None)
    peer.fit_features(TRAIN.space(space), TRAIN.labels)
    score = adapt(detectors.Mahalanobis(None), space=space).fit(TRAIN)
    assert torch.equal(score(QUERY), -peer.predict_features(QUERY.space(space)).double())
    assert score.settings == {"detector": "Mahalanobis", "space": space}


def test_a_detector_of_logits_needs_no_fit() -> None:
    score = adapt(detectors.EnergyBased(None))
    assert not score.needs_fit
    assert torch.allclose(score(QUERY), torch.logsumexp(QUERY.logits.double(), dim=1), rtol=1e-6)
    assert score.name == "pytorch_ood.EnergyBased"
    assert adapt(detectors.EnergyBased(None), name="their energy").name == "their energy"


def test_a_fitted_detector_of_logits() -> None:
    score = adapt(detectors.KLMatching(None))
    with pytest.raises(ScoreError, match=r"pytorch_ood.KLMatching has not been fitted"):
        score(QUERY)
    assert score.fit(TRAIN)(QUERY).shape == (40,)


def test_a_second_fit_forgets_the_first_and_leaves_the_given_detector_alone() -> None:
    peer = detectors.KNN(None, k=3)
    score = adapt(peer).fit(random_features(60, 5)).fit(TRAIN)
    assert torch.equal(score(QUERY), adapt(detectors.KNN(None, k=3)).fit(TRAIN)(QUERY))
    assert not peer._is_fitted


def test_adapted_scores_are_not_savable() -> None:
    assert not adapt(detectors.MaxSoftmax(None)).savable
    assert not adapt(detectors.GMM(None)).savable


@pytest.mark.parametrize("make", [lambda: detectors.ODIN(None), lambda: detectors.ASH(None, None)])
def test_detectors_of_images_or_feature_maps_are_refused(make: Any) -> None:
    with pytest.raises(ScoreError, match=r"takes images or feature maps.*choose a detector with predict_features"):
        adapt(make())


def test_what_is_no_detector_is_refused() -> None:
    with pytest.raises(
        ScoreError, match=r"3 is no detector of pytorch-ood; make one of those in pytorch_ood\.detector"
    ):
        adapt(3)
    with pytest.raises(ScoreError, match="can be given z, u, logits or raw_logits, not 'y'"):
        adapt(detectors.GMM(None), space="y")  # type: ignore[arg-type]


def test_their_errors_are_told_with_the_shape() -> None:
    gaps = dataclasses.replace(TRAIN, labels=TRAIN.labels.clamp_min(1) if TRAIN.labels is not None else None)
    with pytest.raises(
        ScoreError, match=r"pytorch-ood's Mahalanobis.fit_features fails on features of shape \(90, 12\)"
    ):
        adapt(detectors.Mahalanobis(None)).fit(gaps)


def test_a_detector_must_give_one_number_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors.EnergyBased, "predict_logits", lambda _, logits: logits)
    with pytest.raises(ScoreError, match="does not give one number an image"):
        adapt(detectors.EnergyBased(None))(QUERY)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pytorch_ood"):
            raise ImportError("no module named pytorch_ood")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ScoreError, match=r"pip install 'normgate\[pytorch-ood\]'"):
        adapt(object())
