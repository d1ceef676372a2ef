"""Known confounders: how far norms follow contrast, brightness and fine texture instead of content."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.collapse.classes import CollapseError
from normgate.metrics.ties import real_numbers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from normgate.collapse.classes import Floats

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_BLOCK_PIXELS = 2**22


@dataclasses.dataclass(frozen=True)
class Correlation:
    """How norms go with a property of the images, from −1 to 1; None where one of the two does not vary.

    Attributes:
        pearson: of the values.
        spearman: of their ranks, ties sharing the mean of theirs.
    """

    pearson: float | None
    spearman: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def image_statistics(pixels: NDArray[np.uint8]) -> dict[str, Floats]:
    """Brightness, contrast and high-frequency energy of images, from their luminance Y in [0, 1].

    Args:
        pixels: (N, H, W, 3) uint8, as the network sees them (resized and cropped).

    Returns:
        (N,) arrays: `brightness` is the mean of Y, `contrast` its standard deviation, `high_frequency` the mean square
        of its discrete Laplacian (the four neighbours minus four times the pixel, borders repeated).

    Raises:
        CollapseError: these are no such pixels.
    """
    if not isinstance(pixels, np.ndarray):
        raise CollapseError(f"image statistics need (N, H, W, 3) uint8 pixels in an array, not {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape[1:]:
        raise CollapseError(f"image statistics need (N, H, W, 3) uint8 pixels, not {pixels.shape} {pixels.dtype}")
    statistics = {name: np.empty(len(pixels)) for name in ("brightness", "contrast", "high_frequency")}
    rows = max(1, _BLOCK_PIXELS // (pixels.shape[1] * pixels.shape[2]))
    for start in range(0, len(pixels), rows):
        block = slice(start, start + rows)
        luminance = (pixels[block].astype(np.float32) @ (_LUMA / 255)).astype(np.float64)
        padded = np.pad(luminance, ((0, 0), (1, 1), (1, 1)), mode="edge")
        laplacian = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
        laplacian -= 4 * luminance
        statistics["brightness"][block] = luminance.mean(axis=(1, 2))
        statistics["contrast"][block] = luminance.std(axis=(1, 2))
        statistics["high_frequency"][block] = np.square(laplacian).mean(axis=(1, 2))
    return statistics


def norm_correlations(norms: ArrayLike, statistics: Mapping[str, ArrayLike]) -> dict[str, Correlation]:
    """Correlate (N,) norms with each of the (N,) statistics of the same images.

    Raises:
        CollapseError: lengths differ, or a value is not finite.
        MetricError: these are no real numbers.
    """
    if not isinstance(statistics, Mapping):
        raise CollapseError(f"statistics are values by name: pass a dict of arrays, not a {type(statistics).__name__}")
    x = real_numbers(norms, "norms").astype(np.float64)
    correlations = {}
    for name, values in statistics.items():
        y = real_numbers(values, name).astype(np.float64)
        if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
            raise CollapseError(f"{name} needs one value for each norm: there are {y.shape} for {x.shape}")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise CollapseError(f"a norm or a value of {name} is NaN or infinite; leave those images out")
        correlations[name] = Correlation(_pearson(x, y), _pearson(_ranks(x), _ranks(y)))
    return correlations


def _pearson(x: Floats, y: Floats) -> float | None:
    if x.min() == x.max() or y.min() == y.max():
        return None
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.clip(x @ y, -1, 1))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1, ties sharing the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return ranks
