from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from normgate.collapse import CollapseError, image_statistics, norm_correlations
from normgate.metrics import MetricError


def noise(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(1, 9), width=st.integers(1, 9))
def test_equal_to_an_independent_computation(seed, height, width):
    pixels = noise(3, height, width, seed)
    statistics = image_statistics(pixels)
    for i, image in enumerate(pixels):
        luminance = np.average(image / 255, axis=2, weights=[0.299, 0.587, 0.114])
        laplacian = scipy.ndimage.laplace(luminance, mode="nearest")
        expected = {
            "brightness": luminance.mean(),
            "contrast": np.sqrt(((luminance - luminance.mean()) ** 2).mean()),
            "high_frequency": (laplacian**2).mean(),
        }
        assert {name: values[i] for name, values in statistics.items()} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_brightness_is_pillows_luminance():
    pixels = noise(4, 16, 16)
    expected = [np.asarray(Image.fromarray(image).convert("L")).mean() / 255 for image in pixels]
    assert image_statistics(pixels)["brightness"] == pytest.approx(expected, abs=1 / 255)


def test_flat_images_and_checkerboards():
    flat = np.full((1, 6, 6, 3), 51, dtype=np.uint8)
    board = np.broadcast_to(255 * (np.indices((6, 6)).sum(axis=0) % 2)[None, :, :, None], (1, 6, 6, 3)).astype(np.uint8)
    statistics = image_statistics(np.concatenate([flat, board]))
    assert statistics["brightness"] == pytest.approx([0.2, 0.5])
    assert statistics["contrast"] == pytest.approx([0, 0.5], abs=1e-6)
    # Inside a board of zeros and ones the Laplacian is ±4; at an edge ±3, in a corner ±2, as borders are repeated.
    assert statistics["high_frequency"] == pytest.approx([0, (16 * 16 + 16 * 9 + 4 * 4) / 36], abs=1e-6)


def test_blocks_do_not_show(monkeypatch):
    pixels = noise(11, 5, 7)
    whole = image_statistics(pixels)
    monkeypatch.setattr("normgate.collapse.confounders._BLOCK_PIXELS", 100)
    for name, values in image_statistics(pixels).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-6)
    assert all(len(values) == 0 for values in image_statistics(pixels[:0]).values())


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((2, 3, 4, 4), np.uint8)]
)
def test_other_pixels_are_refused(pixels):
    with pytest.raises(CollapseError, match=r"\(N, H, W, 3\) uint8"):
        image_statistics(pixels)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(3, 40), levels=st.sampled_from([3, 1000]))
def test_correlations_are_scipys(seed, count, levels):
    rng = np.random.default_rng(seed)
    norms = rng.integers(0, levels, count) + 0.5
    values = norms + rng.integers(0, levels, count)
    norms[:2], values[:2] = [0, 1], [1, 0]  # neither is constant
    (correlation,) = norm_correlations(norms, {"contrast": values}).values()
    assert correlation.pearson == pytest.approx(scipy.stats.pearsonr(norms, values).statistic, abs=1e-12)
    assert correlation.spearman == pytest.approx(scipy.stats.spearmanr(norms, values).statistic, abs=1e-12)


def test_correlations_of_known_value():
    norms = np.array([1.0, 2, 3, 4])
    correlations = norm_correlations(norms, {"line": 3 - 2 * norms, "curve": np.exp(norms), "flat": np.ones(4)})
    assert (correlations["line"].pearson, correlations["line"].spearman) == pytest.approx((-1, -1))
    assert correlations["curve"].spearman == pytest.approx(1)
    assert correlations["curve"].pearson < 0.95
    assert correlations["flat"].to_dict() == {"pearson": None, "spearman": None}


@pytest.mark.parametrize(
    ("norms", "values", "message"),
    [([1.0, 2], [1.0], "one value for each norm"), ([], [], "one value"), ([1.0, np.nan], [1.0, 2], "NaN")],
)
def test_what_does_not_fit_is_refused(norms, values, message):
    with pytest.raises(CollapseError, match=message):
        norm_correlations(norms, {"contrast": values})


def test_numbers_are_not_changed():
    norms = torch.tensor([1.0, 2, 4], requires_grad=True)
    assert norm_correlations(norms, {"contrast": norms.bfloat16()})["contrast"].pearson == pytest.approx(1)
    with pytest.raises(MetricError, match="contrast holds complex numbers"):
        norm_correlations(norms, {"contrast": [1.0, 2.0, 1j]})
    with pytest.raises(MetricError, match="norms holds text"):
        norm_correlations("abc", {"contrast": [1.0, 2.0, 3.0]})


def test_other_containers_are_refused():
    with pytest.raises(CollapseError, match="statistics are values by name: pass a dict"):
        norm_correlations([1.0, 2.0], [[1.0, 2.0]])
    with pytest.raises(CollapseError, match="in an array, not list"):
        image_statistics([[0]])
