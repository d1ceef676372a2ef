"""Preprocessing as data: how a decoded image becomes a network's input, run by Pillow and NumPy alone."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from normgate.data.decoding import DEFAULT_MAX_PIXELS, ImageError, Payload, decode
from normgate.errors import NormgateError
from normgate.files import whole_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_LARGEST_SIDE = 16_384
_LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)


class PreprocessingError(NormgateError):
    """A preprocessing cannot be read, or something cannot be written as one."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Geometry and numbers between a decoded RGB image and a network's input.

    An image is resized, cropped in the centre, divided by 255, and normalised by `(x − mean) / std`.

    Attributes:
        size: (H, W) of the network's input; a single number means a square.
        resize: what happens before the centre crop to `size`. None: the image is squashed to `size` itself,
            and nothing is cropped. A number R: the shorter side becomes R, the proportions stay. A pair (h,
            w): the image is squashed to it. At least as large as `size`, so that a crop never needs padding.
        interpolation: "nearest", "box", "bilinear", "bicubic" or "lanczos", as Pillow does it (with
            antialiasing).
        mean: one number a channel, for pixels from 0 to 1.
        std: one number a channel.
        standardize: normalise each image by its own mean and standard deviation over all pixels and channels
            instead, `(x − mean(x)) / max(std(x), 1/√(3HW))`, as TensorFlow's `per_image_standardization`
            does. It stands in the place of `mean` and `std`, which then must be left out (0 and 1).
    """

    size: tuple[int, int]
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    standardize: bool = False

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("size", (self.size, self.size) if isinstance(self.size, int) else _pair("size", self.size))
        if isinstance(self.resize, list | tuple):
            put("resize", _pair("resize", self.resize))
        for side in self.size:
            _check_side("size", side)
        _check_resize(self.resize, self.size)
        if self.resize == self.size:  # the same thing has one name, so that equal means equal
            put("resize", None)
        if not isinstance(self.interpolation, str) or self.interpolation not in INTERPOLATIONS:
            raise PreprocessingError(
                f"interpolation is {self.interpolation!r}; choose from: {', '.join(INTERPOLATIONS)}"
            )
        put("mean", _channels("mean", self.mean))
        if not 0 <= min(self.mean) <= max(self.mean) <= 1:
            fix = ": divide mean and std by 255" if max(self.mean) > 1 else ""
            raise PreprocessingError(f"mean is {list(self.mean)}; it is taken off pixels from 0 to 1{fix}")
        put("std", _channels("std", self.std))
        if min(self.std) <= 0:
            raise PreprocessingError(f"std is {list(self.std)}; each must be greater than 0")
        if not isinstance(self.standardize, bool):
            raise PreprocessingError(f"standardize is {self.standardize!r}; it must be true or false")
        if self.standardize and (any(self.mean) or set(self.std) != {1.0}):
            raise PreprocessingError("standardize takes the place of mean and std; leave them out")

    @property
    def in_words(self) -> str:
        """The input, and what of an image comes there."""
        height, width = self.size
        if not isinstance(self.resize, int):
            to = "that" if self.resize is None else f"{self.resize[1]} × {self.resize[0]}, and the middle is taken"
            return f"{width} × {height} pixels: whole images, squashed to {to}"
        return f"{width} × {height} pixels: the middle of an image whose shorter side is brought to {self.resize}"

    def resized(self, image: Image.Image) -> np.ndarray:
        """Resize and crop.

        Args:
            image: as `decode` gives it.

        Returns:
            uint8 pixels, (H, W, 3), which may be read-only.

        Raises:
            ImageError: the image is so long and thin that it would be huge with its shorter side resized.
        """
        if image.mode != "RGB":
            image = image.convert("RGB")
        height, width = self._resized_size(image)
        if height * width > max(DEFAULT_MAX_PIXELS, image.width * image.height):
            raise ImageError(f"an image of {image.width} × {image.height} pixels is too long and thin to be resized")
        if (width, height) != image.size:
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        if (height, width) != self.size:
            # torchvision's CenterCrop rounds so: halves to the even number.
            top, left = round((height - self.size[0]) / 2), round((width - self.size[1]) / 2)
            image = image.crop((left, top, left + self.size[1], top + self.size[0]))
        return np.asarray(image)

    def normalized(self, batch: np.ndarray) -> np.ndarray:
        """Pixels to the network's input. Each image is worked on by itself, so batching changes no bit.

        Args:
            batch: uint8, (N, H, W, 3).

        Returns:
            float32, (N, 3, H, W), contiguous; equal to the last bit to torchvision's `ToTensor` and
            `Normalize`.
        """
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
            raise PreprocessingError(
                f"pixels must be uint8 of shape (N, H, W, 3); these are {batch.dtype} of shape {batch.shape}"
            )
        n, height, width, _ = batch.shape
        out = np.empty((n, 3, height, width), np.float32)
        tables = self._tables()
        for pixels, planes in zip(batch, out, strict=True):
            if self.standardize:
                tables = [_standardized_levels(pixels)] * 3
            for channel, table in enumerate(tables):
                table.take(pixels[:, :, channel], out=planes[channel], mode="clip")
        return out

    def __call__(self, images: Iterable[Payload], max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
        """Decode, resize and normalise.

        Args:
            images: whatever `decode` takes.
            max_pixels: as in `decode`.

        Returns:
            float32, (N, 3, H, W).

        Raises:
            ImageError: an image cannot be used.
        """
        pixels = [self.resized(decode(image, max_pixels)) for image in images]
        return self.normalized(np.stack(pixels) if pixels else np.empty((0, *self.size, 3), np.uint8))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote.

        Raises:
            PreprocessingError: a key is unknown or missing, or a value makes no sense; the message names it.
        """
        if not isinstance(data, dict):
            raise PreprocessingError(f"a preprocessing is a JSON object, not {type(data).__name__}")
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [key for key in data if key not in known]:
            raise PreprocessingError(f"unknown key {unknown[0]!r} in a preprocessing; known: {', '.join(known)}")
        if "size" not in data:
            raise PreprocessingError('"size" is missing in a preprocessing: [height, width] of the network\'s input')
        return cls(**data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, in the place of an older file."""
        with whole_file(Path(path), overwrite=True) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Preprocessing:
        """Read a JSON file.

        Raises:
            PreprocessingError: there is no such file, it is no JSON, or as in `from_dict`.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise PreprocessingError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise PreprocessingError(f"{path} is not JSON: {error}") from error
        try:
            return cls.from_dict(data)
        except PreprocessingError as error:
            raise PreprocessingError(f"{path}: {error}") from error

    @classmethod
    def from_torchvision(cls, transform: Any, size: int | tuple[int, int] | None = None) -> Preprocessing:
        """Write a torchvision evaluation transform (v1, v2 or a weights preset) as data.

        Args:
            transform: `Compose` of Resize, CenterCrop, to-tensor steps and Normalize; or
                `weights.transforms()`.
            size: (H, W) of the images, where the transform has no Resize because they have it already.

        Raises:
            PreprocessingError: it holds a step that cannot be written so; the message names it.
        """
        from normgate.data.conversion import from_torchvision

        return from_torchvision(transform, size)

    @classmethod
    def from_timm(cls, config: Any) -> Preprocessing:
        """Write timm's evaluation preprocessing as data.

        Args:
            config: what `timm.data.resolve_data_config` gives, or a timm model (its `pretrained_cfg`).

        Raises:
            PreprocessingError: it cannot be written so; the message says why.
        """
        from normgate.data.conversion import from_timm

        return from_timm(config)

    def _resized_size(self, image: Image.Image) -> tuple[int, int]:
        """(h, w) before the centre crop."""
        if self.resize is None:
            return self.size
        if isinstance(self.resize, tuple):
            return self.resize
        width, height = image.size
        # Cut off, as torchvision does it.
        if width <= height:
            return int(self.resize * height / width), self.resize
        return self.resize, int(self.resize * width / height)

    def _tables(self) -> list[np.ndarray]:
        """The 256 values that a pixel of each channel can become."""
        return [(_LEVELS - np.float32(mean)) / np.float32(std) for mean, std in zip(self.mean, self.std, strict=True)]


def _standardized_levels(pixels: np.ndarray) -> np.ndarray:
    # From whole counts, mean and deviation come out the same whatever the order of summation.
    counts = np.bincount(pixels.ravel(), minlength=256)
    levels = np.arange(256)
    mean = int(counts @ levels) / pixels.size
    variance = float(counts @ (levels - mean) ** 2) / pixels.size
    deviation = max(math.sqrt(variance) / 255, 1 / math.sqrt(pixels.size))
    return ((levels - mean) / 255 / deviation).astype(np.float32)


def _pair(name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise PreprocessingError(f"{name} is {value!r}; it must be [height, width] in pixels")
    return value[0], value[1]


def _check_side(name: str, side: Any) -> None:
    if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= _LARGEST_SIDE:
        raise PreprocessingError(f"{name} holds {side!r}; a side must be a whole number from 1 to {_LARGEST_SIDE}")


def _check_resize(resize: Any, size: tuple[int, int]) -> None:
    if resize is None:
        return
    sides = resize if isinstance(resize, tuple) else (resize, resize)
    for side, needed in zip(sides, size, strict=True):
        _check_side("resize", side)
        if side < needed:
            raise PreprocessingError(
                f"resize is {resize}, less than size {list(size)}: a crop would need padding; make it larger"
            )


def _channels(name: str, values: Any) -> tuple[float, float, float]:
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise PreprocessingError(f"{name} is {values!r}; it must be three numbers, one a channel")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise PreprocessingError(f"{name} holds {value!r}; it must be three finite numbers")
    red, green, blue = map(float, values)
    return red, green, blue
