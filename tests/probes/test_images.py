"""Probe images: what each leaves of an image, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normgate.probes import PROBES, make
from normgate.probes.images import ProbeImageError


def images(count: int = 12, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


CLASSES = np.arange(12) % 3
PIXELS = images()
MADE = dict(make(PIXELS, CLASSES))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 5), height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_every_probe_of_images_of_any_size(count: int, height: int, width: int, seed: int) -> None:
    pixels = images(count, height, width, seed)
    before = pixels.copy()
    made = dict(make(pixels, np.zeros(count, np.int64), seed))
    assert list(made) == list(PROBES)
    for probe in made.values():
        assert probe.shape == pixels.shape
        assert probe.dtype == np.uint8
        assert not np.shares_memory(probe, pixels)
    assert np.array_equal(pixels, before)


def test_the_seed_decides() -> None:
    again, other = dict(make(PIXELS, CLASSES)), dict(make(PIXELS, CLASSES, seed=1))
    random = {"noise/uniform", "noise/gaussian", "noise/clouds", "flat/colour", "noisy/0.1", "noisy/0.3", "shuffled/2"}
    random |= {"shuffled/4", "blend/mixed", "blend/halves", "scrambled/phase", "pose/near"}
    assert all(np.array_equal(MADE[name], again[name]) for name in PROBES)
    assert {name for name in PROBES if not np.array_equal(MADE[name], other[name])} == random


def test_a_probe_does_not_depend_on_the_others() -> None:
    """Each has its own stream of random numbers, so that a new probe changes no old one."""
    rng = np.random.default_rng([0, 1])
    assert np.array_equal(MADE["noise/uniform"], rng.integers(0, 256, PIXELS.shape, dtype=np.uint8))


def test_flat_fields() -> None:
    for name in ("flat/black", "flat/white", "flat/colour", "flat/own"):
        assert (MADE[name] == MADE[name][:, :1, :1]).all()
    assert (MADE["flat/black"] == 0).all()
    assert (MADE["flat/white"] == 255).all()
    assert np.array_equal(MADE["flat/own"][:, 0, 0], np.rint(PIXELS.mean(axis=(1, 2))))


@pytest.mark.parametrize("name", ["shuffled/2", "shuffled/4"])
def test_shuffling_keeps_the_pixels_and_moves_whole_patches(name: str) -> None:
    side = 16 // int(name[-1])

    def patches(image: np.ndarray) -> list[bytes]:
        return sorted(
            image[r : r + side, c : c + side].tobytes() for r in range(0, 16, side) for c in range(0, 16, side)
        )

    for before, after in zip(PIXELS, MADE[name], strict=True):
        assert patches(before) == patches(after)
    assert not np.array_equal(PIXELS, MADE[name])


def test_blends_take_two_classes() -> None:
    constant = np.broadcast_to((10 * CLASSES)[:, None, None, None], PIXELS.shape).astype(np.uint8)
    made = dict(make(constant, CLASSES))
    left, right = made["blend/halves"][:, :, 0, 0], made["blend/halves"][:, :, -1, 0]
    assert (left != right).all()
    assert np.array_equal(left[:, 0], 10 * CLASSES)
    assert np.array_equal(made["blend/mixed"][:, 0, 0, 0] * 2, left[:, 0].astype(int) + right[:, 0])


def test_images_of_one_class_are_not_blended_with_themselves() -> None:
    for seed in range(20):
        made = dict(make(PIXELS, np.zeros(12, np.int64), seed))
        assert all(not np.array_equal(blend, image) for blend, image in zip(made["blend/halves"], PIXELS, strict=True))


def test_light() -> None:
    assert np.array_equal(MADE["light/inverted"], 255 - PIXELS)
    assert np.array_equal(MADE["light/swapped"][..., 1], PIXELS[..., 0])
    middle = PIXELS.mean(axis=(1, 2, 3), keepdims=True)
    assert np.abs(MADE["light/faint"] - (middle + (PIXELS - middle) / 4)).max() <= 0.5
    assert MADE["light/harsh"].std() > PIXELS.std()


def test_scrambling_keeps_spectrum_and_mean() -> None:
    """Where nothing is clipped: faint images."""
    faint = (PIXELS // 16 + 120).astype(np.uint8)
    scrambled = dict(make(faint, CLASSES))["scrambled/phase"]
    spectra = [np.abs(np.fft.fft2(part.astype(float), axes=(1, 2))) for part in (faint, scrambled)]
    assert np.abs(spectra[0] - spectra[1]).max() < 20  # rounding to whole numbers
    assert np.abs(faint.mean(axis=(1, 2)) - scrambled.mean(axis=(1, 2))).max() < 0.1
    assert not np.array_equal(faint, scrambled)


def test_poses() -> None:
    assert np.array_equal(MADE["pose/half"], PIXELS[:, ::-1, ::-1])
    assert np.array_equal(np.rot90(MADE["pose/quarter"], -1, axes=(1, 2)), PIXELS)
    assert np.array_equal(MADE["pose/far"][:, :8], MADE["pose/far"][:, 8:])


def test_blurring_takes_detail_away() -> None:
    detail = {name: np.abs(np.diff(MADE[name].astype(int), axis=1)).mean() for name in MADE}
    own = np.abs(np.diff(PIXELS.astype(int), axis=1)).mean()
    assert detail["blurred/gaussian"] < own / 2
    assert detail["blurred/coarse"] < own
    assert detail["noise/clouds"] < own / 2


@pytest.mark.parametrize("bad", [PIXELS[:0], PIXELS.astype(np.float32), PIXELS[0], PIXELS[..., :1]])
def test_what_is_no_batch_of_pixels_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ProbeImageError, match="uint8 images"):
        next(make(bad, np.zeros(len(bad), np.int64)))
