"""ASH, SCALE, ReAct and DICE: what shaping changes, and what it does not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from normgate import scores
from normgate.features import Features
from normgate.scores import ScoreError
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)
POSITIVE = dataclasses.replace(QUERY, z=QUERY.z.relu() + 0.01)


def energy(z: torch.Tensor, features: Features) -> torch.Tensor:
    return torch.logsumexp(features.head(z).double(), dim=1)


def test_with_nothing_pruned_both_only_scale_by_e() -> None:
    for name in ("ash", "scale"):
        values = scores.create(name, prune=0.0)(QUERY)
        assert torch.allclose(values, energy(QUERY.z * torch.e, QUERY), rtol=1e-5)


def test_ash_s_and_scale_on_activations_as_the_papers_write_them() -> None:
    kept = POSITIVE.z.topk(12 - 8, dim=1)  # 65 % of 12 are 7.8
    factor = (POSITIVE.z.sum(dim=1) / kept.values.sum(dim=1)).exp()[:, None]
    pruned = torch.zeros_like(POSITIVE.z).scatter(1, kept.indices, kept.values)
    assert torch.allclose(scores.create("scale")(POSITIVE), energy(POSITIVE.z * factor, POSITIVE), rtol=1e-5)
    assert torch.allclose(scores.create("ash")(POSITIVE), energy(pruned * factor, POSITIVE), rtol=1e-5)


@pytest.mark.parametrize("name", ["ash", "scale"])
def test_shaping_is_the_same_for_either_sign_of_the_features(name: str) -> None:
    mirrored = dataclasses.replace(QUERY, z=-QUERY.z, weight=-QUERY.weight)
    assert torch.allclose(scores.create(name)(mirrored), scores.create(name)(QUERY), rtol=1e-6)


@pytest.mark.parametrize("name", ["ash", "scale"])
def test_a_zero_feature_has_the_energy_of_the_bias(name: str) -> None:
    zero = dataclasses.replace(QUERY, z=torch.zeros_like(QUERY.z))
    assert torch.equal(scores.create(name)(zero), energy(zero.z, zero))


@pytest.mark.parametrize("name", ["ash", "scale"])
def test_a_factor_beyond_float32_is_told(name: str) -> None:
    """Of 200 entries that are alike one is kept: r = 200."""
    alike = dataclasses.replace(QUERY, z=torch.ones(40, 200), weight=torch.ones(3, 200))
    with pytest.raises(ScoreError, match=f"{name} scores of 40 of 40 images are NaN or infinite; .* a smaller prune"):
        scores.create(name, prune=0.995)(alike)
    assert torch.isfinite(scores.create(name, prune=0.9)(alike)).all()


def test_react_without_a_cut_is_energy_raw() -> None:
    score = scores.create("react", quantile=1.0).fit(TRAIN)
    below = dataclasses.replace(QUERY, z=QUERY.z.clamp(max=float(TRAIN.z.max())))
    assert torch.equal(score(below), scores.create("energy_raw")(below))


def test_react_does_not_see_what_lies_above_the_cut() -> None:
    score = scores.create("react").fit(TRAIN)
    cut = float(score.state["cut"])
    assert ((TRAIN.z <= cut).double().mean() - 0.9).abs() < 1e-3
    larger = dataclasses.replace(QUERY, z=torch.where(QUERY.z > cut, 100 * QUERY.z, QUERY.z))
    assert torch.equal(score(larger), score(QUERY))


@pytest.mark.parametrize(("sparsity", "kept"), [(0.0, 36), (0.5, 18), (0.9, 4), (0.99, 1)])
def test_dice_keeps_the_largest_contributions(sparsity: float, kept: int) -> None:
    mask = scores.create("dice", sparsity=sparsity).fit(TRAIN).state["mask"]
    contributions = TRAIN.weight * TRAIN.z.mean(dim=0)
    assert int(mask.sum()) == kept
    assert kept == 36 or contributions[mask].min() > contributions[~mask].max()


def test_dice_with_all_weights_is_energy_raw() -> None:
    assert torch.allclose(
        scores.create("dice", sparsity=0.0).fit(TRAIN)(QUERY), scores.create("energy_raw")(QUERY), rtol=1e-6
    )
