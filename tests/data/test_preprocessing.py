from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from normgate.data.decoding import ImageError
from normgate.data.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    Preprocessing,
    PreprocessingError,
)

IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_an_image_of_the_right_size_is_untouched():
    picture = image(6, 4)
    np.testing.assert_array_equal(Preprocessing(size=(4, 6)).resized(picture), np.asarray(picture))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_without_resize_the_image_is_squashed(interpolation):
    found = Preprocessing(size=(8, 5), interpolation=interpolation).resized(image(20, 30))
    expected = image(20, 30).resize((5, 8), INTERPOLATIONS[interpolation])
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (12, 12), (5, 301), (1, 1)])
def test_resizing_the_shorter_side_then_cropping(width, height):
    found = Preprocessing(size=8, resize=12).resized(image(width, height))
    short = min(width, height)
    resized = image(width, height).resize((12 * width // short, 12 * height // short), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 8) / 2), round((resized.height - 8) / 2)
    np.testing.assert_array_equal(found, np.asarray(resized)[top : top + 8, left : left + 8])


def test_squashing_to_a_larger_size_then_cropping():
    found = Preprocessing(size=(8, 6), resize=(10, 12)).resized(image(30, 30))
    expected = image(30, 30).resize((12, 10), Image.Resampling.BILINEAR).crop((3, 1, 9, 9))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_a_long_thin_image_is_refused_before_it_is_blown_up():
    with pytest.raises(ImageError, match="60000 × 1 pixels is too long and thin"):
        Preprocessing(size=224, resize=256).resized(Image.new("RGB", (60_000, 1)))


def test_other_modes_become_rgb():
    np.testing.assert_array_equal(Preprocessing(size=2).resized(Image.new("L", (2, 2), 9)), np.full((2, 2, 3), 9))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(3))))
@settings(max_examples=50, deadline=None)
def test_normalisation_is_what_the_formula_says(batch):
    preprocessing = Preprocessing(size=batch.shape[1:3], **IMAGENET)
    found = preprocessing.normalized(batch)
    expected = (batch.astype(np.float64) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-6)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.just(3))))
@settings(max_examples=50, deadline=None)
def test_standardisation_is_what_tensorflow_documents(batch):
    found = Preprocessing(size=batch.shape[1:3], standardize=True).normalized(batch)
    for pixels, result in zip(batch / 255, found, strict=True):
        deviation = max(pixels.std(), 1 / np.sqrt(pixels.size))
        expected = (pixels - pixels.mean()) / deviation
        np.testing.assert_allclose(result, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)


def test_a_blank_image_standardises_to_zero():
    blank = np.full((1, 4, 4, 3), 200, np.uint8)
    assert not Preprocessing(size=4, standardize=True).normalized(blank).any()


@pytest.mark.parametrize("settings_", [IMAGENET, {"standardize": True}])
def test_batching_changes_no_bit(settings_):
    batch = np.stack([np.asarray(image(7, 5, seed)) for seed in range(9)])
    preprocessing = Preprocessing(size=(5, 7), **settings_)
    whole = preprocessing.normalized(batch)
    alone = np.concatenate([preprocessing.normalized(batch[i : i + 1]) for i in range(9)])
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_array_equal(preprocessing.normalized(batch[::-1])[::-1], whole)


def test_normalised_needs_uint8_pixels():
    with pytest.raises(PreprocessingError, match=r"uint8 of shape \(N, H, W, 3\); these are float64"):
        Preprocessing(size=2).normalized(np.zeros((1, 2, 2, 3)))
    with pytest.raises(PreprocessingError, match="of shape"):
        Preprocessing(size=2).normalized(np.zeros((1, 3, 2, 2), np.uint8))


def test_calling_decodes_resizes_and_normalises(encode):
    preprocessing = Preprocessing(size=4, **IMAGENET)
    pictures = [image(4, 4, 1), encode(image(4, 4, 1)), np.asarray(image(4, 4, 1))]
    found = preprocessing(pictures)
    assert found.shape == (3, 3, 4, 4)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[:1], preprocessing.normalized(np.asarray(image(4, 4, 1))[None]))
    assert preprocessing([]).shape == (0, 3, 4, 4)
    with pytest.raises(ImageError, match="limit of 15"):
        preprocessing(pictures, max_pixels=15)


ALL = [
    Preprocessing(size=32),
    Preprocessing(size=(4, 6), resize=(8, 6), interpolation="lanczos", **IMAGENET),
    Preprocessing(size=224, resize=256, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1)),
    Preprocessing(size=32, standardize=True),
]


@pytest.mark.parametrize("preprocessing", ALL)
def test_writing_and_reading(tmp_path, preprocessing):
    text = json.dumps(preprocessing.to_dict(), allow_nan=False)
    assert Preprocessing.from_dict(json.loads(text)) == preprocessing
    preprocessing.save(tmp_path / "p.json")
    preprocessing.save(tmp_path / "p.json")
    assert Preprocessing.load(tmp_path / "p.json") == preprocessing
    assert pickle.loads(pickle.dumps(preprocessing)) == preprocessing


def test_equality_and_hash():
    assert len(set(ALL)) == len(ALL)
    assert hash(Preprocessing(size=32)) == hash(Preprocessing(size=[32, 32]))
    assert Preprocessing(size=32, resize=(32, 32)) == Preprocessing(size=(32, 32))
    assert Preprocessing(size=32, std=[1, 1, 1]) == Preprocessing(size=32)
    assert Preprocessing(size=32, resize=32) != Preprocessing(size=32)  # the shorter side, not both


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sise": 3}, "unknown key 'sise'.*known: size, resize"),
        ({"size": None}, r"size is None; it must be \[height, width\]"),
        ({"size": [32]}, "size is"),
        ({"size": [32, 32, 3]}, "size is"),
        ({"size": [32, 0]}, "size holds 0"),
        ({"size": [32, 32.0]}, "size holds 32.0"),
        ({"size": True}, "size"),
        ({"size": [True, 32]}, "size holds True"),
        ({"size": [10**9, 32]}, "size holds 1000000000"),
        ({"size": "32"}, "size is '32'"),
        ({"resize": 31}, "resize is 31, less than size .*padding"),
        ({"resize": [64, 31]}, "resize is"),
        ({"resize": "64"}, "resize holds '64'"),
        ({"resize": 64.5}, "resize holds 64.5"),
        ({"resize": {"a": 1}}, "resize holds"),
        ({"interpolation": "linear"}, "interpolation is 'linear'; choose from: nearest"),
        ({"interpolation": ["bilinear"]}, "interpolation is"),
        ({"mean": 0.5}, "mean is 0.5; it must be three numbers"),
        ({"mean": [0.5, 0.5]}, "mean is"),
        ({"mean": [0.5, 0.5, "0.5"]}, "mean holds '0.5'"),
        ({"mean": [0.5, 0.5, None]}, "mean holds None"),
        ({"mean": [0.5, 0.5, float("nan")]}, "mean holds nan"),
        ({"mean": [0.5, 0.5, 10**400]}, "mean holds 1000"),
        ({"std": [1, 1, float("inf")]}, "std holds inf"),
        ({"std": [1, 0, 1]}, "std is .*greater than 0"),
        ({"std": [1, -1, 1]}, "std is .*greater than 0"),
        ({"standardize": 1}, "standardize is 1; it must be true or false"),
        ({"standardize": True, "mean": [0.5, 0.5, 0.5]}, "takes the place of mean and std"),
        ({"standardize": True, "std": [0.5, 0.5, 0.5]}, "takes the place of mean and std"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(change, message):
    with pytest.raises(PreprocessingError, match=message):
        Preprocessing.from_dict({"size": [32, 32]} | change)


def test_reading_what_is_no_preprocessing(tmp_path):
    with pytest.raises(PreprocessingError, match='"size" is missing'):
        Preprocessing.from_dict({})
    with pytest.raises(PreprocessingError, match="a JSON object, not list"):
        Preprocessing.from_dict([])
    with pytest.raises(PreprocessingError, match=r"none\.json cannot be read: No such file"):
        Preprocessing.load(tmp_path / "none.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(PreprocessingError, match="is not JSON"):
        Preprocessing.load(tmp_path / "deep.json")
    for content, message in (
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"size": 0}', r"p\.json: size"),
    ):
        (tmp_path / "p.json").write_bytes(content)
        with pytest.raises(PreprocessingError, match=message):
            Preprocessing.load(tmp_path / "p.json")


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ALL[0].size = (1, 1)


def test_neither_torch_nor_pyarrow_is_needed():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'timm', 'pyarrow')));"
        "import numpy as np; from normgate.data.preprocessing import Preprocessing;"
        "print(Preprocessing(size=4)([np.zeros((8, 8, 3), np.uint8)]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 3, 4, 4)"


@pytest.mark.parametrize(
    ("resize", "said"),
    [
        (None, "30 × 20 pixels: whole images, squashed to that"),
        ((40, 50), "30 × 20 pixels: whole images, squashed to 50 × 40, and the middle is taken"),
        (36, "30 × 20 pixels: the middle of an image whose shorter side is brought to 36"),
    ],
)
def test_what_of_an_image_is_seen(resize, said):
    assert Preprocessing((20, 30), resize=resize).in_words == said


def test_means_are_of_pixels_from_0_to_1():
    with pytest.raises(PreprocessingError, match="pixels from 0 to 1: divide mean and std by 255"):
        Preprocessing((8, 8), mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
    with pytest.raises(PreprocessingError, match=r"pixels from 0 to 1$"):
        Preprocessing((8, 8), mean=(0.5, -0.1, 0.5))
