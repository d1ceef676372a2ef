"""Images in folders and lists of paths."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING

from normgate.data.listing import PARQUET_EXTENSIONS, Listing, is_folder, visible_entries
from normgate.data.names import utf8_name
from normgate.data.sources import NoLabelsError, Record, SourceError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator


class ClassFolder:
    """Labelled images: `root/<class>/**/image`.

    Classes are the folders in root, sorted. Hidden files and folders do not count; files without an image's
    extension, and files in root itself, are left out and counted in `skipped`.

    Raises:
        SourceError: root is no folder, holds no folder, or one of them holds no image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        wanted = f"labelled images are wanted as {self.root}/<class>/<image>: one folder a class"
        if not self.root.is_dir():
            raise NoLabelsError(f"{self.root} is not a folder; {wanted}")
        entries = visible_entries(self.root)
        self._folders = {utf8_name(entry.name): Listing(Path(entry.path)) for entry in entries if is_folder(entry)}
        if not self._folders:
            raise NoLabelsError(f"{self.root} holds no class folders; {wanted}")
        empty = [name for name, listing in self._folders.items() if listing.is_empty()]
        if empty:
            raise SourceError(
                f"{len(empty)} of the {len(self._folders)} class folders of {self.root} hold no image: "
                f"{', '.join(empty[:8])}{', …' if len(empty) > 8 else ''}; fill or remove them"
            )
        self.classes: tuple[str, ...] | None = tuple(self._folders)
        self.skipped = 0
        self._loose = len(entries) - len(self._folders)

    def __iter__(self) -> Iterator[Record]:
        """Class by class, each in the order of its ids."""
        for name, listing in self._folders.items():
            for relative, payload in listing:
                yield Record(f"{name}/{relative}", payload, label=name)
        self.skipped = self._loose + sum(listing.skipped for listing in self._folders.values())

    def __len__(self) -> int:
        return sum(listing.count() for listing in self._folders.values())


class FlatFolder:
    """Unlabelled images: all files with an image's extension in a folder and those in it, or a single file.

    Hidden files and folders do not count; other files are left out and counted in `skipped`. A folder further
    down that cannot be read is a record that cannot be decoded.

    Raises:
        SourceError: root cannot be read or holds no image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.place = str(self.root.absolute())
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0
        self._listing = Listing(self.root) if self.root.is_dir() else None
        if self._listing is not None and self._listing.is_empty():
            others = f" among its {self._listing.skipped} files" if self._listing.skipped else ""
            raise SourceError(f"{self.root} holds no image{others} (by extension: .jpg, .png, .webp, .tif, …)")

    def __iter__(self) -> Iterator[Record]:
        """In the order of the ids."""
        if self._listing is None:
            yield Record(utf8_name(self.root.name), self.root)
            return
        for name, payload in self._listing:
            yield Record(name, payload)
        self.skipped = self._listing.skipped

    def __len__(self) -> int:
        if self._listing is None:
            return 1
        found = self._listing.count()
        self.skipped = self._listing.skipped
        return found


class PathList:
    """Unlabelled images by their paths, which are also their ids, in the order given.

    Args:
        paths: a collection, or an iterator such as the lines of a pipe, which can be run through once only.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.paths = paths
        self.place = "paths"
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0

    def __iter__(self) -> Iterator[Record]:
        """In the order given."""
        for path in self.paths:
            yield path_record(path)

    def __len__(self) -> int:
        if not isinstance(self.paths, Sized):
            raise TypeError("the number of paths is not known before they have come")
        return len(self.paths)


def path_record(path: str | os.PathLike[str], label: str | None = None, group: str | None = None) -> Record:
    """The record of an image file that is named by itself."""
    return Record(utf8_name(Path(path).as_posix()), Path(path), label, group)


def holds_parquet(folder: Path) -> bool:
    """Whether a folder holds Parquet files and no image."""
    return Listing(folder).is_empty() and not Listing(folder, PARQUET_EXTENSIONS).is_empty()
