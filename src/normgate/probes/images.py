"""Synthetic outliers: pure functions from ID images to images that no longer show what the classes are about.

A probe is named `family/variant`. The families differ in what they leave of an image: nothing (noise, flat), its
colours and spectrum (scrambled), its parts but not their order (shuffled), parts of two things (blend), its shapes in
other light (light), with something on top (noisy), without detail (blurred), or in another pose (pose). They were
written down before any real outlier was looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from normgate.errors import NormgateError

Pixels: TypeAlias = NDArray[np.uint8]
"""(N, H, W, 3)."""

Probe: TypeAlias = Callable[[Pixels, Pixels, np.random.Generator], Pixels]
"""From images, and as many of another class, to outliers."""


class ProbeImageError(NormgateError):
    """Probes cannot be made of these images."""


def make(pixels: Pixels, classes: NDArray[np.int64], seed: int = 0) -> Iterator[tuple[str, Pixels]]:
    """Every probe of every image, one probe after another: all at once they may not fit into memory.

    Args:
        pixels: (N, H, W, 3) uint8 ID images of the network's input size.
        classes: (N,) their classes, by label or by prediction; blends take images of two classes.
        seed: of everything that is random.

    Yields:
        `family/variant` and (N, H, W, 3) uint8.

    Raises:
        ProbeImageError: there are no images, or they are not uint8 (N, H, W, 3).
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        raise ProbeImageError(
            f"probes are made of one or more uint8 images (N, H, W, 3), not of {pixels.dtype} {pixels.shape}"
        )
    partners = pixels[_partners(classes, np.random.default_rng([seed, 0]))]
    for number, (name, probe) in enumerate(PROBES.items(), start=1):
        yield name, probe(pixels, partners, np.random.default_rng([seed, number]))


def family(probe: str) -> str:
    """The family of a probe, by its name."""
    return probe.partition("/")[0]


def _partners(classes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each image a random one of another class; of any, where there is only one class."""
    rows = np.arange(len(classes))
    order = rng.permutation(len(classes))
    partners = np.empty_like(order)
    partners[order] = np.roll(order, 1)  # one round through all images: none is its own partner
    for label in np.unique(classes):
        others = rows[classes != label]
        if len(others):
            own = classes == label
            partners[own] = rng.choice(others, own.sum())
    return partners


def _bytes(values: NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _mean(pixels: Pixels) -> NDArray[np.float64]:
    """Each image's mean colour, (N, 1, 1, 3)."""
    return np.asarray(pixels.mean(axis=(1, 2), keepdims=True), dtype=np.float64)


def _uniform(pixels: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    return rng.integers(0, 256, pixels.shape, dtype=np.uint8)


def _gaussian(pixels: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Noise with each image's mean and deviation in each channel."""
    deviation = pixels.std(axis=(1, 2), keepdims=True)
    return _bytes(_mean(pixels) + deviation * rng.standard_normal(pixels.shape))


def _clouds(pixels: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Smooth noise: 4 × 4 random colours, interpolated."""
    height, width = pixels.shape[1:3]
    small = rng.integers(0, 256, (len(pixels), 4, 4, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(cell).resize((width, height), Image.Resampling.BICUBIC)) for cell in small]
    )


def _flat(colour: int | None) -> Probe:
    def probe(pixels: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
        colours = rng.integers(0, 256, (len(pixels), 1, 1, 3)) if colour is None else colour
        return np.broadcast_to(np.asarray(colours, np.uint8), pixels.shape).copy()

    return probe


def _own_colour(pixels: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    """Each image's mean colour and nothing else."""
    return np.broadcast_to(_bytes(_mean(pixels)), pixels.shape).copy()


def _noisy(deviation: float) -> Probe:
    """Gaussian noise of this standard deviation, as a share of 255, on top of the image."""

    def probe(pixels: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
        return _bytes(pixels + 255 * deviation * rng.standard_normal(pixels.shape))

    return probe


def _shuffled(grid: int) -> Probe:
    """The image cut into grid × grid patches, put together in random order; the edges that do not fit stay."""

    def probe(pixels: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
        n, height, width, _channels = pixels.shape
        h, w = max(height // grid, 1), max(width // grid, 1)
        rows, columns = min(grid, height), min(grid, width)
        out = pixels.copy()
        whole = pixels[:, : rows * h, : columns * w].reshape(n, rows, h, columns, w, 3)
        patches = whole.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * columns, h, w, 3)
        order = np.stack([rng.permutation(rows * columns) for _ in range(n)])
        mixed = patches[np.arange(n)[:, None], order].reshape(n, rows, columns, h, w, 3)
        out[:, : rows * h, : columns * w] = mixed.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * h, columns * w, 3)
        return out

    return probe


def _mixed(pixels: Pixels, partners: Pixels, _: np.random.Generator) -> Pixels:
    """Two images of different classes laid over one another."""
    return _bytes((pixels.astype(np.float64) + partners) / 2)


def _halves(pixels: Pixels, partners: Pixels, _: np.random.Generator) -> Pixels:
    """The left half of one image beside the right half of another class's."""
    out = pixels.copy()
    middle = pixels.shape[2] // 2
    out[:, :, middle:] = partners[:, :, middle:]
    return out


def _contrast(factor: float) -> Probe:
    def probe(pixels: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
        middle = pixels.mean(axis=(1, 2, 3), keepdims=True)
        return _bytes(middle + factor * (pixels - middle))

    return probe


def _inverted(pixels: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    return 255 - pixels


def _swapped(pixels: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    """Red becomes green, green blue, blue red."""
    return np.roll(pixels, 1, axis=3)


def _scrambled(pixels: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """The image's own spectrum with random phases, the same for all channels: its colours and texture, no shapes."""
    noise = np.fft.fft2(rng.standard_normal(pixels.shape[:3]), axes=(1, 2))
    phase = noise / np.maximum(np.abs(noise), 1e-12)
    phase[:, 0, 0] = 1  # the mean stays
    spectrum = np.fft.fft2(pixels.astype(np.float64), axes=(1, 2)) * phase[..., None]
    return _bytes(np.fft.ifft2(spectrum, axes=(1, 2)).real)


def _blurred(pixels: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    """A Gaussian blur over a sixteenth of the side."""
    blur = ImageFilter.GaussianBlur(max(pixels.shape[1:3]) / 16)
    return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in pixels])


def _coarse(pixels: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    """8 × 8 large pixels."""
    height, width = pixels.shape[1:3]
    side = (min(8, width), min(8, height))
    small = (Image.fromarray(image).resize(side, Image.Resampling.BOX) for image in pixels)
    return np.stack([np.asarray(image.resize((width, height), Image.Resampling.NEAREST)) for image in small])


def _turned(quarters: int) -> Probe:
    def probe(pixels: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
        height, width = pixels.shape[1:3]
        turned = np.rot90(pixels, quarters, axes=(1, 2))
        if turned.shape == pixels.shape:
            return turned.copy()
        return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in turned])

    return probe


def _near(pixels: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """A quarter of the image, anywhere in it, enlarged."""
    n, height, width, _channels = pixels.shape
    h, w = max(height // 2, 1), max(width // 2, 1)
    tops, lefts = rng.integers(0, height - h + 1, n), rng.integers(0, width - w + 1, n)
    parts = (
        Image.fromarray(image[top : top + h, left : left + w])
        for image, top, left in zip(pixels, tops, lefts, strict=True)
    )
    return np.stack([np.asarray(part.resize((width, height), Image.Resampling.BILINEAR)) for part in parts])


def _far(pixels: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    """The image at half its size, four times."""
    height, width = pixels.shape[1:3]
    size = (-(-width // 2), -(-height // 2))
    small = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in pixels])
    return np.tile(small, (1, 2, 2, 1))[:, :height, :width].copy()


PROBES: dict[str, Probe] = {
    "noise/uniform": _uniform,
    "noise/gaussian": _gaussian,
    "noise/clouds": _clouds,
    "flat/black": _flat(0),
    "flat/white": _flat(255),
    "flat/colour": _flat(None),
    "flat/own": _own_colour,
    "noisy/0.1": _noisy(0.1),
    "noisy/0.3": _noisy(0.3),
    "shuffled/2": _shuffled(2),
    "shuffled/4": _shuffled(4),
    "blend/mixed": _mixed,
    "blend/halves": _halves,
    "light/faint": _contrast(0.25),
    "light/harsh": _contrast(3),
    "light/inverted": _inverted,
    "light/swapped": _swapped,
    "scrambled/phase": _scrambled,
    "blurred/gaussian": _blurred,
    "blurred/coarse": _coarse,
    "pose/quarter": _turned(1),
    "pose/half": _turned(2),
    "pose/near": _near,
    "pose/far": _far,
}
