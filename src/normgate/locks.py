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


def take(lock: FileLock) -> bool:
    """Take a lock that no other process holds; True without one, and with a warning, where the disk has no locks.

    Args:
        lock: of a file in a folder that is there.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        lock.acquire(timeout=0)
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
