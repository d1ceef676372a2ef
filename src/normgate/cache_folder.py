"""Folders of what can be computed again: where they lie, and how they stay small."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


def default_folder() -> Path:
    """The user's own folder: `$XDG_CACHE_HOME/normgate`, or `~/.cache/normgate` where that is not an absolute path."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "normgate"


def trim(folder: Path, suffix: str, *, limit: int, newest: Path) -> None:
    """Remove the entries that were used longest ago, and what killed runs left, beyond so many bytes.

    Args:
        folder: of entries, each a file whose name is a SHA-256 and the suffix, made by `whole_file`; whatever else lies
            there is not ours, and stays.
        suffix: of their names.
        limit: bytes that all may take.
        newest: the entry that has just been written, which stays.
    """
    end = re.escape(suffix)
    own = re.compile(rf"[0-9a-f]{{64}}{end}|\.[0-9a-f]{{64}}{end}\.\w+\.partial{end}")
    found = []
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(OSError):  # another run removed it
            if own.fullmatch(path.name):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
    excess = sum(size for _, size, _ in found) - limit
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        if path != newest:
            with contextlib.suppress(OSError):  # it may be somebody else's
                path.unlink(missing_ok=True)
                excess -= size
