"""Small pictures of images, as data URIs."""

from __future__ import annotations

import base64
import io

from PIL import Image


def thumbnail(image: Image.Image, side: int) -> str:
    """A decoded image, at most `side` pixels wide and high, as a WebP data URI."""
    image = image.copy()  # what was decoded may be the caller's own
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
