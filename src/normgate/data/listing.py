"""Listing files in the order of their ids, with little in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from normgate.data.decoding import ImageError
from normgate.data.entries import identity, visible_entries
from normgate.data.kinds import kind_of
from normgate.data.names import utf8_name
from normgate.data.sources import SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from normgate.data.entries import Place
    from normgate.data.kinds import Kind
    from normgate.data.patterns import Pattern


IMAGES: tuple[Kind, ...] = ("images",)


class Files(Protocol):
    """Files by their ids, as a stream that can be run through again and again.

    Attributes:
        root: the folder that the ids are relative to, or the one file.
        skipped: other files that the last complete run came across.
    """

    root: Place
    skipped: int

    def __iter__(self) -> Iterator[tuple[str, Place | ImageError]]:
        """Ids and files; an `ImageError` stands for a folder that cannot be read."""
        ...

    def count(self) -> int:
        """Number of files. TypeError where the listing would have to be asked for twice."""
        ...

    def of(self, kind: Kind) -> Files:
        """Those of one kind."""
        ...

    def folders(self) -> tuple[dict[str, Files], int]:
        """The folders in root, with what is meant in each; and the number of other things in root."""
        ...


class Listing:
    """Files of certain kinds in a folder and the folders in it, as (id, file) in the order of the ids.

    Hidden files and folders do not count. Links are followed, unless back to a folder that holds them. A
    folder further down that cannot be read is listed as an `ImageError`.

    Args:
        root: the folder.
        kinds: which files.
        pattern: what names below root have to match.

    Attributes:
        skipped: other files that the last complete run came across.
    """

    def __init__(self, root: Place, kinds: Collection[Kind] = IMAGES, pattern: Pattern | None = None) -> None:
        self.root = root
        self.kinds = kinds
        self.pattern = pattern
        self.skipped = 0

    def __iter__(self) -> Iterator[tuple[str, Place | ImageError]]:
        """Raises SourceError where the folder itself cannot be read."""
        self.skipped = 0
        yield from self._walk(self.root, "", self.pattern, ())

    def count(self) -> int:
        """Number of files listed; elsewhere it would take as long as the run itself, and is a TypeError."""
        if not isinstance(self.root, Path):
            raise TypeError("files elsewhere are counted as they come")
        return sum(1 for _ in self)

    def of(self, kind: Kind) -> Listing:
        """The files of one kind."""
        return Listing(self.root, (kind,), self.pattern)

    def folders(self) -> tuple[dict[str, Files], int]:
        """The folders in root, with what is meant in each; and the number of other things in root."""
        found = visible_entries(self.root)
        folders: dict[str, Files] = {}
        for entry in found:
            inside = None if self.pattern is None else self.pattern.inside(entry.name)
            if entry.is_folder and (self.pattern is None or inside is not None):
                folders[entry.name] = Listing(entry.place, self.kinds, inside)
        others = [entry for entry in found if not entry.is_folder]
        return folders, sum(1 for entry in others if self.pattern is None or self.pattern.matches(entry.name))

    def _walk(
        self, folder: Place, prefix: str, pattern: Pattern | None, above: tuple[tuple[int, int] | None, ...]
    ) -> Iterator[tuple[str, Place | ImageError]]:
        try:
            entries = visible_entries(folder)
            own = identity(folder)
        except (SourceError, OSError) as error:
            if not prefix:
                raise
            yield prefix.removesuffix("/"), ImageError(str(error))
            return
        if own is not None and own in above:
            return
        for entry in entries:
            name = prefix + entry.name
            if entry.is_folder:
                inside = None if pattern is None else pattern.inside(entry.name)
                if pattern is None or inside is not None:
                    yield from self._walk(entry.place, name + "/", inside, (*above, own))
            elif pattern is None or pattern.matches(entry.name):
                if entry.is_file and kind_of(entry.name) in self.kinds:
                    yield name, entry.place
                else:
                    self.skipped += 1


class Named:
    """Files that are named one by one; whether they are there shows when they are read.

    Args:
        root: the folder that their names are relative to, or the one file.
        files: ids and files.
    """

    def __init__(self, root: Place, files: Sequence[tuple[str, Place]]) -> None:
        self.root = root
        self.files = files
        self.skipped = 0

    def __iter__(self) -> Iterator[tuple[str, Place | ImageError]]:
        """In the order given."""
        return iter(self.files)

    def count(self) -> int:
        """Number of files."""
        return len(self.files)

    def of(self, kind: Kind) -> Named:
        """All of them: whoever names a file says what it is."""
        return self

    def folders(self) -> tuple[dict[str, Files], int]:
        """None: files by name are in no classes."""
        return {}, len(self.files)


def files_at(place: str | os.PathLike[str] | Files, kind: Kind) -> Files:
    """Files of one kind in a folder, a file of whatever kind, or what is listed already."""
    if not isinstance(place, str | os.PathLike):
        return place
    path = Path(place)
    return Listing(path, (kind,)) if path.is_dir() else Named(path, [(utf8_name(path.name), path)])


def root_here(files: Files) -> Path | None:
    """What the ids are relative to, where it is on this machine."""
    return files.root if isinstance(files.root, Path) else None


def is_empty(files: Files) -> bool:
    """Whether there is no file."""
    return next(iter(files), None) is None
