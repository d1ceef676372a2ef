from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_oracles import collapsed, features_of, random_classes, relabelled
from normgate.collapse import CollapseError, invariants
from normgate.features import Features
from normgate.normalization import cross_entropy_floor


def autograd(features: Features, normalized: bool) -> float:
    """Largest radial part of the loss's gradient, by autograd; the gradient at u is taken at fixed length."""
    z, weight, bias = features.z.double(), features.weight.double(), features.bias.double()
    lengths = z.norm(dim=1, keepdim=True)

    def loss(inputs):
        return F.cross_entropy(F.linear(inputs / features.temperature, weight, bias), features.labels, reduction="sum")

    at, u = z.clone().requires_grad_(), (z / lengths).requires_grad_()
    (at_z,) = torch.autograd.grad(loss(at / at.norm(dim=1, keepdim=True) if normalized else at), at)
    (at_u,) = torch.autograd.grad(loss(u if normalized else lengths * u), u)
    return float(((z * at_z).sum(dim=1).abs() / at_u.norm(dim=1)).max())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(0.05, 3), temperature=st.sampled_from([1.0, 0.1, 3.0]))
def test_normalised_heads_push_sideways(seed, spread, temperature):
    features = random_classes(seed=seed, spread=spread, temperature=temperature)
    result = invariants(features)
    assert result.normalized
    assert result.radial_gradient <= 1e-12
    assert autograd(features, normalized=True) <= 1e-9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(0.05, 3))
def test_raw_heads_push_outward_as_autograd_says(seed, spread):
    features = random_classes(seed=seed, spread=spread, normalized=False)
    # Small logits: autograd's p − 1 loses its digits where p is near 1.
    features = features_of(features.z, features.labels, features.weight / 16, features.bias, normalized=False)
    result = invariants(features)
    assert not result.normalized
    assert 0.01 < result.radial_gradient <= 1 + 1e-12
    assert result.radial_gradient == pytest.approx(autograd(features, normalized=False), rel=1e-6)
    assert result.floor is None
    assert "no bound" in result.missing["floor"]


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
def test_with_two_classes_the_push_is_along_the_rows_difference(scale):
    # However sure the head is: p − 1 for p near 1 must not be rounding.
    features = random_classes(classes=2, normalized=False)
    features = features_of(features.z, features.labels, scale * features.weight, features.bias, normalized=False)
    difference = (features.weight[0].double() - features.weight[1].double())[None]
    cosines = F.cosine_similarity(features.z.double(), difference).abs()
    assert invariants(features).radial_gradient == pytest.approx(float(cosines.max()), rel=1e-9)


def test_blocks_do_not_show(monkeypatch):
    features = random_classes(normalized=False)
    whole = invariants(features)
    monkeypatch.setattr("normgate.collapse.method._BLOCK_ROWS", 7)
    assert invariants(features).radial_gradient == pytest.approx(whole.radial_gradient, rel=1e-12)


@pytest.mark.parametrize("normalized", [True, False])
def test_the_loss_is_that_of_the_trained_logits_with_equal_classes(normalized):
    features = random_classes(61, normalized=normalized)
    losses = F.cross_entropy(features.logits.double(), features.labels, reduction="none")
    expected = torch.stack([losses[features.labels == label].mean() for label in range(4)]).mean()
    assert invariants(features).loss == pytest.approx(float(expected), rel=1e-5)
    assert invariants(features).chance_loss == math.log(4)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 6),
    spread=st.floats(0, 3),
    temperature=st.sampled_from([1.0, 0.1]),
)
def test_no_loss_is_below_the_floor(seed, classes, spread, temperature):
    result = invariants(random_classes(41, classes=classes, seed=seed, spread=spread, temperature=temperature))
    assert result.loss >= result.floor - 1e-9


@pytest.mark.parametrize("classes", [2, 10, 50])
def test_full_collapse_reaches_the_floor(classes):
    result = invariants(collapsed(classes, temperature=0.5, head_norm=3.0))
    assert result.head_norm == pytest.approx(3, rel=1e-6)
    assert result.floor == pytest.approx(cross_entropy_floor(classes, 3, 0.5), rel=1e-5)
    assert result.loss == pytest.approx(result.floor, rel=1e-5)


def test_a_row_added_to_all_rows_changes_nothing():
    features = random_classes()
    shifted = features_of(features.z, features.labels, features.weight + torch.ones(7), features.bias)
    before, after = invariants(features), invariants(shifted)
    assert (after.head_norm, after.floor, after.loss) == pytest.approx((before.head_norm, before.floor, before.loss))


def test_missing_classes_leave_no_floor():
    features = random_classes()
    result = invariants(features.select(features.labels < 3))
    assert result.floor is None
    assert result.missing == {"floor": "1 of 4 classes have no images"}


@pytest.mark.parametrize("normalized", [True, False])
def test_zero_features_and_zero_gradients(normalized):
    features = random_classes(normalized=normalized)
    z = features.z.clone()
    z[::5] = 0
    result = invariants(features_of(z, features.labels, features.weight, features.bias, normalized=normalized))
    assert math.isfinite(result.radial_gradient)
    assert result.normalized is normalized
    flat = invariants(features_of(z, features.labels, torch.zeros(4, 7), torch.zeros(4), normalized=normalized))
    assert flat.radial_gradient is None
    assert flat.missing["radial_gradient"] == "every gradient is zero"
    assert flat.loss == pytest.approx(math.log(4))


def test_huge_logits_stay_finite():
    features = random_classes(temperature=1e-6)
    assert math.isfinite(invariants(features).loss)
    assert invariants(features).floor == 0


def test_another_heads_logits_are_refused():
    features = random_classes()
    features.logits.neg_()
    with pytest.raises(CollapseError, match="neither"):
        invariants(features)
    with pytest.raises(CollapseError, match="with labels"):
        invariants(relabelled(random_classes(), None))
