"""Images in folders and lists of paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from normgate.data.decoding import ImageError
from normgate.data.sources import Record, SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

IMAGE_EXTENSIONS = frozenset(
    (
        *(
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".mpo",
            ".png",
            ".apng",
            ".webp",
            ".gif",
            ".bmp",
            ".dib",
            ".tif",
            ".tiff",
        ),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpx", ".jpc", ".avif", ".avifs"),
        # Images that cannot be decoded: listed, so that they appear as errors and are not passed over in silence.
        *(".heic", ".heif", ".jxl", ".ico", ".tga", ".psd"),
    )
)
PARQUET_EXTENSIONS = frozenset((".parquet", ".pq"))


class ClassFolder:
    """Labelled images: `root/<class>/**/image`.

    Classes are the folders in root, sorted. Hidden files and folders do not count; files without an image's
    extension, and files in root itself, are left out and counted in `skipped`.

    Raises:
        SourceError: root is no folder, holds no folder, or one of them holds no image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise SourceError(
                f"{self.root} is not a folder; labelled images are wanted as {_layout(self.root)}"
            )
        entries = _entries(self.root)
        folders = {utf8_name(entry.name): Path(entry.path) for entry in entries if entry.is_dir()}
        if not folders:
            raise SourceError(
                f"{self.root} holds no class folders; labelled images are wanted as {_layout(self.root)}"
            )
        empty = [name for name, folder in folders.items() if next(_images(folder), None) is None]
        if empty:
            raise SourceError(
                f"there is no image in {len(empty)} of the {len(folders)} class folders of {self.root}: "
                f"{', '.join(empty[:8])}{', …' if len(empty) > 8 else ''}; fill or remove them"
            )
        self.classes: tuple[str, ...] | None = tuple(folders)
        self.skipped = 0
        self._folders = folders
        self._loose = sum(not entry.is_dir() for entry in entries)

    def __iter__(self) -> Iterator[Record]:
        """Class by class, each in the order of its ids."""
        skipped = _Counter(self._loose)
        for name, folder in self._folders.items():
            for relative, payload in _images(folder, skipped):
                yield Record(f"{name}/{relative}", payload, label=name)
        self.skipped = skipped.count

    def __len__(self) -> int:
        return sum(1 for folder in self._folders.values() for _ in _images(folder))


class FlatFolder:
    """Unlabelled images: every file with an image's extension in a folder and the folders in it, or a single file.

    Hidden files and folders do not count; other files are left out and counted in `skipped`. A folder that
    cannot be read is a record that cannot be decoded. Links are followed, unless back to a folder that holds
    them.

    Raises:
        SourceError: root holds no image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0
        self._is_folder = self.root.is_dir()
        if self._is_folder and next(_images(self.root, others := _Counter()), None) is None:
            found = f" among its {others.count} files" if others.count else ""
            raise SourceError(f"{self.root} holds no image{found} (by extension: .jpg, .png, .webp, .tif, …)")

    def __iter__(self) -> Iterator[Record]:
        """In the order of the ids."""
        if not self._is_folder:
            yield Record(utf8_name(self.root.name), self.root)
            return
        skipped = _Counter()
        for relative, payload in _images(self.root, skipped):
            yield Record(relative, payload)
        self.skipped = skipped.count

    def __len__(self) -> int:
        return sum(1 for _ in _images(self.root)) if self._is_folder else 1


class PathList:
    """Unlabelled images by their paths, which are also their ids, in the order given.

    Args:
        paths: a collection, or an iterator such as the lines of a pipe, which can be run through once only.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.paths = paths
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0

    def __iter__(self) -> Iterator[Record]:
        """In the order given."""
        for path in self.paths:
            yield path_record(path)

    def __len__(self) -> int:
        if not hasattr(self.paths, "__len__"):
            raise TypeError("the number of paths is not known")
        return len(self.paths)  # type: ignore[arg-type]


def path_record(path: str | os.PathLike[str], label: str | None = None, group: str | None = None) -> Record:
    """The record of an image file that is named by itself."""
    return Record(utf8_name(Path(path).as_posix()), Path(path), label, group)


def holds_parquet(folder: Path) -> bool:
    """Whether a folder holds Parquet files and no image."""
    return next(_images(folder), None) is None and next(files(folder, PARQUET_EXTENSIONS), None) is not None


def files(
    folder: Path, extensions: Collection[str], skipped: _Counter | None = None
) -> Iterator[tuple[str, Path | ImageError]]:
    """Files with these extensions as (id, path), in the order of the ids; one folder's names in memory at a time."""
    yield from _walk(folder, "", (), extensions, skipped or _Counter())


class _Counter:
    def __init__(self, count: int = 0) -> None:
        self.count = count


class _Identity(NamedTuple):
    device: int
    inode: int


def _images(folder: Path, skipped: _Counter | None = None) -> Iterator[tuple[str, Path | ImageError]]:
    return files(folder, IMAGE_EXTENSIONS, skipped)


def _walk(
    folder: Path, prefix: str, above: tuple[_Identity, ...], extensions: Collection[str], skipped: _Counter
) -> Iterator[tuple[str, Path | ImageError]]:
    try:
        status = folder.stat()
        identity = _Identity(status.st_dev, status.st_ino)
        if identity in above:
            return
        entries = _entries(folder)
    except SourceError as error:
        yield prefix.rstrip("/") or ".", ImageError(str(error))
        return
    except OSError as error:
        yield prefix.rstrip("/") or ".", ImageError(f"{folder} cannot be read: {error.strerror or error}")
        return
    for entry in entries:
        relative = prefix + utf8_name(entry.name)
        if entry.is_dir():
            yield from _walk(Path(entry.path), relative + "/", (*above, identity), extensions, skipped)
        # A link to nothing is an image that cannot be read; a pipe or a socket is no image.
        elif Path(entry.name).suffix.lower() in extensions and (entry.is_file() or entry.is_symlink()):
            yield relative, Path(entry.path)
        else:
            skipped.count += 1


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, so sorted that walking it in this order sorts whole paths."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror or error}") from error
    return sorted(entries, key=lambda entry: utf8_name(entry.name) + ("/" if entry.is_dir() else ""))


def utf8_name(name: str) -> str:
    """A name in valid UTF-8, whatever bytes it has in the file system."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _layout(root: Path) -> str:
    return f"{root}/<class>/<image>: one folder a class"
