"""Polar: two smooth p-values combined; neither part overrules the other."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.special import log_expit

from normgate import metrics, scores
from normgate.features import Features
from normgate.scores import Score, ScoreError
from samples import random_features

TRAIN, TUNING, QUERY = random_features(90, 0), random_features(101, 1), random_features(200, 2)


def fitted(**settings: object) -> Score:
    return scores.create("polar", **settings).fit(TRAIN, TUNING)


def parts(features: Features) -> np.ndarray:
    direction = scores.create("mahalanobis").fit(TRAIN)
    return np.stack([scores.create("energy_raw")(features).numpy(), direction(features).numpy()], axis=1)


@pytest.mark.parametrize("quantile", [0.05, 0.2])
def test_formula(quantile: float) -> None:
    reference = parts(TUNING)
    median, low = np.median(reference, axis=0), np.quantile(reference, quantile, axis=0)
    scaled = (parts(QUERY) - median) / (median - low)
    expected = log_expit(math.log((1 - quantile) / quantile) * scaled).sum(axis=1)
    np.testing.assert_allclose(fitted(quantile=quantile)(QUERY).numpy(), expected, rtol=1e-9)


def test_a_part_is_half_at_the_median_and_the_quantile_at_the_quantile() -> None:
    """One part at its tuning median, the other too: log ½ twice."""
    score = fitted()
    median, reach = score.state["median"], score.state["reach"]
    score.state = {**score.state, "median": torch.tensor(parts(QUERY)[0]), "reach": torch.ones(2).double()}
    assert score(QUERY.select([0])).item() == pytest.approx(2 * math.log(0.5))
    assert (reach > 0).all()
    assert median.shape == (2,)


def test_a_part_that_goes_wrong_adds_at_most_log_2() -> None:
    """Long features in directions that no class has: energy takes them for most familiar, and they stay low."""
    wrong = torch.randn(200, 12, generator=torch.Generator().manual_seed(9))
    score, direction = fitted(), scores.create("mahalanobis").fit(TRAIN)
    for length in (1e2, 1e4, 1e6):
        odd = dataclasses.replace(QUERY, z=length * torch.nn.functional.normalize(wrong, dim=1))
        energy = scores.create("energy_raw")
        inverted = metrics.auroc(energy(QUERY), energy(odd))
        alone = metrics.auroc(direction(QUERY), direction(odd))
        both = metrics.auroc(score(QUERY), score(odd))
        assert inverted < 0.4
        assert alone > 0.9
        assert both > alone - 0.05


def test_a_part_that_finds_an_image_unfamiliar_says_so_without_limit() -> None:
    score = fitted()
    values = [score(dataclasses.replace(QUERY, z=QUERY.z * length)).max().item() for length in (0.1, 0.01)]
    assert values[1] <= values[0] < score(QUERY).median().item()


def test_calibration_images_never_stand_in_for_tuning_images() -> None:
    with pytest.raises(ScoreError, match=r"--tuning.*calibration images are for the threshold alone"):
        scores.create("polar").fit(TRAIN)


def test_tuning_scores_that_do_not_vary_are_an_error() -> None:
    with pytest.raises(ScoreError, match="1 tuning images whose scores hardly vary"):
        scores.create("polar").fit(TRAIN, TUNING.select([0]))


@pytest.mark.parametrize("quantile", [0, 0.5, -1, float("nan")])
def test_quantiles_outside_the_lower_half_are_errors(quantile: float) -> None:
    with pytest.raises(ScoreError, match="polar needs a quantile"):
        scores.create("polar", quantile=quantile)
