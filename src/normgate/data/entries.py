"""What is in a folder, here or elsewhere."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from normgate.data.names import utf8_name
from normgate.data.patience import patiently, reason
from normgate.data.remote import RemoteFile
from normgate.data.sources import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable

Place: TypeAlias = Path | RemoteFile
"""A file or folder, here or elsewhere."""


class Entry(Protocol):
    """A file or a folder in a folder."""

    @property
    def name(self) -> str:
        """In valid UTF-8."""
        ...

    @property
    def place(self) -> Place:
        """Where it is."""
        ...

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder or a link to one."""
        ...

    @property
    def is_file(self) -> bool:
        """Whether it is a file or a link, even to nothing: that is a file that cannot be read."""
        ...


def visible_entries(folder: Place) -> list[Entry]:
    """What is in a folder and not hidden, sorted so that walking it in this order sorts whole paths.

    Raises:
        SourceError: the folder cannot be read.
    """
    found: Iterable[Entry] = _here(folder) if isinstance(folder, Path) else _elsewhere(folder)
    return sorted(found, key=lambda entry: entry.name + ("/" if entry.is_folder else ""))


def identity(folder: Place) -> tuple[int, int] | None:
    """What tells a folder here from every other, whatever links lead to it; None elsewhere, where none are followed.

    Raises:
        OSError: it is gone.
    """
    if not isinstance(folder, Path):
        return None
    status = folder.stat()
    return status.st_dev, status.st_ino


class _Local:
    """An entry here, no larger than what the system gives, since a folder may hold millions."""

    __slots__ = ("_entry",)

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self._entry = entry

    @property
    def name(self) -> str:
        return utf8_name(self._entry.name)

    @property
    def place(self) -> Path:
        return Path(self._entry.path)

    @property
    def is_folder(self) -> bool:
        try:
            return self._entry.is_dir()
        except OSError:  # a link to itself, for one
            return False

    @property
    def is_file(self) -> bool:
        try:
            return self._entry.is_symlink() or self._entry.is_file()
        except OSError:
            return True


@dataclasses.dataclass(frozen=True, slots=True)
class _Remote:
    """An entry elsewhere."""

    name: str
    place: RemoteFile
    is_folder: bool

    @property
    def is_file(self) -> bool:
        return not self.is_folder


def _here(folder: Path) -> list[_Local]:
    try:
        with os.scandir(folder) as found:
            return [_Local(entry) for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{utf8_name(folder)} cannot be read: {error.strerror or error}") from error


def _elsewhere(folder: RemoteFile) -> Iterable[_Remote]:
    fs = folder.fs
    try:
        # File systems keep listings, which may be old by now; and ours may be large.
        fs.invalidate_cache(folder.path)
        found = patiently(lambda: fs.ls(folder.path, detail=True))
        fs.invalidate_cache(folder.path)
    except Exception as error:
        raise SourceError(f"{folder} cannot be read: {reason(error)}") from error
    own = folder.path.strip("/")
    entries: dict[tuple[str, bool], _Remote] = {}
    for about in found:
        path = str(about["name"])
        inner = path.strip("/")
        # Stores also list the folder itself, and web pages whatever they link to.
        below = inner.removeprefix(own).removeprefix("/") if inner.startswith(f"{own}/") or not own else ""
        if not below or "/" in below or below.startswith(".") or (folder.is_http and "?" in below):
            continue
        place = RemoteFile(fs, path, _size(about))
        is_folder = about["type"] == "directory"
        entries[place.name, is_folder] = _Remote(place.name, place, is_folder)
    return entries.values()


def _size(about: dict[str, Any]) -> int | None:
    size = about.get("size")
    return int(size) if isinstance(size, int) and about["type"] == "file" else None
