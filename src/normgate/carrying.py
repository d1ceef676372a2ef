"""Rejected files: copied or moved away from a screened source, and nothing that is not a file of it."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from normgate.data.decoding import ImageError
from normgate.data.folders import FlatFolder
from normgate.data.parquet import ParquetImages
from normgate.data.shards import TarImages
from normgate.errors import NormgateError
from normgate.files import beside, check_output, nearest_folder, sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from normgate.data.decoding import Payload
    from normgate.data.sources import Source

Action: TypeAlias = Literal["copy", "move"]


class CarryingError(NormgateError):
    """Rejected files cannot be copied or moved."""


class Carrier:
    """Names the files of a source as they are screened, and carries the rejected ones off at the end.

    Args:
        action: "copy" or "move".
        source: a folder or a list of files.
        destination: folder to carry them to; paths below the source's folder are kept, and of a list the whole paths.

    Raises:
        CarryingError: there is no such action, no destination, or the source holds no files of its own.
        OutputError: nothing can be written to the destination.
    """

    def __init__(self, action: Action, source: Source, destination: Path | None) -> None:
        if action not in ("copy", "move"):
            raise CarryingError(
                f"rejected files are left alone (None), copied ('copy') or moved ('move'), not {action!r}"
            )
        if destination is None:
            raise CarryingError(f"say where to {action} the rejected files")
        root: Path | None = getattr(source, "root", None)
        is_elsewhere = isinstance(source, FlatFolder) and root is None
        # Even the paths that a table may name belong to whoever made it.
        if is_elsewhere or isinstance(source, ParquetImages | TarImages):
            raise CarryingError(_NO_FILES)
        if isinstance(source, FlatFolder) and source.would_list(destination):
            raise CarryingError(
                f"{destination} lies in the folder that is screened, and would be screened with it the next time; name "
                "another one, or one whose name begins with a dot"
            )
        check_output(destination / "rejected", overwrite=True)
        self._action = action
        self._root = root
        self._home = self._root.resolve() if self._root is not None and self._root.is_dir() else None
        self._destination = destination

    def carry(self, paths: Iterable[Path]) -> None:
        """Carry the files of the rejected images; those that a run that was stopped has carried are.

        Raises:
            CarryingError: two would have one name, one is there already, its place is no folder, or one that is to be
                moved lies elsewhere, behind a link to a folder: then none is touched; or a file cannot be carried:
                those before it are.
        """
        places: dict[Path, Path] = {}
        copied: set[Path] = set()
        seen: set[Path] = set()
        for path in paths:
            own = path.parent.resolve() / path.name
            if own in seen:  # listed twice
                continue
            seen.add(own)
            if self._action == "move" and self._home is not None and not own.is_relative_to(self._home):
                raise CarryingError(
                    f"{path} lies in {own.parent}, where a link leads, and is not moved out of there; the table is "
                    "written, but no rejected file was touched: copy them instead (--copy-rejected), or screen that "
                    "folder itself"
                )
            place = self._destination / self._below(path)
            if os.path.lexists(place):
                if self._action == "move" and not os.path.lexists(path):
                    continue
                if _is_there(path, place):
                    copied.add(place)
            taken = os.path.lexists(place) and place not in copied
            if taken or places.setdefault(place, path) is not path or not nearest_folder(place.parent).is_dir():
                raise CarryingError(
                    f"{place} is taken; the table is written, but no rejected file was touched: name another folder "
                    f"than {self._destination}"
                )
        # A link first, while what it points to is still there.
        for place, path in sorted(places.items(), key=lambda item: not item[1].is_symlink()):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                if place not in copied:
                    if self._action == "move" and not path.is_symlink() and _renamed(path, place):
                        continue
                    _copy(path, place)
                if self._action == "move":
                    path.unlink()
            except OSError as error:
                raise CarryingError(
                    f"{path} cannot be carried to {place}: {error.strerror or error}; files before it are carried, the "
                    "others are where they were"
                ) from error

    def _below(self, path: Path) -> Path:
        if self._root is not None:
            return Path(path.name) if path == self._root else path.relative_to(self._root)
        return Path(*(part for part in path.parts if part not in (path.anchor, "..")))


def noted(payloads: Iterable[Payload]) -> bytes:
    """The files of some images, in order; nothing for a folder that cannot be read.

    Raises:
        CarryingError: an image has no file.
    """
    found = b""
    for payload in payloads:
        if not isinstance(payload, str | os.PathLike | ImageError):
            raise CarryingError(_NO_FILES)
        found += (b"" if isinstance(payload, ImageError) else os.fsencode(payload)) + b"\0"
    return found


def paths_of(notes: Iterable[bytes]) -> Iterator[Path]:
    """The inverse of `noted`, of many."""
    for note in notes:
        yield from (Path(os.fsdecode(name)) for name in note.split(b"\0")[:-1])


def _is_there(path: Path, place: Path) -> bool:
    """Whether a file was copied to its place before, by a run that was stopped."""
    try:
        return not place.is_symlink() and not place.samefile(path) and filecmp.cmp(path, place, shallow=False)
    except OSError:  # whatever it is, it is no copy
        return False


def _renamed(path: Path, place: Path) -> bool:
    """Rename a file; False where it would have to go to another file system."""
    try:
        path.rename(place)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    return True


def _copy(path: Path, place: Path) -> None:
    """Copy a file, which appears whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=beside(place.name), suffix=".partial", dir=place.parent)
    os.close(handle)
    partial = Path(name)
    try:
        shutil.copy2(path, partial)
        sync(partial)  # before anybody takes the original away
        partial.rename(place)
    finally:
        partial.unlink(missing_ok=True)


_NO_FILES = "only folders and lists of files on this machine have rejected files to copy or move; this source has none"
