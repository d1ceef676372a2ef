"""Fingerprints: the same for the same thing wherever it is, another for everything that changes features."""

from __future__ import annotations

import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

import normgate
from normgate.data.decoding import ImageError
from normgate.data.preprocessing import Preprocessing
from normgate.data.remote import RemoteFile
from normgate.evaluation import EvaluationError
from normgate.evaluation.fingerprints import file_mark, image_digest, settings
from normgate.extractor import FeatureExtractor
from normgate.taps import MagnitudeSpec
from samples import PREPROCESSING, small_network


def test_settings_hold_all_that_is_not_the_network() -> None:
    network = small_network()
    plain = settings(FeatureExtractor(network, PREPROCESSING), 100)
    assert settings(FeatureExtractor(network, PREPROCESSING), 100) == plain
    other = Preprocessing((8, 8), mean=(0.5, 0.5, 0.4), std=(0.25, 0.25, 0.25))
    found = [
        plain,
        settings(FeatureExtractor(network, PREPROCESSING), 101),
        settings(FeatureExtractor(network, other), 100),
        settings(FeatureExtractor(network, PREPROCESSING, magnitude=MagnitudeSpec("3")), 100),
        settings(FeatureExtractor(normgate.l2norm(small_network(), temperature=1.0), PREPROCESSING), 100),
        settings(FeatureExtractor(normgate.l2norm(small_network(), temperature=0.1), PREPROCESSING), 100),
    ]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_a_network_that_cannot_be_told_from_others_is_not_cached() -> None:
    network = small_network()
    network.stream = sys.stdout
    with pytest.raises(EvaluationError, match=r"told from others; .*--no-cache"):
        settings(FeatureExtractor(network, PREPROCESSING), 100)


def test_images_are_their_content(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b c.jpg").write_bytes(content)
    found = image_digest(content, 100)
    assert image_digest(tmp_path / "a.png", 100) == image_digest(str(tmp_path / "b c.jpg"), 100) == found
    assert image_digest(pixels, 100) == image_digest(Image.fromarray(pixels), 100) != found
    different = pixels.copy()
    different[0, 0, 0] ^= 1
    assert image_digest(different, 100) != image_digest(pixels, 100)
    elsewhere = RemoteFile(fsspec.filesystem("local"), str(tmp_path / "a.png"))
    assert image_digest(elsewhere, 100) == found
    assert file_mark(elsewhere) is None
    # What cannot be read is what is said of it.
    gone = RemoteFile(fsspec.filesystem("local"), str(tmp_path / "gone.png"))
    unreadable = [gone, tmp_path / "gone.png", tmp_path, "a\0b", ImageError("null"), pixels.astype(float)]
    assert len({image_digest(payload, 100) for payload in unreadable}) == len(unreadable)
    assert image_digest(pixels, 10) == image_digest(np.zeros((5, 6), np.uint8), 10)  # both too large


def test_a_file_that_is_written_to_has_another_mark(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert file_mark(path) is None
    path.write_bytes(b"1")
    before = file_mark(path)
    path.write_bytes(b"22")
    assert None is not before != file_mark(path)
    assert file_mark(b"1") is None
