"""MSP, max logit and energy: the scores of logits alone."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch

from normgate import scores
from normgate.features import Features
from samples import random_features

QUERY = random_features(40, 2)


def with_logits(*rows: list[float]) -> Features:
    return dataclasses.replace(QUERY.select(range(len(rows))), logits=torch.tensor(rows))


def test_msp_resolves_what_a_probability_rounds_to_one() -> None:
    gaps = [40.0, 50.0, 60.0, 70.0, 100.0, 700.0]
    values = scores.create("msp")(with_logits(*([gap, 0.0, 0.0] for gap in gaps)))
    assert (values.diff() > 0).all()
    for value, gap in zip(values.tolist(), gaps, strict=True):
        assert value == pytest.approx(-2 * math.exp(-gap), rel=1e-12)


@pytest.mark.parametrize("name", ["msp", "entropy", "gen"])
def test_no_gap_is_too_large_to_keep_the_order(name: str) -> None:
    """Above 0 the score is by how much the logarithm of what is left is below that of the smallest normal float64."""
    gaps = [600.0, 700.0, 708.0, 712.0, 720.0, 744.0, 746.0, 1e3, 7e3, 7.4e3, 8e3, 1e5, 2.0**100]
    values = scores.create(name)(with_logits(*([gap, 0.0, 0.0] for gap in gaps)))
    assert (values.diff() > 0).all()
    logarithms = {
        "msp": lambda gap: math.log(2) - gap,
        "entropy": lambda gap: math.log(2 * (gap + 1)) - gap,
        "gen": lambda gap: math.log(2**0.1 + 2) - 0.1 * gap,
    }
    for value, gap in zip(values.tolist(), gaps, strict=True):
        log_left = logarithms[name](gap)
        exact = -math.exp(log_left) if log_left >= math.log(2**-1022) else math.log(2**-1022) - log_left
        assert value == pytest.approx(exact, rel=1e-11, abs=0)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0, 3000.0])
def test_msp_has_the_order_of_the_log_odds_at_any_scale(scale: float) -> None:
    features = dataclasses.replace(QUERY, logits=scale * QUERY.logits)
    ranked = features.logits.double().sort(dim=1, descending=True).values
    odds = torch.logsumexp(ranked[:, 1:] - ranked[:, :1], dim=1)
    values = scores.create("msp")(features)
    assert torch.equal(values.argsort(), (-odds).argsort())
    assert len(values.unique()) == len(QUERY)


def test_msp_of_extreme_logits() -> None:
    rows = [[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30], [3e38, 3e38, -3e38], [0.0, 0.0, 0.0], [1e4, 1e4 - 1, -1e4]]
    values = scores.create("msp")(with_logits(*rows)).tolist()
    assert values[0] == pytest.approx(1e30)  # goes on above 0 by the gap
    assert values[1] == values[3] == pytest.approx(-math.log(3), rel=1e-15)
    assert values[2] == pytest.approx(-math.log(2), rel=1e-15)
    assert values[4] == pytest.approx(-math.log1p(math.exp(-1)), rel=1e-15)


def test_msp_does_not_see_a_shift_of_all_logits_and_the_others_do() -> None:
    logits = torch.round(QUERY.logits * 64) / 64  # sums are exact
    base, moved = (dataclasses.replace(QUERY, logits=values) for values in (logits, logits + 8))
    assert torch.equal(scores.create("msp")(base), scores.create("msp")(moved))
    assert torch.equal(scores.create("max_logit")(base) + 8, scores.create("max_logit")(moved))
    assert torch.allclose(scores.create("energy")(base) + 8, scores.create("energy")(moved), rtol=1e-14)


def test_energy_of_extreme_logits() -> None:
    values = scores.create("energy")(with_logits([1e30, 0.0, 0.0], [-1e30, -1e30, -1e30], [0.0, 0.0, 0.0]))
    assert values.tolist() == [pytest.approx(1e30), pytest.approx(-1e30), pytest.approx(math.log(3), rel=1e-15)]


def test_energy_lies_between_the_maximum_and_the_maximum_plus_log_k() -> None:
    largest, energy = scores.create("max_logit")(QUERY), scores.create("energy")(QUERY)
    assert ((largest <= energy) & (energy <= largest + math.log(3))).all()


@pytest.mark.parametrize("temperature", [0.5, 1, 10])
def test_the_temperature_of_energy(temperature: float) -> None:
    exact = [
        temperature * math.log(sum(Fraction(math.exp(value / temperature)) for value in row))
        for row in QUERY.logits.double().tolist()
    ]
    assert scores.create("energy", temperature=temperature)(QUERY).tolist() == pytest.approx(exact, rel=1e-12)


def test_energy_raw_takes_the_head_without_normalisation() -> None:
    z = QUERY.z.double() / QUERY.temperature
    assert QUERY.bias is not None
    logits = z @ QUERY.weight.double().T + QUERY.bias.double()
    exact = torch.logsumexp(logits, dim=1)
    assert torch.allclose(scores.create("energy_raw")(QUERY), exact, rtol=1e-6)


@pytest.mark.parametrize("name", ["msp", "max_logit", "energy", "entropy", "gen"])
def test_raw_forms_are_the_formula_on_other_logits(name: str) -> None:
    raw = dataclasses.replace(QUERY, logits=QUERY.raw_logits)
    assert torch.equal(scores.create(f"{name}_raw")(QUERY), scores.create(name)(raw))
    assert not torch.equal(scores.create(f"{name}_raw")(QUERY), scores.create(name)(QUERY))


def test_entropy_resolves_what_a_probability_rounds_to_one() -> None:
    gaps = [40.0, 50.0, 60.0, 70.0, 100.0, 700.0]
    values = scores.create("entropy")(with_logits(*([gap, 0.0, 0.0] for gap in gaps)))
    assert (values.diff() > 0).all()
    for value, gap in zip(values.tolist(), gaps, strict=True):
        assert value == pytest.approx(-2 * math.exp(-gap) * (gap + 1), rel=1e-12)


def test_gen_resolves_what_a_probability_rounds_to_one() -> None:
    """Even where the other probabilities are below the smallest float64: their powers are not."""
    gaps = [40.0, 100.0, 700.0, 900.0, 3000.0]
    values = scores.create("gen")(with_logits(*([gap, 0.0, 0.0] for gap in gaps)))
    assert (values.diff() > 0).all()
    for value, gap in zip(values.tolist(), gaps, strict=True):
        assert value == pytest.approx(-(2**0.1 + 2) * math.exp(-0.1 * gap), rel=1e-12)


@pytest.mark.parametrize("name", ["msp", "entropy", "gen"])
def test_no_class_is_more_familiar_than_any_where_all_are_alike(name: str) -> None:
    even, extreme, single = with_logits([0.0, 0.0, 0.0], [-1e30, -1e30, -1e30]), with_logits([1e30, -1e30, 0.0]), QUERY
    values = scores.create(name)(even)
    assert values[0] == values[1]
    assert (scores.create(name)(single) > values[0]).all()
    assert (scores.create(name)(single) < scores.create(name)(extreme)).all()


@pytest.mark.parametrize("name", ["msp", "entropy", "gen", "kl_matching"])
def test_one_class_leaves_no_doubt(name: str) -> None:
    weight, bias = QUERY.weight[:1], torch.zeros(1)
    one = dataclasses.replace(
        QUERY, logits=QUERY.logits[:, :1], weight=weight, bias=bias, labels=torch.zeros(40).long()
    )
    assert (scores.create(name).fit(one)(one) == 0).all()


@pytest.mark.parametrize(("gamma", "top"), [(0.1, 1), (0.5, 2), (2, 3)])
def test_gen_takes_the_most_probable_classes(gamma: float, top: int) -> None:
    p = QUERY.logits.double().softmax(dim=1).sort(dim=1, descending=True).values[:, :top]
    exact = -(p * (1 - p)).pow(gamma).sum(dim=1)
    assert torch.allclose(scores.create("gen", gamma=gamma, top=top)(QUERY), exact, rtol=1e-12)


def test_kl_matching_is_zero_where_the_softmax_is_the_typical_one() -> None:
    train = dataclasses.replace(QUERY, logits=torch.eye(3)[torch.arange(40) % 3] * 60)
    score = scores.create("kl_matching").fit(train)
    # A logarithm of a mean of equal probabilities is theirs but for rounding.
    assert torch.allclose(score(train), torch.zeros(40, dtype=torch.float64), atol=1e-15)
    assert (score(QUERY) < -0.01).all()


def test_kl_matching_groups_images_by_prediction_and_not_by_label() -> None:
    assert QUERY.labels is not None
    relabelled = dataclasses.replace(QUERY, labels=QUERY.labels.roll(1))
    fitted = [scores.create("kl_matching").fit(features) for features in (QUERY, relabelled)]
    assert torch.equal(fitted[0](QUERY), fitted[1](QUERY))


def test_kl_matching_stays_finite_where_a_typical_probability_is_nearly_zero() -> None:
    train = dataclasses.replace(QUERY, logits=torch.tensor([[2000.0, 0.0, -2000.0]]).repeat(40, 1))
    value = scores.create("kl_matching").fit(train)(with_logits([0.0, 0.0, 2000.0]))
    assert value.tolist() == [pytest.approx(-4000, rel=1e-12)]
