"""Locks of files: one process at a time, where the disk has locks."""

from __future__ import annotations

import errno
import warnings
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from normgate.errors import NormgateWarning

if TYPE_CHECKING:
    from pathlib import Path

_NONE_HERE = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})


def take(lock: FileLock, *, patience: float = 0.0) -> bool:
    """Whether the lock is this process's now, or would be, had the disk any; of that there is a warning.

    Args:
        lock: of a file in a folder that is there.
        patience: seconds in which another process may leave it.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NONE_HERE:
            raise
        warnings.warn(
            f"{lock.lock_file} cannot be locked, as its disk has no locks: see to it that no other run writes there",
            NormgateWarning,
            stacklevel=3,
        )
    return True


def is_taken(path: Path) -> bool:
    """Whether another process holds the lock of a file; False where that cannot be told."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)  # other processes of one run ask at the same time, and hold it for a moment
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False
