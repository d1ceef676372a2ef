"""Polar: the less familiar of two parts; neither overrules the other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

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


def log_p_values(values: np.ndarray, tuning: np.ndarray, quantile: float) -> np.ndarray:
    """Part by part, written plainly with NumPy's interpolation."""
    shares = np.linspace(quantile, 1, 50)
    columns = []
    for value, known in zip(values.T, tuning.T, strict=True):
        knots = np.quantile(known, shares)
        excess = np.mean(knots[0] - known[known <= knots[0]])
        inner = np.interp(value, knots, np.log(shares))
        columns.append(np.where(value < knots[0], np.log(quantile) - (knots[0] - value) / excess, inner))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("quantile", [0.05, 0.2])
def test_formula(quantile: float) -> None:
    expected = log_p_values(parts(QUERY), parts(TUNING), quantile).min(axis=1)
    np.testing.assert_allclose(fitted(quantile=quantile)(QUERY).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_parts_of_one_order_stay_in_it() -> None:
    """Strictly between the tuning scores and below them, so that nothing is lost but above the largest."""
    scaled = log_p_values(parts(QUERY), parts(TUNING), 0.05)
    for value, log_p, known in zip(parts(QUERY).T, scaled.T, parts(TUNING).T, strict=True):
        order = np.argsort(value)
        assert (np.diff(log_p[order])[value[order][1:] <= known.max()] > 0).all()
        assert (log_p <= 0).all()


def test_what_one_part_finds_polar_finds_at_twice_the_rate() -> None:
    """Tippett's bound with thresholds in log p: at most the false alarms of both parts, and all that each finds."""
    scaled, joint = log_p_values(parts(QUERY), parts(TUNING), 0.05), fitted()(QUERY).numpy()
    for threshold in np.log([0.01, 0.05, 0.2, 0.5]):
        alone, both = scaled < threshold, joint < threshold
        assert (both >= alone[:, 0]).all()
        assert (both >= alone[:, 1]).all()
        assert both.sum() <= alone.sum()


def test_log_p_values_are_those_of_the_tuning_images() -> None:
    """The share of tuning images at or below a threshold is that threshold, for each part."""
    scaled = log_p_values(parts(TUNING), parts(TUNING), 0.05)
    for share in (0.05, 0.1, 0.3, 0.7):
        assert abs((scaled <= np.log(share)).mean(axis=0) - share).max() <= 2 / len(TUNING)


def test_a_part_that_goes_wrong_costs_little() -> None:
    """Long features in directions that no class has: energy takes them for most familiar, and they stay low."""
    wrong = torch.randn(200, 12, generator=torch.Generator().manual_seed(9))
    score, direction, energy = fitted(), scores.create("mahalanobis").fit(TRAIN), scores.create("energy_raw")
    for length in (1e2, 1e4, 1e6):
        odd = dataclasses.replace(QUERY, z=length * torch.nn.functional.normalize(wrong, dim=1))
        assert metrics.auroc(energy(QUERY), energy(odd)) < 0.4
        alone = metrics.auroc(direction(QUERY), direction(odd))
        assert alone > 0.9
        assert metrics.auroc(score(QUERY), score(odd)) > alone - 0.05


def test_a_part_that_finds_an_image_unfamiliar_says_so_without_limit() -> None:
    score = fitted()
    wrong = torch.randn(200, 12, generator=torch.Generator().manual_seed(9))
    odd = dataclasses.replace(QUERY, z=wrong)
    assert score(odd).min() < 2 * score(QUERY).min() < 2 * np.log(1 / len(TUNING))


def test_calibration_images_never_stand_in_for_tuning_images() -> None:
    with pytest.raises(ScoreError, match=r"--tuning.*calibration images are for the threshold alone"):
        scores.create("polar").fit(TRAIN)


def test_tuning_scores_that_do_not_vary_are_an_error() -> None:
    with pytest.raises(ScoreError, match="30 tuning images whose scores hardly vary"):
        scores.create("polar").fit(TRAIN, TUNING.select([0] * 30))
    with pytest.raises(ScoreError, match="at least 20 tuning images, and there are 19"):
        scores.create("polar").fit(TRAIN, TUNING.select(range(19)))


def test_repeated_images_at_the_low_end_are_no_obstacle() -> None:
    """Frames that repeat: the lowest scores tie, and the tail below them still falls."""
    lowest = [int(part.argmin()) for part in parts(TUNING).T]
    repeated = TUNING.select([*range(len(TUNING)), *lowest * 10])
    score = scores.create("polar").fit(TRAIN, repeated)
    assert (score.state["excess"] > 0).all()
    wrong = dataclasses.replace(QUERY, z=torch.randn(200, 12, generator=torch.Generator().manual_seed(9)))
    assert metrics.auroc(score(QUERY), score(wrong)) > metrics.auroc(fitted()(QUERY), fitted()(wrong)) - 0.05


@pytest.mark.parametrize("quantile", [0, 0.5, -1, float("nan")])
def test_quantiles_outside_the_lower_half_are_errors(quantile: float) -> None:
    with pytest.raises(ScoreError, match="polar needs a quantile"):
        scores.create("polar", quantile=quantile)
