"""What a file holds, by its name: an image, a table of images or a tar of images."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["images", "tables", "shards"]

KINDS: tuple[Kind, ...] = ("images", "tables", "shards")
"""All of them; where a folder holds several, the first of these is meant."""

IMAGE_EXTENSIONS = (
    frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"})
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpx", ".avif", ".avifs"}
    # These cannot be decoded; they are listed so that they end as errors and are not passed over in silence.
    | {".heic", ".heif", ".jxl", ".ico", ".tga", ".psd"}
)
_TABLE_EXTENSIONS = frozenset({".parquet", ".pq"})
_SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")


def kind_of(name: str) -> Kind | None:
    """The kind of a file of this name; None for any other file."""
    extension = PurePosixPath(name).suffix.lower()
    if extension in IMAGE_EXTENSIONS:
        return "images"
    if extension in _TABLE_EXTENSIONS:
        return "tables"
    return "shards" if name.lower().endswith(_SHARD_ENDINGS) else None
