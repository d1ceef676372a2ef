from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from normgate.collapse import CollapseError, separation
from normgate.collapse.shares import _by_chance
from normgate.metrics import MetricError, auroc


def samples(seed: int, magnitude: float, direction: float, n_id: int = 300, n_ood: int = 200, mixing: float = 0.0):
    """Gaussian scores whose means differ by these amounts; `mixing` correlates the two."""
    rng = np.random.default_rng(seed)
    parts = []
    for count, shift in ((n_id, 1), (n_ood, 0)):
        m, d = rng.normal(size=(2, count))
        parts += [m + shift * magnitude, mixing * m + d + shift * direction]
    return parts


def reference(id_m, id_d, ood_m, ood_d) -> tuple[float, float]:
    """R² by scikit-learn on ranks counted pair by pair, shares by averaging over both orders of arrival."""

    def ranks(known, unknown):
        def place(x, sample):
            return np.mean([(y < x) + 0.5 * (y == x) for y in sample])

        return [0.5 * place(x, known) + 0.5 * place(x, unknown) for x in (*known, *unknown)]

    columns = {"m": ranks(id_m, ood_m), "d": ranks(id_d, ood_d)}
    target = np.repeat([1.0, 0.0], [len(id_m), len(ood_m)])
    weights = np.repeat([1 / len(id_m), 1 / len(ood_m)], [len(id_m), len(ood_m)])

    def value(names):
        if not names:
            return 0.0
        x = np.stack([columns[name] for name in names], axis=1)
        return LinearRegression().fit(x, target, weights).score(x, target, weights)

    gains = []
    for order in itertools.permutations("md"):
        place = order.index("m")
        gains.append(value(order[: place + 1]) - value(order[:place]))
    return value("md"), np.mean(gains) / value("md")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), m=st.floats(-2, 2), d=st.floats(1, 3), mixing=st.floats(-2, 2))
def test_equal_to_the_plain_reference(seed, m, d, mixing):
    parts = [part.round(1) for part in samples(seed, m, d, 40, 60, mixing)]  # rounded: ties
    explained, magnitude = reference(*parts)
    result = separation(*parts)
    assert result.explained == pytest.approx(explained, rel=1e-6)
    if result.magnitude is not None:
        assert result.magnitude == pytest.approx(magnitude, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    m=st.floats(-3, 3),
    d=st.floats(-3, 3),
    mixing=st.floats(-3, 3),
    n_id=st.integers(20, 60),
    n_ood=st.integers(20, 60),
)
def test_shares_are_shares(seed, m, d, mixing, n_id, n_ood):
    id_m, id_d, ood_m, ood_d = samples(seed, m, d, n_id, n_ood, mixing)
    result = separation(id_m, id_d, ood_m, ood_d)
    assert 0 <= result.explained <= 1
    assert (result.auroc_magnitude, result.auroc_direction) == (auroc(id_m, ood_m), auroc(id_d, ood_d))
    swapped = separation(id_d, id_m, ood_d, ood_m)
    mirrored = separation(ood_m, ood_d, id_m, id_d)
    # The logarithm of a norm, or any other increasing function, ranks the same.
    bent = separation(np.exp(id_m), id_d**3, np.exp(ood_m), ood_d**3)
    if result.magnitude is None:
        assert result.direction is None
        assert swapped.magnitude is mirrored.magnitude is None
        return
    assert 0 <= result.magnitude <= 1
    assert result.magnitude + result.direction == pytest.approx(1, abs=1e-12)
    assert swapped.magnitude == pytest.approx(result.direction, abs=1e-9)
    assert mirrored.magnitude == pytest.approx(result.magnitude, abs=1e-9)
    assert bent.magnitude == pytest.approx(result.magnitude, abs=1e-9)


def test_known_shares():
    rng = np.random.default_rng(0)
    known, unknown, noise = rng.normal(1, 1, 5000), rng.normal(-1, 1, 5000), rng.normal(size=(2, 5000))
    # Only the norm separates; only direction does; both are the same score; both are as good and independent.
    assert separation(known, noise[0], unknown, noise[1]).magnitude == pytest.approx(1, abs=0.01)
    assert separation(noise[0], known, noise[1], unknown).magnitude == pytest.approx(0, abs=0.01)
    assert separation(known, known, unknown, unknown).magnitude == pytest.approx(0.5)
    assert separation(known, rng.permutation(known), unknown, rng.permutation(unknown)).magnitude == pytest.approx(
        0.5, abs=0.02
    )
    # An inverted norm separates as well as an upright one, and its AUROC says which it is.
    inverted = separation(unknown, noise[0], known, noise[1])
    assert inverted.magnitude == pytest.approx(1, abs=0.01)
    assert inverted.auroc_magnitude < 0.1


def test_a_constant_score_carries_nothing():
    known, unknown = np.arange(100.0) + 50, np.arange(100.0)
    result = separation(np.ones(100), known, np.ones(100), unknown)
    assert (result.magnitude, result.direction, result.auroc_magnitude) == (0, 1, 0.5)
    assert result.auroc_joint == auroc(known, unknown)


@given(seed=st.integers(0, 2**31), shift=st.floats(-3, 3))
def test_explained_is_a_function_of_auroc_where_one_score_speaks(seed, shift):
    id_m, _, ood_m, _ = samples(seed, shift, 0)
    result = separation(id_m, np.zeros(300), ood_m, np.zeros(200))
    assert result.explained == pytest.approx(3 * (result.auroc_magnitude - 0.5) ** 2, rel=1e-4)


def test_chance_is_not_shared_out():
    shared = sum(separation(*samples(seed, 0, 0)).magnitude is not None for seed in range(1000))
    # Binomial(1000, 0.01): below 25 but for one in 10,000 runs, and the seeds are fixed.
    assert 1 <= shared < 25
    constant = separation(np.ones(9), np.ones(9), np.ones(9), np.ones(9))
    assert (constant.explained, constant.magnitude, constant.auroc_joint) == (0, None, 0.5)


@pytest.mark.parametrize(("n_id", "n_ood", "n"), [(10, 10, 20), (300, 200, 480), (1000, 10, 40_000 / 1010)])
def test_the_limit_of_chance_is_a_quantile_of_beta(n_id, n_ood, n):
    assert scipy.stats.beta(1, (n - 3) / 2).sf(_by_chance(n_id, n_ood)) == pytest.approx(0.01)


def test_single_images_are_too_few_to_share():
    result = separation([2.0], [2.0], [1.0], [1.0])
    assert (result.auroc_magnitude, result.magnitude, result.direction) == (1, None, None)


def test_what_does_not_fit_is_refused():
    with pytest.raises(CollapseError, match="one norm and one direction score"):
        separation([1.0, 2], [1.0], [1.0], [1.0])
    with pytest.raises(MetricError, match="empty"):
        separation([], [], [1.0], [1.0])
    with pytest.raises(MetricError, match="NaN"):
        separation([1.0, np.nan], [1.0, 2], [1.0], [1.0])


def test_scores_of_a_network_are_taken_as_they_come():
    parts = samples(0, 1, 1)
    tensors = [torch.tensor(part, requires_grad=True) for part in parts]
    assert separation(*tensors) == separation(*parts)
    with pytest.raises(MetricError, match="ood_direction holds text"):
        separation([1.0], [1.0], [1.0], ["1"])
    with pytest.raises(MetricError, match="id_magnitude is no array"):
        separation([[1.0], [1.0, 2.0]], [1.0], [1.0], [1.0])
