from __future__ import annotations

import dataclasses

import pytest
import torch

from normgate import scores
from samples import random_features

TRAIN, QUERY = random_features(90, 0), random_features(40, 2)


@pytest.mark.parametrize(
    ("rows", "fraction", "bank"), [(90, 0.01, 90), (3000, 0.01, 1000), (3000, 0.5, 1500), (3000, 1.0, 3000)]
)
def test_the_size_of_the_bank(rows: int, fraction: float, bank: int) -> None:
    score = scores.create("nnguide", fraction=fraction).fit(random_features(rows, 0))
    assert len(score.state["bank"]) == bank
    assert len(score.state["bank"].unique(dim=0)) == bank


def test_the_bank_is_balanced_as_the_training_images_are_whatever_their_order() -> None:
    train = random_features(3000, 0)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    banks = [scores.create("nnguide").fit(features).state["bank"] for features in (train, train.select(order))]
    assert torch.allclose(banks[0], banks[1], rtol=1e-5, atol=1e-6)
    nearest = (banks[0] @ train.u.T).argmax(dim=1)
    assert train.labels is not None
    assert set(torch.bincount(train.labels[nearest]).tolist()) <= {333, 334}


def test_a_k_that_was_asked_for_is_taken_as_it_is() -> None:
    few = scores.create("nnguide").fit(TRAIN.select(range(7)))
    assert torch.equal(few(QUERY), scores.create("nnguide", k=7).fit(TRAIN.select(range(7)))(QUERY))
    with pytest.raises(scores.ScoreError, match="at least 91 training images, and it is fitted to 90"):
        scores.create("nnguide", k=91).fit(TRAIN)
    assert len(scores.create("nnguide", k=1500).fit(random_features(3000, 0)).state["bank"]) == 1500


def test_one_neighbour_in_a_bank_of_one() -> None:
    one = TRAIN.select([0])
    energy = scores.create("energy_raw")
    exact = energy(QUERY) * energy(one) * (QUERY.u.double() @ one.u[0].double())
    assert torch.allclose(scores.create("nnguide").fit(one)(QUERY), exact, rtol=1e-5)


def test_negative_energies_are_a_reason_not_to_offer_it() -> None:
    assert scores.create("nnguide").refusal(TRAIN.select([])) is None
    negative = dataclasses.replace(TRAIN, bias=torch.full((3,), -1e3))
    reason = scores.create("nnguide").refusal(negative)
    assert reason is not None
    assert "100% of real images have a negative energy" in reason
    positive = dataclasses.replace(TRAIN, bias=torch.full((3,), 1e3))
    assert scores.create("nnguide").refusal(positive) is None


def test_autocast_around_changes_no_reason() -> None:
    """Energies around 0, whose signs change with products in bfloat16."""
    assert TRAIN.bias is not None
    alike = dataclasses.replace(TRAIN, z=TRAIN.z[:1] + 1e-3 * TRAIN.z)
    around = dataclasses.replace(alike, bias=TRAIN.bias - scores.create("energy_raw")(alike).median().float())
    plain = scores.create("nnguide").refusal(around)
    assert plain is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert scores.create("nnguide").refusal(dataclasses.replace(around)) == plain
