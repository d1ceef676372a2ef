"""Decoding: any image that people have to an upright 8-bit RGB image, or an error that says why not.

What is done on purpose, and nothing else: EXIF orientation is applied; transparency is composited on white;
16-bit grey is scaled to 8 bits; CMYK, YCbCr, LAB and palettes become RGB as Pillow does it; of animations and
multi-page files the first frame is taken. Embedded ICC profiles are not applied.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import importlib
import os
import stat
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from normgate.data.names import utf8_name
from normgate.errors import NormgateError
from normgate.threads import process_wide

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_MAX_PIXELS = 100_000_000
MOST_BYTES = 128 * 2**20
"""An encoded image that has to be held in memory, because it comes from elsewhere or in a tar, may be this large."""

# Raster formats that Pillow reads by itself; none of them runs another program.
_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "PPM": "PpmImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "AVIF": "AvifImagePlugin",
}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


class ImageError(NormgateError):
    """One image cannot be used; the message does not repeat its id."""


class Fetchable(abc.ABC):
    """An image that is elsewhere."""

    __slots__ = ()

    @abc.abstractmethod
    def fetch(self) -> bytes:
        """The bytes of its file, anew at each call.

        Raises:
            ImageError: they cannot be had.
        """


Payload: TypeAlias = bytes | str | os.PathLike[str] | Image.Image | np.ndarray | Fetchable | ImageError


def decode(source: Payload, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode to an upright RGB image of 8 bits a channel.

    Args:
        source: encoded bytes, a path, a Pillow image (its current frame; left as it is), or a uint8 array of
            shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). A `Fetchable` is fetched first. An `ImageError` stands
            for an image that is known to be missing, and is raised.
        max_pixels: an image of more pixels is refused before they are decoded.

    Raises:
        ImageError: there is no such file, it is no image, it is damaged or truncated, or it is too large.
    """
    if isinstance(source, ImageError):
        raise ImageError(str(source))
    if isinstance(source, np.ndarray):
        return _finished(_from_array(source), max_pixels)
    if isinstance(source, Fetchable):
        source = source.fetch()
    with _pillows_limit_lifted():
        if isinstance(source, Image.Image):
            return _finished(source, max_pixels)
        if isinstance(source, bytes | bytearray | memoryview):
            return _from_file(BytesIO(source), max_pixels)
        if isinstance(source, str | os.PathLike):
            return _from_path(Path(source), max_pixels)
    raise ImageError(
        f"a {type(source).__name__} cannot be decoded; pass a path, encoded bytes, a Pillow image or a uint8 array"
    )


def declared_pixels(data: bytes) -> int:
    """Pixels of an encoded image as its header has it, and nothing is decoded; 0 where no header can be read."""
    try:
        with _pillows_limit_lifted():
            width, height = _opened(BytesIO(data)).size
    except ImageError:
        return 0
    return int(width * height)


DIGEST_BYTES = 16


def digest(image: Image.Image) -> bytes:
    """`DIGEST_BYTES` that are equal for images of equal size and RGB pixels, whatever file they came from."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    fingerprint = hashlib.blake2b(repr(image.size).encode(), digest_size=DIGEST_BYTES)
    fingerprint.update(image.tobytes())
    return fingerprint.digest()


@process_wide
@contextlib.contextmanager
def _pillows_limit_lifted() -> Iterator[None]:
    """Pillow's limit on pixels is off; `max_pixels` is checked instead.

    That limit is global, and warns before it refuses; warnings cannot be silenced in one thread alone.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _from_path(path: Path, max_pixels: int) -> Image.Image:
    try:
        name = utf8_name(path)
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name} is a folder, not an image")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise ImageError(f"{name} is not a regular file")
        file = path.open("rb")
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL character, or one that no file system takes
        raise ImageError(f"{str(path)!r} cannot be read: {error}") from error
    with file:
        return _from_file(file, max_pixels)


def _from_file(file: IO[bytes], max_pixels: int) -> Image.Image:
    return _finished(_opened(file), max_pixels)


def _opened(file: IO[bytes]) -> Any:
    try:
        prefix = file.read(16)
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror or error}") from error
    if not prefix:
        raise ImageError("the file is empty (0 bytes)")
    factory = _factory(prefix)
    if factory is None:
        raise ImageError(f"not an image in a format that is read ({', '.join(_PLUGINS)})")
    file.seek(0)
    try:
        return factory(file, "")
    except Exception as error:
        raise _damaged(error) from error


def _factory(prefix: bytes) -> Any:
    """The Pillow plugin that reads a file which begins so; like `Image.open`, but it tells what is wrong."""
    for name, plugin in _PLUGINS.items():
        if name not in Image.OPEN:
            try:
                importlib.import_module(f"PIL.{plugin}")
            except ImportError:  # an older Pillow without AVIF
                continue
        factory, accepts = Image.OPEN.get(name, (None, None))
        # A string instead of True says that this Pillow was built without the codec.
        if accepts is not None and accepts(prefix) is True:
            return factory
    return None


def _finished(image: Image.Image, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} × {height} pixels are more than the limit of {max_pixels:,}; "
            "raise max_pixels (--max-pixels) if the image is to be trusted"
        )
    if width * height == 0:
        raise ImageError(f"the image has no pixels ({width} × {height})")
    try:
        image.load()
        white = _full_scale(image)
        return _to_rgb(_upright(image), white)
    except ImageError:
        raise
    except Exception as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> ImageError:
    # Plugins raise whatever comes to hand on damaged files: OSError, SyntaxError, struct.error, IndexError, …
    if isinstance(error, MemoryError):
        return ImageError("there is not enough memory to decode the image")
    return ImageError(f"the image is damaged or truncated ({str(error).strip() or type(error).__name__})")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 (damaged metadata: the pixels are good, and viewers show them as they are)
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _full_scale(image: Image.Image) -> int | None:
    """White in an image of more than 8 bits; negative where 0 is white; None where it is not known."""
    file_format = getattr(image, "format", None)
    if file_format == "TIFF" and image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
        return (-1 if tags.get(_PHOTOMETRIC) == 0 else 1) * ((1 << bits) - 1)
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        return 65535
    return None


def _to_rgb(image: Image.Image, full_scale: int | None) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if full_scale is not None:
        return _from_deep_grey(image, full_scale).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError("32-bit pixels have no fixed range; convert the image to 8 or 16 bits a channel")
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        background = Image.new("RGB", rgba.size, "white")
        background.paste(rgba, mask=rgba.getchannel("A"))
        return background
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image, full_scale: int) -> Image.Image:
    values, white = np.asarray(image), abs(full_scale)
    levels = np.arange(1 << 16)
    table = ((levels * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    if full_scale < 0:
        table = 255 - table
    if (key := image.info.get("transparency")) is not None:
        table[levels == key] = 255
    grey = np.empty(values.shape, np.uint8)
    # Some rows at a time, since NumPy widens indices to 8 bytes each.
    step = max(1, (1 << 20) // values.shape[1])
    for row in range(0, len(values), step):
        grey[row : row + step] = table[values[row : row + step].clip(0, levels[-1])]
    return Image.fromarray(grey)


def _from_array(array: np.ndarray) -> Image.Image:
    shape = " × ".join(map(str, array.shape))
    if array.dtype != np.uint8:
        raise ImageError(
            f"the array is {array.dtype}, not uint8; pass uint8 pixels (H × W × 3, 0 to 255), "
            "or prepared batches with preprocessed=True"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; its channels come first: use array.transpose(1, 2, 0)"
        raise ImageError(f"an array of {shape} is not an image; pass H × W, H × W × 1, H × W × 3 or H × W × 4{hint}")
    if array.size == 0:
        raise ImageError(f"the image has no pixels ({shape})")
    return Image.fromarray(np.ascontiguousarray(array))
