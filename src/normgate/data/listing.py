"""Listing the files of a folder in the order of their ids, with little in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from normgate.data.decoding import ImageError
from normgate.data.names import utf8_name
from normgate.data.sources import SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

IMAGE_EXTENSIONS = (
    frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"})
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpx", ".avif", ".avifs"}
    # These cannot be decoded; they are listed so that they end as errors and are not passed over in silence.
    | {".heic", ".heif", ".jxl", ".ico", ".tga", ".psd"}
)
PARQUET_EXTENSIONS = frozenset({".parquet", ".pq"})


class Listing:
    """Files with certain extensions in a folder and the folders in it, as (id, path) in the order of the ids.

    Hidden files and folders do not count. Links are followed, unless back to a folder that holds them. A
    folder further down that cannot be read is listed as an `ImageError`.

    Attributes:
        skipped: other files that the last complete run came across.
    """

    def __init__(self, root: Path, extensions: Collection[str] = IMAGE_EXTENSIONS) -> None:
        self.root = root
        self.extensions = extensions
        self.skipped = 0

    def __iter__(self) -> Iterator[tuple[str, Path | ImageError]]:
        """Raises SourceError where the folder itself cannot be read."""
        self.skipped = 0
        yield from self._walk(self.root, "", ())

    def count(self) -> int:
        """Number of files listed."""
        return sum(1 for _ in self)

    def is_empty(self) -> bool:
        """Whether no file is listed."""
        return next(iter(self), None) is None

    def _walk(
        self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[str, Path | ImageError]]:
        try:
            entries = visible_entries(folder)
            status = folder.stat()
        except (SourceError, OSError) as error:
            if not prefix:
                raise
            yield prefix.removesuffix("/"), ImageError(str(error))
            return
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        for entry in entries:
            name = prefix + utf8_name(entry.name)
            if is_folder(entry):
                yield from self._walk(Path(entry.path), name + "/", (*above, identity))
            elif Path(entry.name).suffix.lower() in self.extensions and is_file(entry):
                yield name, Path(entry.path)
            else:
                self.skipped += 1


def visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, sorted so that walking it in this order sorts whole paths."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{utf8_name(folder)} cannot be read: {error.strerror or error}") from error
    return sorted(entries, key=lambda entry: utf8_name(entry.name) + ("/" if is_folder(entry) else ""))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or a link, even to nothing: that is a file that cannot be read."""
    try:
        return entry.is_symlink() or entry.is_file()
    except OSError:
        return True
