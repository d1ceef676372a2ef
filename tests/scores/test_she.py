from __future__ import annotations

import dataclasses

import pytest
import torch

from normgate import scores
from normgate.scores import ScoreError
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


def test_wrongly_classified_training_images_do_not_count() -> None:
    assert TRAIN.labels is not None
    labels = TRAIN.labels.clone()
    labels[:30] = (labels[:30] + 1) % 3
    score = scores.create("she").fit(dataclasses.replace(TRAIN, labels=labels))
    predicted = TRAIN.raw_logits.argmax(dim=1)
    correct = (predicted == labels).nonzero()[:, 0]
    assert 0 < len(correct) < 90
    assert torch.equal(score(QUERY), scores.create("she").fit(TRAIN.select(correct))(QUERY))


def test_a_class_without_correct_images_is_not_predicted() -> None:
    assert TRAIN.labels is not None
    two = TRAIN.select(TRAIN.labels != 1)
    score = scores.create("she").fit(two)
    patterns = score.state["patterns"]
    assert score.state["classes"].tolist() == [0, 2]
    chosen = QUERY.raw_logits[:, [0, 2]].argmax(dim=1)
    assert torch.allclose(score(QUERY), (QUERY.z.double() * patterns[chosen]).sum(dim=1), rtol=1e-12)


def test_no_correct_image_at_all_is_an_error() -> None:
    wrong = (TRAIN.raw_logits.argmax(dim=1) + 1) % 3
    with pytest.raises(ScoreError, match="she takes means of correctly classified training images, and there"):
        scores.create("she").fit(dataclasses.replace(TRAIN, labels=wrong))


def test_the_score_grows_with_the_length() -> None:
    """Where no bias can change the prediction."""
    train, query = (dataclasses.replace(features, bias=None) for features in (TRAIN, QUERY))
    score = scores.create("she").fit(train)
    assert torch.allclose(score(dataclasses.replace(query, z=4 * query.z)), 4 * score(query), rtol=1e-12)
