"""Rejected files: copied or moved away from a screened source, and nothing that is not a file of it."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from normgate.data.decoding import ImageError
from normgate.data.folders import FlatFolder
from normgate.data.parquet import ParquetImages
from normgate.data.shards import TarImages
from normgate.errors import NormgateError, UnreadableWarning
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
        check_output(destination / ".rejected", overwrite=True)
        self._action = action
        self._root = root
        self._home = root.resolve() if root is not None and root.is_dir() else None
        self._destination = destination
        self._places: dict[Path, Path] = {}  # where files are to go, with where they are
        self._gone: list[Path] = []

    def noted(self, payloads: Iterable[Payload]) -> bytes:
        """The files of some images, in order, below the source's folder; nothing for a folder that cannot be read.

        Raises:
            CarryingError: an image has no file, or one that is not below the source's folder.
        """
        found = b""
        for payload in payloads:
            if not isinstance(payload, str | os.PathLike | ImageError):
                raise CarryingError(_NO_FILES)
            found += (b"" if isinstance(payload, ImageError) else os.fsencode(self._named(Path(payload)))) + b"\0"
        return found

    def check(self, names: Iterable[Path]) -> None:
        """Find out where the files of the rejected images are to go; those that an earlier run has carried are there.

        Args:
            names: of the files, as `noted` has them.

        Raises:
            CarryingError: two would have one name, one is there already, its place is no folder, or one that is to be
                moved lies elsewhere, behind a link to a folder.
        """
        seen: set[Path] = set()
        for name in names:
            path, place = self._path(name), self._destination / self._below(name)
            own = path.parent.resolve() / path.name
            if own in seen:  # listed twice
                continue
            seen.add(own)
            if _is_gone(path):
                self._gone += [] if os.path.lexists(place) else [path]
                continue
            if self._action == "move" and self._home is not None and not own.is_relative_to(self._home):
                raise CarryingError(
                    f"{path} lies in {own.parent}, where a link leads, and is not moved out of there; the table is "
                    "written, but no rejected file was touched: copy them instead (--copy-rejected), or screen that "
                    "folder itself"
                )
            taken = os.path.lexists(place) and not _is_there(path, place)
            if taken or self._places.setdefault(place, path) is not path or not nearest_folder(place.parent).is_dir():
                raise CarryingError(
                    f"{place} is taken; the table is written, but no rejected file was touched by this run: name "
                    f"another folder than {self._destination}"
                )

    def carry(self) -> None:
        """Carry the files that were checked; those that are nowhere any longer are pointed out.

        Raises:
            CarryingError: a file cannot be carried: those before it are.
        """
        links = {place: path for place, path in self._places.items() if path.is_symlink()}
        # Links first, while what they point to is still there, be it another link.
        for place, path in links.items():
            with _told(path, place):
                self._bring(path, place)
        for place, path in links.items() if self._action == "move" else ():
            with _told(path, place):
                path.unlink()
        for place, path in self._places.items():
            if place not in links:
                with _told(path, place):
                    self._carry(path, place)
        if self._gone:
            warnings.warn(
                f"{len(self._gone)} rejected files are no longer where they were screened, nor in {self._destination} "
                f"({self._gone[0]}{', …' if len(self._gone) > 1 else ''}): carried elsewhere before, or removed",
                UnreadableWarning,
                stacklevel=3,
            )

    def _carry(self, path: Path, place: Path) -> None:
        before = path.stat()
        if self._action == "move" and not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            if _renamed(path, place):
                return
        self._bring(path, place)
        if self._action == "move":
            now = path.stat()
            if (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size):
                raise OSError(errno.EBUSY, "it was changed while it was copied, and is not removed")
            path.unlink()

    def _bring(self, path: Path, place: Path) -> None:
        """See to it that a copy is there; asked anew is what another run may have changed since the check."""
        if not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, place)
        elif not _is_there(path, place):
            raise FileExistsError(errno.EEXIST, "another file is there by now")

    def _named(self, path: Path) -> Path:
        if self._root is None:
            return path
        if not path.is_relative_to(self._root) or ".." in (name := path.relative_to(self._root)).parts:
            raise CarryingError(f"{path} does not lie below {self._root}, and has no place of its own to be carried to")
        return name

    def _path(self, name: Path) -> Path:
        return name if self._root is None else self._root / name

    def _below(self, name: Path) -> Path:
        if self._root is None:
            return Path(*(part for part in name.parts if part not in (name.anchor, "..")))
        return name if name.parts else Path(self._root.name)


def names_of(notes: Iterable[bytes]) -> Iterator[Path]:
    """What `noted` has written, of many."""
    for note in notes:
        yield from (Path(os.fsdecode(name)) for name in note.split(b"\0")[:-1])


def _is_gone(path: Path) -> bool:
    """Whether nothing is there, or a link that leads nowhere."""
    try:
        return not path.exists()
    except OSError:  # who may not look does not know
        return False


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
    """Copy a file, which appears whole or not at all, and in no other file's place."""
    handle, name = tempfile.mkstemp(prefix=beside(place.name), suffix=".partial", dir=place.parent)
    os.close(handle)
    partial = Path(name)
    try:
        shutil.copy2(path, partial)
        sync(partial)  # before anybody takes the original away
        _put(partial, place)
        sync(place.parent)
    finally:
        partial.unlink(missing_ok=True)


def _put(partial: Path, place: Path) -> None:
    try:
        place.hardlink_to(partial)  # which fails where something is there
    except OSError as error:
        if isinstance(error, FileExistsError) or os.path.lexists(place):
            raise
        partial.rename(place)  # a file system without such links


@contextlib.contextmanager
def _told(path: Path, place: Path) -> Iterator[None]:
    """Say of an error which file it is of."""
    try:
        yield
    except OSError as error:
        raise CarryingError(
            f"{path} cannot be carried to {place}: {error.strerror or error}; files before it are carried, the others "
            "are where they were"
        ) from error


_NO_FILES = "only folders and lists of files on this machine have rejected files to copy or move; this source has none"
