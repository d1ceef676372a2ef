from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_oracles import collapsed, features_of, random_classes, relabelled, rotation, simplex
from normgate.collapse import CollapseError, neural_collapse
from normgate.features import Features


def reference(features: Features, space: str) -> dict[str, float]:
    """NC1–NC4 as their formulas read: explicit covariances, loops over images, classes and pairs."""
    h = features.z.numpy().astype(np.float64)
    if space == "u":
        h = np.stack([row / np.linalg.norm(row) if row.any() else row for row in h])
    labels, weight = features.labels.numpy(), features.weight.numpy().astype(np.float64)
    present = sorted(set(labels.tolist()))
    mu = {c: np.mean([row for row, label in zip(h, labels, strict=True) if label == c], axis=0) for c in present}
    centre = np.mean([mu[c] for c in present], axis=0)
    d = h.shape[1]
    within, between = np.zeros((d, d)), np.zeros((d, d))
    for c in present:
        rows = [row - mu[c] for row, label in zip(h, labels, strict=True) if label == c]
        within += sum(np.outer(row, row) for row in rows) / len(rows) / len(present)
        between += np.outer(mu[c] - centre, mu[c] - centre) / len(present)
    means = np.stack([mu[c] - centre for c in present])
    values = {"nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-12, hermitian=True)) / len(present)}
    for name, rows in (("means", means), ("head", weight)):
        k = len(rows)
        lengths = [np.sqrt(row @ row) for row in rows]
        cosines = [rows[a] @ rows[b] / lengths[a] / lengths[b] for a in range(k) for b in range(k) if a != b]
        gram = np.array([[a @ b for b in rows] for a in rows])
        values[f"{name}.equinorm"] = np.std(lengths) / np.mean(lengths)
        values[f"{name}.equiangularity"] = np.std(cosines)
        values[f"{name}.widest_angle"] = np.mean([abs(cosine + 1 / (k - 1)) for cosine in cosines])
        target = (np.eye(k) - np.ones((k, k)) / k) / np.sqrt(k - 1)
        values[f"{name}.simplex_distance"] = np.linalg.norm(gram / np.linalg.norm(gram) - target)
    if len(present) == len(weight):
        values["nc3"] = np.linalg.norm(weight / np.linalg.norm(weight) - means / np.linalg.norm(means))
    nearest = [min(present, key=lambda c: np.linalg.norm(row - mu[c])) for row in h]
    values["nc4"] = np.mean(np.array(nearest) != features.logits.numpy().argmax(axis=1))
    return values


def values_of(features: Features, space: str) -> dict[str, float]:
    collapse = neural_collapse(features, space)
    frames = {
        f"{name}.{field.name}": getattr(frame, field.name)
        for name, frame in (("means", collapse.means), ("head", collapse.head))
        for field in dataclasses.fields(frame)
    }
    values = {
        "nc1": collapse.within_between,
        **frames,
        "nc3": collapse.self_duality,
        "nc4": collapse.nearest_mean_disagreement,
    }
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("space", ["z", "u"])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 6),
    dimensions=st.integers(2, 9),
    images=st.integers(20, 50),
    spread=st.sampled_from([1e-3, 0.3, 3.0]),
    offset=st.sampled_from([0.0, 20.0]),
)
def test_equal_to_the_plain_reference(space, seed, classes, dimensions, images, spread, offset):
    features = random_classes(images, dimensions, classes, seed, spread)
    features = features_of(features.z.numpy() + offset, features.labels, features.weight, features.bias)
    assert values_of(features, space) == pytest.approx(reference(features, space), rel=1e-6, abs=1e-9)


def test_unbalanced_and_missing_classes_weigh_as_in_the_reference():
    features = random_classes(60, classes=5).select([*range(0, 60, 5), 1, 6, 2, 7, 12, 17, 22, 3])
    assert values_of(features, "z") == pytest.approx(reference(features, "z"), rel=1e-9)
    collapse = neural_collapse(features)
    assert (collapse.classes, collapse.self_duality) == (4, None)
    assert collapse.missing["self_duality"] == "1 of 5 classes have no images (the first: 4)"


@pytest.mark.parametrize("space", ["z", "u"])
@pytest.mark.parametrize("classes", [2, 3, 10, 40])
def test_full_collapse_is_zero_everywhere(space, classes):
    values = values_of(collapsed(classes), space)
    assert len(values) == 11
    assert values == pytest.approx(dict.fromkeys(values, 0), abs=1e-6)
    assert neural_collapse(collapsed(classes), space).rank == classes - 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), head_scale=st.floats(1e-3, 1e3))
def test_rotations_and_scales_change_nothing(seed, scale, head_scale):
    features = random_classes(seed=seed)
    turn = rotation(7, seed)
    turned = dataclasses.replace(
        features,
        z=torch.as_tensor(scale * features.z.numpy() @ turn, dtype=torch.float32),
        weight=torch.as_tensor(head_scale * features.weight.numpy() @ turn, dtype=torch.float32),
    )
    for space in ("z", "u"):
        before, after = values_of(features, space), values_of(turned, space)
        # An image halfway between two means may change sides by rounding.
        assert after.pop("nc4") == pytest.approx(before.pop("nc4"), abs=1.5 / len(features))
        assert after == pytest.approx(before, rel=1e-4, abs=1e-5)


@given(seed=st.integers(0, 2**31))
def test_directions_do_not_see_lengths_and_rows_have_no_order(seed):
    features = random_classes(seed=seed)
    rng = np.random.default_rng(seed)
    lengths = torch.as_tensor(2.0 ** rng.integers(-5, 5, len(features)), dtype=torch.float32)[:, None]
    stretched = dataclasses.replace(features, z=features.z * lengths)
    assert values_of(stretched, "u") == pytest.approx(values_of(features, "u"), rel=1e-9)
    shuffled = features.select(rng.permutation(len(features)))
    assert values_of(shuffled, "z") == pytest.approx(values_of(features, "z"), rel=1e-9)


def test_within_over_between_has_its_closed_form():
    # Two classes at ±1 on a line with deviations ±a: Σ_W = a², Σ_B = 1, so that NC1 = a²/2.
    z = np.array([[1.5, 0], [0.5, 0], [-1.5, 0], [-0.5, 0]])
    collapse = neural_collapse(features_of(z, [0, 0, 1, 1], [[1, 0], [-1, 0]]))
    assert collapse.within_between == pytest.approx(0.25 / 2)
    # Spread outside the span of the class means is not counted, as Σ_B⁺ is zero there.
    z[:, 1] = [9, -9, 9, -9]
    assert neural_collapse(features_of(z, [0, 0, 1, 1], [[1, 0], [-1, 0]])).within_between == pytest.approx(0.25 / 2)


@pytest.mark.parametrize(("dimensions", "classes"), [(1, 2), (1, 4), (2, 4), (3, 9)])
def test_too_few_dimensions_for_a_simplex(dimensions, classes):
    features = random_classes(80, dimensions, classes)
    collapse = neural_collapse(features)
    assert collapse.rank == min(dimensions, classes - 1)
    least = np.sqrt(2 - 2 * np.sqrt(collapse.rank / (classes - 1)))
    assert least - 1e-9 <= collapse.means.simplex_distance <= np.sqrt(2)
    assert values_of(features, "z") == pytest.approx(reference(features, "z"), rel=1e-6, abs=1e-9)


def test_class_means_on_a_line_span_one_dimension():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(30, 5))
    noise -= noise.mean(axis=0)
    places, axis = np.array([-3.0, 0, 1, 2]), rng.normal(size=5)
    z = np.concatenate([noise + place * axis for place in places])
    labels = np.repeat(np.arange(4), 30)
    collapse = neural_collapse(features_of(z, labels, rng.normal(size=(4, 5))))
    assert collapse.rank == 1
    # Along the line: the variance within over the variance of the four places.
    within = np.var(noise @ axis) / (axis @ axis) ** 2
    assert collapse.within_between == pytest.approx(within / np.var(places) / 4, rel=1e-5)


def test_one_image_a_class_says_nothing_of_the_spread_within():
    collapse = neural_collapse(random_classes(4))
    assert collapse.within_between is None
    assert "no class has two images" in collapse.missing["within_between"]
    assert collapse.self_duality is not None


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_equal_features_have_no_class_means_to_compare(value):
    row = value * np.random.default_rng(0).uniform(1, 2, 4)
    features = features_of(np.tile(row, (31, 1)), np.repeat([0, 1, 2], [7, 11, 13]), simplex(3) @ np.eye(3, 4))
    for space in ("z", "u"):
        collapse = neural_collapse(features, space)
        assert (collapse.rank, collapse.within_between, collapse.self_duality) == (0, None, None)
        assert (collapse.means.equinorm, collapse.means.simplex_distance) == (None, None)
        assert collapse.missing.keys() == {"within_between", "self_duality", "means"}
        assert collapse.head.simplex_distance == pytest.approx(0, abs=1e-6)
        json.dumps(collapse.to_dict(), allow_nan=False)


def test_zero_features_are_directions_of_no_length():
    features = random_classes()
    features.z[::7] = 0
    assert values_of(features, "u") == pytest.approx(reference(features, "u"), rel=1e-6)


def test_a_zero_head_has_no_angles():
    collapse = neural_collapse(features_of(random_classes().z, random_classes().labels, np.zeros((4, 7))))
    assert collapse.head == dataclasses.replace(
        collapse.head, equinorm=None, equiangularity=None, widest_angle=None, simplex_distance=None
    )
    assert collapse.missing == {
        "self_duality": "the head's weight is zero",
        "head": "a row is zero, and so has no angle",
    }


def test_a_mean_in_the_middle_has_no_angle_but_a_length():
    z = [[1, 0], [-1, 0], [0, 0]] * 2
    collapse = neural_collapse(features_of(z, [0, 1, 2] * 2, simplex(3)[:, :2]))
    assert collapse.means.equiangularity is None
    assert collapse.means.equinorm == pytest.approx(np.std([1, 1, 0]) / np.mean([1, 1, 0]))
    assert collapse.missing["means"].startswith("a class mean is the global mean")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (relabelled(random_classes(), None), "with labels"),
        (relabelled(random_classes(), [0] * 60), "only 1 has images"),
        (random_classes().select([]), "no images"),
        (features_of(np.ones((3, 2)), [0, 0, 0], np.ones((1, 2))), "one output"),
        (features_of(np.full((4, 2), np.nan), [0, 1, 0, 1], np.eye(2)), "NaN or infinite"),
    ],
)
def test_what_cannot_be_measured_is_named(features, message):
    with pytest.raises(CollapseError, match=message):
        neural_collapse(features)


def test_features_are_not_changed():
    features = random_classes()
    before = features.z.clone(), features.weight.clone()
    neural_collapse(features)
    assert torch.equal(features.z, before[0])
    assert torch.equal(features.weight, before[1])


@pytest.mark.parametrize("space", ["x", "Z", "", None, ["z"], np.array(["z", "u"])])
def test_a_space_is_z_or_u(space):
    with pytest.raises(CollapseError, match="space is 'z', raw features, or 'u', directions, not"):
        neural_collapse(random_classes(), space)
