"""One process at a time, where the disk has locks."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest
from filelock import FileLock

from normgate import NormgateWarning
from normgate.locks import is_taken, take


def test_one_at_a_time(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert not is_taken(tmp_path / "lock")
    assert take(one)
    assert not take(other)
    assert is_taken(tmp_path / "lock")
    one.release()
    assert not is_taken(tmp_path / "lock")
    assert take(other)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(*_: object) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    with pytest.warns(NormgateWarning, match="as its disk has no locks: see to it"):
        assert take(FileLock(tmp_path / "lock"))
    assert not is_taken(tmp_path / "lock")


def test_what_cannot_be_opened_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError, match="lock"):
        take(FileLock(tmp_path / "lock"))
