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


def test_msp_of_extreme_logits() -> None:
    rows = [[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30], [3e38, 3e38, -3e38], [0.0, 0.0, 0.0], [1e4, 1e4 - 1, -1e4]]
    values = scores.create("msp")(with_logits(*rows)).tolist()
    assert values[0] == 0
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
