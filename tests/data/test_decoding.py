from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

from normgate.data.decoding import ImageError, declared_pixels, decode, digest

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"]
FORMATS += ["AVIF"] if features.check("avif") else []
OPEN_FILES = Path("/proc/self/fd")
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def pixels(source) -> np.ndarray:
    image = decode(source)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_decodes_as_pillow_does(encode, noise, file_format):
    data = encode(noise(9, 7, 3), file_format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(data), expected)


@pytest.mark.parametrize("file_format", FORMATS)
def test_one_pixel(encode, file_format):
    assert decode(encode(Image.new("RGB", (1, 1), RED), file_format)).size == (1, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(encode, noise, orientation):
    array = noise(4, 6, 3)
    turned = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: np.rot90(array, -1),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(array),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for file_format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encode(array, file_format, exif=exif)), turned)
    for file_format in ("JPEG", "WEBP"):
        assert pixels(encode(array, file_format, exif=exif)).shape == turned.shape


def test_damaged_metadata_leaves_the_pixels(encode, noise):
    data = encode(noise(4, 6, 3), "PNG", exif=b"Exif\0\0nonsense")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(pixels(data), noise(4, 6, 3))


def test_transparency_is_white(encode):
    half = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    expected = [[RED, WHITE, (127, 127, 127)]]
    np.testing.assert_array_equal(pixels(encode(half)), expected)
    np.testing.assert_array_equal(pixels(half), expected)
    np.testing.assert_array_equal(pixels(Image.fromarray(half).convert("RGBa")), expected)

    grey = Image.fromarray(half).convert("LA")
    np.testing.assert_array_equal(pixels(encode(grey))[0, 1:], expected[0][1:])

    palette = Image.new("P", (3, 1))
    palette.putpalette([*BLACK])
    palette.putalpha(grey.getchannel("A"))
    assert palette.mode == "PA"
    np.testing.assert_array_equal(pixels(palette)[0, 1:], expected[0][1:])


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_palettes(encode, file_format):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(pixels(encode(image, file_format)), [[RED, (0, 0, 255)]])
    np.testing.assert_array_equal(pixels(encode(image, file_format, transparency=0)), [[WHITE, (0, 0, 255)]])


def test_transparency_of_a_palette_in_degrees(encode):
    image = Image.new("P", (2, 1))
    image.putpalette([*BLACK, *RED])
    image.putpixel((1, 0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels(encode(image, transparency=bytes([128, 255])))
    np.testing.assert_array_equal(found, [[(127, 127, 127), RED]])


def test_a_transparent_colour(encode):
    rgb = np.array([[RED, (1, 2, 3)]], np.uint8)
    np.testing.assert_array_equal(pixels(encode(rgb, transparency=RED)), [[WHITE, (1, 2, 3)]])
    grey = np.array([[7, 9]], np.uint8)
    np.testing.assert_array_equal(pixels(encode(grey, transparency=7)), [[WHITE, (9, 9, 9)]])


def test_grey_and_bilevel(encode):
    np.testing.assert_array_equal(pixels(encode(np.array([[0, 100, 255]], np.uint8)))[0, :, 2], [0, 100, 255])
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(pixels(encode(image)), [[BLACK, WHITE]])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(encode, file_format):
    values = np.array([[0, 128, 129, 257, 32768, 65278, 65535]], np.uint16)
    if file_format == "PPM":  # which older versions of Pillow read and do not write
        found = pixels(b"P5\n7 1\n65535\n" + values.astype(">u2").tobytes())
    else:
        found = pixels(encode(Image.fromarray(values), file_format))
    np.testing.assert_array_equal(found[0, :, 0], [0, 0, 1, 1, 128, 254, 255])
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


def test_every_16_bit_grey_is_rounded_to_the_nearest_8_bit_one(encode):
    values = np.arange(1 << 16)
    expected = [(value * 255 + 32767) // 65535 for value in values.tolist()]
    for shape in ((256, 256), (1 << 16, 1), (1, 1 << 16)):
        found = pixels(encode(Image.fromarray(values.astype(np.uint16).reshape(shape)), "PNG"))
        np.testing.assert_array_equal(found[..., 1].ravel(), expected)


@pytest.mark.parametrize("file_format", FORMATS)
def test_pixels_that_a_header_declares(encode, noise, file_format):
    data = encode(noise(9, 7, 3), file_format)
    assert declared_pixels(data) == 63
    assert declared_pixels(data[:4]) == declared_pixels(b"") == declared_pixels(b"no image") == 0


def test_16_bit_grey_in_memory_and_in_any_byte_order():
    for order in ("<u2", ">u2"):
        values = np.array([[0, 32768, 65535]]).astype(order)
        np.testing.assert_array_equal(pixels(Image.fromarray(values))[0, :, 0], [0, 128, 255])


def test_16_bit_grey_with_a_transparent_value(encode):
    values = Image.fromarray(np.array([[1000, 65535, 0]], np.uint16))
    data = add_chunk(encode(values), b"tRNS", struct.pack(">H", 1000))
    np.testing.assert_array_equal(pixels(data)[0, :, 0], [255, 255, 0])


def test_tiff_where_zero_is_white(encode):
    values = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    data = encode(values, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(pixels(data)[0, :, 0], [255, 127, 0])


def test_12_bit_tiff_fills_the_range():
    samples = bytes([0xFF, 0xF8, 0x00])  # 4095, 2048
    data = tiff({256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1}, samples)
    np.testing.assert_array_equal(pixels(data)[0, :, 0], [255, 128])


def test_16_bit_rgb_png():
    row = b"\0" + struct.pack(">6H", 65535, 0, 257, 0, 65535, 32896)
    np.testing.assert_array_equal(pixels(png(2, 1, 16, 2, row)), [[(255, 0, 1), (0, 255, 128)]])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_pixels_are_refused_because_their_range_is_not_known(encode, dtype):
    data = encode(Image.fromarray(np.ones((2, 2), dtype)), "TIFF")
    with pytest.raises(ImageError, match="no fixed range; convert the image to 8 or 16 bits"):
        decode(data)


def test_cmyk_and_ycbcr(encode):
    red = Image.new("RGB", (8, 8), RED)
    found = pixels(encode(red.convert("CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(found, np.broadcast_to(RED, found.shape), atol=3)
    np.testing.assert_allclose(pixels(encode(red.convert("CMYK"), "TIFF"))[0, 0], RED, atol=1)
    np.testing.assert_allclose(pixels(red.convert("YCbCr"))[0, 0], RED, atol=2)
    np.testing.assert_array_equal(pixels(red.convert("HSV"))[0, 0], RED)


@pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow without littlecms2 cannot convert LAB")
def test_lab():
    np.testing.assert_allclose(pixels(Image.new("LAB", (2, 2), (255, 128, 128)))[0, 0], WHITE, atol=3)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_animations_give_their_first_frame(encode, file_format):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(first, file_format, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(pixels(data)[3, 3], RED)


def test_arrays(noise):
    array = noise(4, 5, 3)
    np.testing.assert_array_equal(pixels(array), array)
    np.testing.assert_array_equal(pixels(array[::2, ::-1]), array[::2, ::-1])
    np.testing.assert_array_equal(pixels(array[..., 0]), np.repeat(array[..., :1], 3, axis=2))
    np.testing.assert_array_equal(pixels(array[..., :1]), np.repeat(array[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3)), "float64, not uint8; pass uint8 pixels .* preprocessed=True"),
        (np.full((4, 4, 3), np.nan, np.float32), "float32, not uint8"),
        (np.zeros((4, 4), bool), "bool, not uint8"),
        (np.zeros((3, 4, 5), np.uint8), r"3 × 4 × 5 is not an image.*transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 2), np.uint8), "4 × 4 × 2 is not an image"),
        (np.zeros((2, 4, 4, 3), np.uint8), "2 × 4 × 4 × 3 is not an image"),
        (np.zeros(4, np.uint8), "array of 4 is not an image"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(ImageError, match=message):
        decode(array)


def test_a_pillow_image_is_left_as_it_is(encode, noise):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(encode(noise(4, 6, 3), exif=exif))) as image:
        assert decode(image).size == (4, 6)
        assert image.size == (6, 4)
        assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize("kind", [str, Path])
def test_files(tmp_path, encode, noise, kind):
    file = tmp_path / "no extension, ä\n.txt"
    file.write_bytes(encode(noise(4, 5, 3)))
    np.testing.assert_array_equal(pixels(kind(file)), noise(4, 5, 3))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match=r"missing\.png cannot be read: No such file"):
        decode(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder, not an image"):
        decode(tmp_path)
    for name in ("a\0b.png", "a\ud800b.png"):
        with pytest.raises(ImageError, match="cannot be read"):
            decode(name)
    with pytest.raises(ImageError, match=r"caf\\xe9\.png cannot be read"):  # messages go into tables of UTF-8
        decode(os.fsdecode(b"caf\xe9.png"))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        decode(tmp_path / "pipe.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    file = tmp_path / "secret.png"
    file.write_bytes(b"x")
    file.chmod(0)
    with pytest.raises(ImageError, match=r"secret\.png cannot be read: Permission denied"):
        decode(file)


def test_what_is_no_image():
    with pytest.raises(ImageError, match="empty"):
        decode(b"")
    for data in (b"x", b"hello, world, this is text", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(1000)):
        with pytest.raises(ImageError, match="not an image in a format that is read"):
            decode(data)
    with pytest.raises(ImageError, match="a NoneType cannot be decoded; pass a path"):
        decode(None)


def test_a_known_error_is_raised():
    with pytest.raises(ImageError, match="the row is null"):
        decode(ImageError("the row is null"))


@pytest.mark.parametrize("file_format", FORMATS)
def test_half_a_file_is_an_error(encode, noise, file_format):
    data = encode(noise(16, 16, 3), file_format)
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data[: len(data) // 2])


def test_size_is_checked_before_pixels_are_decoded(monkeypatch, encode):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    bomb = png(60_000, 50_000, 8, 2, b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="60000 × 50000 pixels are more than the limit of 100,000,000"):
            decode(bomb)
    with pytest.raises(ImageError, match="limit of 5"):
        decode(np.zeros((2, 3), np.uint8), max_pixels=5)


@pytest.mark.parametrize("file_format", FORMATS)
def test_pillows_own_limit_neither_warns_nor_stops(monkeypatch, encode, noise, file_format):
    data = encode(noise(8, 8, 3), file_format)
    expected = pixels(data)
    for limit in (40, 10):  # 64 pixels: a warning of Pillow's at the first, an error at the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(pixels(data), expected)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_pillows_limit_is_back_after_threads_and_errors(encode, noise):
    before = Image.MAX_IMAGE_PIXELS
    good, bad = encode(noise(64, 64, 3)), b"rubbish"

    def attempt(i: int) -> None:
        with contextlib.suppress(ImageError):
            decode(bad if i % 3 else good)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, range(200)))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("file_format", FORMATS)
def test_no_file_is_left_open(tmp_path, encode, noise, file_format):
    whole, half = tmp_path / "whole", tmp_path / "half"
    data = encode(noise(16, 16, 3), file_format)
    whole.write_bytes(data)
    half.write_bytes(data[: len(data) // 2])
    if not OPEN_FILES.is_dir():
        pytest.skip("open files cannot be counted on this system")
    before = len(list(OPEN_FILES.iterdir()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        image = decode(whole)
        with pytest.raises(ImageError):
            decode(half)
    assert len(list(OPEN_FILES.iterdir())) == before
    image.copy()


def test_digest_is_of_the_decoded_content(encode, noise):
    array = noise(6, 4, 3)
    reference = digest(decode(array))
    assert isinstance(reference, bytes)
    assert digest(decode(encode(array, "PNG"))) == digest(decode(encode(array, "BMP"))) == reference
    other = array.copy()
    other[5, 3, 2] ^= 1
    assert digest(decode(other)) != reference
    assert digest(decode(array.reshape(4, 6, 3))) != reference
    assert digest(Image.new("L", (2, 2), 7)) == digest(Image.new("RGB", (2, 2), (7, 7, 7)))


def samples() -> dict[str, bytes]:
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {file_format: (image, file_format, {}) for file_format in FORMATS} | {
        "rotated JPEG": (image, "JPEG", {"exif": exif}),
        "CMYK JPEG": (image.convert("CMYK"), "JPEG", {}),
        "palette PNG": (image.convert("P"), "PNG", {"transparency": 3}),
        "animated GIF": (
            image,
            "GIF",
            {"save_all": True, "append_images": [image.rotate(180)], "disposal": 2},
        ),
        "LZW TIFF": (image, "TIFF", {"compression": "tiff_lzw"}),
        "16-bit PNG": (Image.fromarray(array[..., 0].astype(np.uint16) * 257), "PNG", {}),
    }
    encoded = {}
    for name, (picture, file_format, options) in kinds.items():
        buffer = io.BytesIO()
        picture.save(buffer, file_format, **options)
        encoded[name] = buffer.getvalue()
    return encoded


SAMPLES = samples()


@given(
    name=st.sampled_from(sorted(SAMPLES)),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 3000),
)
@example(name="PNG", changes=[], length=3000)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_give_an_image_or_an_image_error(name, changes, length):
    data = bytearray(SAMPLES[name])
    for position, value in changes:
        data[position % len(data)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImageError):  # anything else fails the test
            image = decode(bytes(data[:length]), max_pixels=1_000_000)
            assert (image.mode, len(image.tobytes())) == ("RGB", 3 * image.width * image.height)


@given(st.binary(max_size=200), st.sampled_from(sorted(SAMPLES)))
@settings(max_examples=100, deadline=None)
def test_rubbish_after_a_good_beginning(rubbish, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImageError):  # anything else fails the test
            assert decode(SAMPLES[name][:16] + rubbish, max_pixels=1_000_000).mode == "RGB"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def add_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk(kind, content) + data[at:]


def tiff(tags: dict[int, int], samples: bytes) -> bytes:
    tags = dict(sorted((tags | {273: 0, 279: len(samples)}).items()))
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + samples
