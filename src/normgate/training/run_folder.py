"""The folder of an unfinished run: beside its output, so that the gate itself appears whole."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from normgate.errors import NormgateError
from normgate.files import explained, is_system, names_in
from normgate.locks import is_taken, take
from normgate.training.processes import agreed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_fabric import Fabric

CHECKPOINT = "checkpoint.safetensors"
_LOCK = "_lock"
_FILES = (CHECKPOINT, "log.csv", _LOCK, ".*.partial*")


class RunFolderError(NormgateError):
    """The folder of an unfinished run is in the way, or is not one."""


def run_folder(target: Path) -> Path:
    """Where checkpoint and log of an unfinished run are kept."""
    return target.with_name(target.name + ".run")


def check_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse, before any work, a folder that no run has written, or a run that is neither to go on nor to be replaced.

    Raises:
        RunFolderError: as said, or a run is going there.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file, and a run would keep its checkpoint there; choose another output")
    _check_own(folder)
    if is_taken(folder / _LOCK):
        raise _going(folder)
    _check_unfinished(folder, resume=resume, overwrite=overwrite)


def remove_leftover(folder: Path) -> None:
    """Remove, where that can be, what a run left that was killed after its gate was written, and no run that is going.

    It is in nobody's way.
    """
    with contextlib.suppress(NormgateError, OSError):
        if folder.is_dir() and _foreign(folder) is None:
            with _locked(folder):
                _remove(folder)


@contextlib.contextmanager
def running(
    target: Path | None,
    *,
    resume: bool,
    overwrite: bool,
    fabric: Fabric,
    check: Callable[[], object] = lambda: None,
) -> Iterator[Path]:
    """A folder for checkpoint and log while training: `<target>.run`, removed when the gate stands.

    Args:
        target: the output; None has no such folder.
        resume: keep what is there.
        overwrite: what is there may be replaced.
        fabric: the processes, of which the main one holds the folder's lock.
        check: what must be true of the output once no other run can write it.

    Raises:
        RunFolderError: another run is going there or has been since, or not all processes see it.
    """
    if target is None:
        with tempfile.TemporaryDirectory(prefix="normgate-") as name:
            yield Path(name)
        return
    folder, main = run_folder(target), fabric.is_global_zero
    with contextlib.ExitStack() as held:
        with agreed(fabric):
            if main:
                held.enter_context(_locked(folder))
        try:
            with agreed(fabric):
                if main:
                    _check_own(folder)
                    _check_unfinished(folder, resume=resume, overwrite=overwrite)
                    check()
                    if not resume:
                        _empty(folder)
                # A list of names is fresh where a network disk still remembers that one was not there.
                if not folder.parent.is_dir() or folder.name not in names_in(folder.parent):
                    raise RunFolderError(
                        f"{folder} cannot be seen from every machine; choose an output on a disk that all of them share"
                    )
            yield folder
        except BaseException:
            if main and not set(names_in(folder)) - {_LOCK}:  # there is nothing to resume
                _remove(folder)
            raise
        if main:
            _remove(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the folder is made where it is missing.

    Raises:
        RunFolderError: another run holds it.
    """
    lock = FileLock(folder / _LOCK)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not take(lock):
            raise _going(folder)
    try:
        yield
    finally:
        lock.release()


def _going(folder: Path) -> RunFolderError:
    return RunFolderError(f"another run is writing {folder}; wait for it, or choose another output")


def _check_own(folder: Path) -> None:
    if (name := _foreign(folder)) is not None:
        raise RunFolderError(
            f"{folder} holds {name}, which no run has written, so it is left alone; choose another output"
        )


def _check_unfinished(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if (folder / CHECKPOINT).exists() and not resume and not overwrite:  # one killed in its first epoch left nothing
        raise RunFolderError(
            f"{folder} holds an unfinished run; pass --resume (resume=True) to go on with it, or "
            "--overwrite (overwrite=True) to train anew"
        )


def _empty(folder: Path) -> None:
    """Remove what a run keeps there, but for its lock."""
    with explained(folder):
        for path in list(folder.iterdir()):
            if path.name != _LOCK and (_is_own(path.name) or is_system(path.name)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove(folder: Path) -> None:
    """Remove a folder whose lock is held; another run may make it anew as soon as the lock's file is gone."""
    _empty(folder)
    (folder / _LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _foreign(folder: Path) -> str | None:
    with explained(folder):
        names = names_in(folder) if folder.is_dir() else []
    return next((name for name in names if not _is_own(name)), None)


def _is_own(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, own) for own in _FILES)
