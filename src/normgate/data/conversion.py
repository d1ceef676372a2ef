"""Other libraries' evaluation transforms as `Preprocessing`; steps are recognised by name, none is run."""

from __future__ import annotations

import math
from typing import Any

from normgate.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, PreprocessingError

_KNOWN_MODULES = ("torchvision.transforms", "timm.data", "torch.nn.modules")
_CONTAINERS = ("Compose", "Sequential")
_NO_CHANGE = ("Identity", "RGB", "ToRGB", "ToPureTensor")
_UINT8_TENSOR = ("PILToTensor", "ToImage", "MaybePILToTensor")


def from_torchvision(transform: Any, size: int | tuple[int, int] | None = None) -> Preprocessing:
    """See `Preprocessing.from_torchvision`."""
    if _name(transform) == "ImageClassification":
        return Preprocessing(
            size=_size(transform.crop_size),
            resize=_resize(transform.resize_size),
            interpolation=_interpolation(transform.interpolation),
            mean=_numbers(transform.mean),
            std=_numbers(transform.std),
        )
    reading = _Reading()
    for step in _flattened(transform):
        reading.add(step)
    return reading.finished(size)


def from_timm(config: Any) -> Preprocessing:
    """See `Preprocessing.from_timm`."""
    if not isinstance(config, dict):
        config = getattr(config, "pretrained_cfg", None)
        if not isinstance(config, dict):
            raise PreprocessingError("neither a data configuration of timm nor a model with a pretrained_cfg")
    try:
        channels, height, width = config["input_size"]
    except (KeyError, TypeError, ValueError) as error:
        raise PreprocessingError("timm's configuration has no input_size of (3, height, width)") from error
    if channels != 3:
        raise PreprocessingError(f"the network takes {channels} channels; only RGB images can be prepared")
    # What timm falls back to where a configuration is silent.
    crop = config.get("crop_pct") or 0.875
    resize = math.floor(height / crop), math.floor(width / crop)
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise PreprocessingError(f"crop_mode {mode!r} pads images, which cannot be written as data")
    if mode == "center" and height != width:
        raise PreprocessingError(
            "a centre crop that is not square cannot be written as data; pass Preprocessing(…) yourself"
        )
    return Preprocessing(
        size=(height, width),
        resize=resize if mode == "squash" else resize[0],
        interpolation=_interpolation(config.get("interpolation") or "bicubic"),
        mean=_numbers(config.get("mean") or IMAGENET_MEAN),
        std=_numbers(config.get("std") or IMAGENET_STD),
    )


class _Reading:
    """Steps read so far: geometry first, then a tensor, then numbers."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.crop: tuple[int, int] | None = None
        self.stage = "image"

    def add(self, step: Any) -> None:
        name = _name(step)
        if name in _NO_CHANGE:
            return
        if name == "Resize":
            self._expect("image", "Resize", "of tensors is not Pillow's: put it before the conversion to a tensor")
            self._resize(step)
        elif name == "CenterCrop":
            if self.crop is not None or "resize" not in self.settings:
                raise _refused("CenterCrop", "without a single Resize before it")
            self.crop = _size(step.size)
        elif name in ("ToTensor", "MaybeToTensor"):
            self._expect("image", name, "must come once")
            self.stage = "float"
        elif name in _UINT8_TENSOR:
            self._expect("image", name, "must come once")
            self.stage = "uint8"
        elif name in ("ConvertImageDtype", "ToDtype"):
            self._expect("uint8", name, "must follow PILToTensor or ToImage")
            if str(step.dtype) != "torch.float32" or not getattr(step, "scale", True):
                raise _refused(name, "must convert to torch.float32 with scale=True")
            self.stage = "float"
        elif name == "Normalize":
            self._expect("float", name, "must come once, after the conversion to a float tensor")
            self.settings |= {"mean": _numbers(step.mean), "std": _numbers(step.std)}
            self.stage = "normalized"
        else:
            raise _refused(name, "is none of the steps that can be written as data")

    def finished(self, size: int | tuple[int, int] | None) -> Preprocessing:
        if self.stage not in ("float", "normalized"):
            raise PreprocessingError("the transform gives no float tensor; end it with ToTensor() and Normalize(…)")
        resize = self.settings.pop("resize", None)
        if self.crop is not None:
            return Preprocessing(size=self.crop, resize=resize, **self.settings)
        if isinstance(resize, int):
            raise _refused(
                f"Resize({resize})",
                f"alone gives images of many shapes; use Resize(({resize}, {resize})) or crop",
            )
        if resize is None and size is None:
            raise PreprocessingError("the transform has no Resize; say with size= how large the network's input is")
        return Preprocessing(size=_size(size if resize is None else resize), **self.settings)

    def _resize(self, step: Any) -> None:
        if "resize" in self.settings:
            raise _refused("Resize", "comes twice")
        if step.size is None or getattr(step, "max_size", None) is not None:
            raise _refused("Resize", "with max_size cannot be written as data")
        self.settings["resize"] = _resize(step.size)
        self.settings["interpolation"] = _interpolation(step.interpolation)

    def _expect(self, stage: str, name: str, reason: str) -> None:
        if self.stage != stage:
            raise _refused(name, reason)


def _flattened(transform: Any) -> list[Any]:
    if _name(transform) not in _CONTAINERS:
        return [transform]
    steps = transform.transforms if hasattr(transform, "transforms") else transform
    return [part for step in steps for part in _flattened(step)]


def _name(step: Any) -> str:
    kind = type(step)
    # A class of the user's own may bear the name of a known one and do something else.
    return kind.__name__ if kind.__module__.startswith(_KNOWN_MODULES) else f"{kind.__module__}.{kind.__qualname__}"


def _refused(name: str, reason: str) -> PreprocessingError:
    return PreprocessingError(
        f"the transform cannot be written as data: {name} {reason}; or pass Preprocessing(…) yourself"
    )


def _resize(size: Any) -> int | tuple[int, int]:
    sides = [size] if isinstance(size, int) else list(size)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _size(size: Any) -> tuple[int, int]:
    resize = _resize(size)
    return (resize, resize) if isinstance(resize, int) else resize


def _interpolation(mode: Any) -> str:
    return str(getattr(mode, "value", mode))


def _numbers(values: Any) -> tuple[float, float, float]:
    numbers = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(numbers) == 1:
        numbers = numbers * 3
    return tuple(float(number) for number in numbers)  # type: ignore[return-value]  # Preprocessing checks the length
