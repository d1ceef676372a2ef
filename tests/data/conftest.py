"""Images for the tests of the data package."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """Random uint8 pixels of a shape, always the same."""

    def make(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def encode() -> Encode:
    """An image, or an array of one, as the bytes of a file."""

    def make(image: Image.Image | np.ndarray, file_format: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(buffer, file_format, **options)
        return buffer.getvalue()

    return make


@pytest.fixture
def save(tmp_path: Path, noise: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Write a small image below `tmp_path`, its folders included."""

    def make(name: str, seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(4, 5, 3, seed=seed)).save(path, "PNG")
        return path

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Image packs that lie beside the repository on some machines."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the image packs in shared/data are not on this machine")
    return folder
