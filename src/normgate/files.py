"""Outputs appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Iterator


class OutputError(NormgateError):
    """An output cannot be written."""


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work is done, an output that exists or cannot be written.

    Raises:
        OutputError: the path exists and may not be replaced, or its folder cannot be written to.
    """
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path} exists; choose another name, remove it, or pass --overwrite")
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
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        OutputError: as in `check_output`, or the disk is full.
    """
    check_output(path, overwrite=overwrite)
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
