"""Outputs appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


# What file managers leave wherever they have been.
SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


class OutputError(NormgateError):
    """An output cannot be written."""


def check_output(path: Path, *, overwrite: bool, holds: Sequence[str] = ()) -> None:
    """Refuse, before any work is done, an output that exists or cannot be written.

    Args:
        path: the output.
        overwrite: whether an earlier output may be replaced.
        holds: patterns of the names in such a folder; one that holds anything else is somebody's, and stays.

    Raises:
        OutputError: the path exists and may not be replaced, or its folder cannot be written to.
    """
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path} exists; choose another name, remove it, or pass --overwrite")
    if path.is_dir() and (foreign := foreign_entry(path, holds)) is not None:
        raise OutputError(
            f"{path} holds {foreign}, which is not of an earlier output of this kind, so it is not replaced; choose "
            "another name, or remove the folder yourself"
        )
    if holds and path.is_file():
        raise OutputError(f"{path} is a file, and the output is a folder; choose another name")
    folder = _nearest_folder(path.absolute().parent)
    if not folder.is_dir():
        raise OutputError(f"{path} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission to write in {folder}")


@contextlib.contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        OutputError: as in `check_output`, or the disk is full.
    """
    check_output(path, overwrite=overwrite)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".partial{path.suffix}", dir=path.parent)
        os.close(handle)
    partial = Path(name)
    try:
        with explained(path):
            yield partial
            partial.chmod(0o666 & ~_umask())
            _sync(partial)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, *, holds: Sequence[str], overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and vanishes otherwise.

    Args:
        path: the output.
        holds: see `check_output`.
        overwrite: whether an earlier output may be replaced.

    Raises:
        OutputError: as in `check_output`, or the disk is full.
    """
    check_output(path, overwrite=overwrite, holds=holds)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        with explained(path):
            yield partial
            partial.chmod(0o777 & ~_umask())
            for file in partial.rglob("*"):
                _sync(file)
            _replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def foreign_entry(folder: Path, holds: Sequence[str]) -> str | None:
    """The name of something in a folder that no pattern allows; None where there is nothing of that kind."""
    names = sorted({entry.name for entry in folder.iterdir()} - SYSTEM_FILES)
    return next((name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in holds)), None)


def _replace_folder(partial: Path, path: Path) -> None:
    if not os.path.lexists(path):
        partial.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    path.rename(old / path.name)
    try:
        partial.rename(path)
    except OSError:
        (old / path.name).rename(path)
        raise
    shutil.rmtree(old)


def _nearest_folder(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that names what could not be written."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
