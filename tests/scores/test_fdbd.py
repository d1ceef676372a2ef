from __future__ import annotations

import dataclasses

import pytest
import torch

from normgate import scores
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_neither_the_scale_of_the_head_nor_the_temperature_counts(scale: float) -> None:
    """Distances are those between features."""
    assert QUERY.bias is not None
    score = scores.create("fdbd").fit(TRAIN)
    larger = dataclasses.replace(QUERY, weight=scale * QUERY.weight, bias=scale * QUERY.bias)
    assert torch.allclose(score(larger), score(QUERY), rtol=1e-6)
    unbiased = dataclasses.replace(QUERY, bias=None)
    hotter = dataclasses.replace(unbiased, temperature=scale)
    assert torch.allclose(score(hotter), score(unbiased), rtol=1e-6)


def test_between_two_classes_the_score_is_the_sine_of_the_way_to_the_boundary() -> None:
    """Two classes, no bias, μ on the boundary: along the normal 1, at 30° 1/2, on the boundary 0."""
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    z = torch.tensor([[3.0, 0.0], [-2.0, 0.0], [1.0, 3**0.5], [0.0, 5.0]])
    features = dataclasses.replace(
        QUERY.select(range(4)), z=z, logits=z[:, :2], weight=weight, bias=None, labels=torch.tensor([0, 1, 0, 1])
    )
    train = dataclasses.replace(features.select([0, 1]), z=torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
    assert scores.create("fdbd").fit(train)(features).tolist() == pytest.approx([1, 1, 0.5, 0], rel=1e-6)


def test_equal_rows_of_the_head_have_no_boundary() -> None:
    assert QUERY.bias is not None
    twice = dataclasses.replace(
        QUERY,
        weight=torch.cat([QUERY.weight, QUERY.weight]),
        bias=torch.cat([QUERY.bias, QUERY.bias - 1]),
        logits=torch.cat([QUERY.logits, QUERY.logits], dim=1),
    )
    score = scores.create("fdbd").fit(TRAIN)
    own, other = score(QUERY), score(twice)
    assert torch.isfinite(other).all()
    # The copy of each other class lies a little farther off, so the mean over four boundaries is larger.
    assert (other > own).all()
    flat = dataclasses.replace(QUERY, weight=0 * QUERY.weight)
    assert (score(flat) == 0).all()


def test_a_feature_at_the_mean_has_a_finite_score() -> None:
    one = TRAIN.select([0])
    assert torch.isfinite(scores.create("fdbd").fit(one)(one)).all()
