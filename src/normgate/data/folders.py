"""Images in folders and lists of paths."""

from __future__ import annotations

import os
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING

from normgate.data.addresses import find, is_address, local_path
from normgate.data.decoding import ImageError
from normgate.data.fetching import fetchers
from normgate.data.listing import Files, Listing, Named, files_at, is_empty, root_here
from normgate.data.names import utf8_name
from normgate.data.patience import shown
from normgate.data.sources import NoLabelsError, Record, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import BufferedReader, BytesIO

_CHUNK = 65536


class ClassFolder:
    """Labelled images: `root/<class>/**/image`.

    Classes are the folders in root, sorted. Hidden files and folders do not count; files without an image's
    extension, and files in root itself, are left out and counted in `skipped`.

    Args:
        root: the folder, or a listing of one; where a pattern chooses its files, folders that it does not reach are no
            classes.

    Raises:
        SourceError: root is no folder, holds no folder, or one of them holds no image.
    """

    place: str | None = None

    def __init__(self, root: str | os.PathLike[str] | Files) -> None:
        listed = Listing(Path(root)) if isinstance(root, str | os.PathLike) else root
        self.root = root_here(listed)
        wanted = f"labelled images are wanted as {listed.root}/<class>/<image>: one folder a class"
        if self.root is not None and not self.root.is_dir():
            raise NoLabelsError(f"{self.root} is not a folder; {wanted}")
        self._folders, self._loose = listed.folders()
        if not self._folders:
            raise NoLabelsError(f"{listed.root} holds no class folders; {wanted}")
        with fetchers() as pool:  # elsewhere each folder is a request
            found = dict(zip(self._folders, pool.map(is_empty, self._folders.values()), strict=True))
        empty = [name for name, nothing in found.items() if nothing]
        if isinstance(listed, Listing) and listed.pattern is not None and len(empty) < len(found):
            self._folders = {name: files for name, files in self._folders.items() if not found[name]}
        elif empty:
            raise SourceError(
                f"{len(empty)} of the {len(self._folders)} class folders of {listed.root} hold no image: "
                f"{', '.join(empty[:8])}{', …' if len(empty) > 8 else ''}; fill or remove them"
            )
        self.classes: tuple[str, ...] | None = tuple(self._folders)
        self.skipped = 0

    def __iter__(self) -> Iterator[Record]:
        """Class by class, each in the order of its ids."""
        for name, files in self._folders.items():
            for relative, payload in files:
                yield Record(f"{name}/{relative}", payload, label=name)
        self.skipped = self._loose + sum(files.skipped for files in self._folders.values())

    def __len__(self) -> int:
        return sum(files.count() for files in self._folders.values())


class FlatFolder:
    """Unlabelled images: all files with an image's extension in a folder and those in it, or a single file.

    Hidden files and folders do not count; other files are left out and counted in `skipped`. A folder further
    down that cannot be read is a record that cannot be decoded.

    Args:
        root: the folder, the file, or a listing.

    Raises:
        SourceError: root cannot be read or holds no image.
    """

    place: str | None = None

    def __init__(self, root: str | os.PathLike[str] | Files) -> None:
        self._files = files_at(root, "images")
        self.root = root_here(self._files)
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0
        if is_empty(self._files):
            others = f" among its {self._files.skipped} files" if self._files.skipped else ""
            raise SourceError(f"{self._files.root} holds no image{others} (by extension: .jpg, .png, .webp, .tif, …)")

    def __iter__(self) -> Iterator[Record]:
        """In the order of the ids."""
        for name, payload in self._files:
            yield Record(name, payload)
        self.skipped = self._files.skipped

    def __len__(self) -> int:
        found = self._files.count()
        self.skipped = self._files.skipped
        return found

    @property
    def is_one_file(self) -> bool:
        """Whether it is a single file that was named, and no folder or pattern."""
        return isinstance(self._files, Named) and self._files.count() == 1

    def would_list(self, folder: Path) -> bool:
        """Whether images that are put into a folder would be listed, too."""
        folder = folder.resolve()
        if self.root is None or not isinstance(self._files, Listing) or not folder.is_relative_to(self.root.resolve()):
            return False
        pattern = self._files.pattern
        for name in folder.relative_to(self.root.resolve()).parts:
            inside = None if pattern is None else pattern.inside(name)
            if name.startswith(".") or (pattern is not None and inside is None):
                return False
            pattern = inside
        return True


class PathList:
    """Unlabelled images by their paths or addresses, which are also their ids, in the order given.

    Args:
        paths: a collection, or an iterator such as the lines of a pipe, which can be run through once only.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.paths = paths
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0

    @property
    def place(self) -> str | None:
        """What the paths are relative to, since not all of them may be known; None in a folder that is gone."""
        try:
            return f"paths in {utf8_name(Path.cwd())}"
        except OSError:
            return None

    def __iter__(self) -> Iterator[Record]:
        """In the order given."""
        for path in self.paths:
            yield path_record(path)

    def __len__(self) -> int:
        if not isinstance(self.paths, Sized):
            raise TypeError("the number of paths is not known before they have come")
        return len(self.paths)


def listed_names(stream: BufferedReader | BytesIO) -> Iterator[bytes]:
    """Names one a line, or each ended by NUL as of `find -print0`, as soon as they come; empty ones do not count.

    Args:
        stream: buffered, such as standard input.
    """
    rest, end = b"", None
    while chunk := stream.read1(_CHUNK):
        rest += chunk
        # NUL first: a name may hold line breaks, and none holds NUL.
        end = end or next((mark for mark in (b"\0", b"\n") if mark in rest), None)
        if end is not None:
            *names, rest = rest.split(end)
            yield from _not_empty(names, end)
    yield from _not_empty([rest], end)


def _not_empty(names: Iterable[bytes], end: bytes | None) -> Iterator[bytes]:
    if end == b"\0":
        return (name for name in names if name)
    return (name.rstrip(b"\r") for name in names if name.strip())


def path_record(path: str | os.PathLike[str], label: str | None = None, group: str | None = None) -> Record:
    """The record of an image file that is named by itself."""
    if isinstance(path, str) and is_address(path):
        name = utf8_name(shown(path))
        try:
            return Record(name, find(path), label, group)
        except SourceError as error:
            return Record(name, ImageError(str(error)), label, group)
    here = Path(local_path(path) if isinstance(path, str) else path)
    return Record(utf8_name(here.as_posix()), here, label, group)
