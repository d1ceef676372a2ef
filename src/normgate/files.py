"""Outputs appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Foreign: TypeAlias = Callable[[Path], str | None]


_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_BESIDE = 100  # bytes of a name that are enough to tell it; file systems allow 255 in all


class OutputError(NormgateError):
    """An output cannot be written."""


def check_output(path: Path, *, overwrite: bool, foreign: Foreign | None = None) -> None:
    """Refuse, before any work is done, an output that exists or cannot be written.

    Args:
        path: the output.
        overwrite: whether an earlier output may be replaced.
        foreign: for an output that is a folder: gives the name of something in a folder that is not of such an output,
            None if all of it is. A folder that holds anything else is somebody's, and stays.

    Raises:
        OutputError: the path exists and may not be replaced, or its folder cannot be written to.
    """
    with explained(path):  # a name that is too long, a folder that may not be entered
        _check_output(path, overwrite, foreign)


def _check_output(path: Path, overwrite: bool, foreign: Foreign | None) -> None:
    if not path.name:
        raise OutputError(f"{path} is a folder that is in use; name a new one in it")
    if path.is_dir() and foreign is None:
        raise OutputError(f"{path} is a folder, and the output is a file; choose another name")
    if path.is_file() and foreign is not None:
        raise OutputError(f"{path} is a file, and the output is a folder; choose another name")
    if path.is_dir() and foreign is not None and (name := foreign(path)) is not None:
        raise OutputError(
            f"{path} holds {name}, which is not of an earlier output of this kind, so it is not replaced; choose "
            "another name, or remove the folder yourself"
        )
    if os.path.lexists(path) and not overwrite:  # said only where it is true that --overwrite would do
        raise OutputError(f"{path} exists; choose another name, remove it, or pass --overwrite (overwrite=True)")
    folder = nearest_folder(path.absolute().parent)
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
        partial = path.parent / f"{beside(path.name)}{secrets.token_hex(4)}.partial{path.suffix}"
        partial.touch(exist_ok=False)
    try:
        with explained(path):
            mode = stat.S_IMODE(partial.stat().st_mode)
            yield partial
            partial.chmod(mode)  # some libraries write for the owner alone
            sync(partial)
            check_output(path, overwrite=overwrite)  # what has come since is somebody's, too
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, *, foreign: Foreign, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and vanishes otherwise.

    Args:
        path: the output.
        foreign: see `check_output`.
        overwrite: whether an earlier output may be replaced.

    Raises:
        OutputError: as in `check_output`, or the disk is full.
    """
    check_output(path, overwrite=overwrite, foreign=foreign)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f"{beside(path.name)}{secrets.token_hex(4)}.partial"
        partial.mkdir()
    try:
        with explained(path):
            mode = stat.S_IMODE(partial.stat().st_mode)
            yield partial
            for file in partial.rglob("*"):
                file.chmod(mode if file.is_dir() else mode & 0o666)  # some libraries write for the owner alone
                sync(file)
            check_output(path, overwrite=overwrite, foreign=foreign)  # what has come since is somebody's, too
            replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(manifest: Path) -> set[str]:
    """What a JSON file lists under `files`, and itself; nothing where it cannot be read."""
    try:
        return {manifest.name, *json.loads(manifest.read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def names_in(folder: Path) -> list[str]:
    """The names in a folder but for what file managers and archives leave wherever they have been."""
    return sorted(entry.name for entry in folder.iterdir() if not is_system(entry.name))


def is_system(name: str) -> bool:
    """Whether a file of this name is a trace of a file manager or an archive."""
    return name in _SYSTEM_FILES or name.startswith("._")


def replace_folder(partial: Path, path: Path) -> None:
    """Rename a folder to `path`; what was there is removed once that has worked."""
    if not os.path.lexists(path):
        partial.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=beside(path.name), suffix=".old", dir=path.parent))
    kept = old / "output"
    try:
        path.rename(kept)
        partial.rename(path)
    except BaseException:  # a signal, too, must leave one of both in its place
        if not os.path.lexists(path):
            kept.rename(path)
        shutil.rmtree(old)
        raise
    shutil.rmtree(old)


def beside(name: str) -> str:
    """The start of a hidden name beside that of an output, short enough for what is added to it."""
    return f".{os.fsencode(name)[:_BESIDE].decode('utf-8', 'ignore')}."


def nearest_folder(path: Path) -> Path:
    """The path, or the first above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that names what could not be written."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
