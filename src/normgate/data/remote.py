"""A file or folder elsewhere, through fsspec: cheap to list, fetched when it is needed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import threading
import urllib.parse
from typing import IO, TYPE_CHECKING, Any, cast

from normgate.data.decoding import MOST_BYTES, Fetchable, ImageError
from normgate.data.names import utf8_name
from normgate.data.patience import Result, patiently, reason, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from fsspec import AbstractFileSystem

_ONE_AT_A_TIME = frozenset({"ftp", "sftp", "ssh", "smb", "tar", "libarchive"})
"""File systems with one connection or one open file, which threads must not share."""
_alone = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteFile(Fetchable):
    """A file or a folder of a file system elsewhere; as a payload, an image that is still to be fetched.

    Attributes:
        fs: the file system.
        path: what the file system calls it; over http the whole address.
        size: in bytes, where a listing has told.
    """

    fs: AbstractFileSystem
    path: str
    size: int | None = None

    def __str__(self) -> str:
        # Before the web's paths, which are addresses, older versions of fsspec put another scheme.
        return shown(self.path if self.is_http else self.fs.unstrip_protocol(self.path))

    @property
    def is_http(self) -> bool:
        """Whether it is an address of the web, which has a query and escapes, and no folders of its own."""
        return not _protocols(self.fs).isdisjoint(("http", "https"))

    @property
    def name(self) -> str:
        """The last part of the path."""
        path = self.path.partition("?")[0] if self.is_http else self.path
        name = path.rstrip("/").rpartition("/")[2]
        return utf8_name(urllib.parse.unquote(name) if self.is_http else name)

    def below(self, relative: str) -> RemoteFile:
        """A file in this folder."""
        return RemoteFile(self.fs, f"{self.path.rstrip('/')}/{relative.lstrip('/')}" if self.path else relative)

    @property
    def parent(self) -> RemoteFile:
        """The folder that it is in."""
        path = self.path.partition("?")[0] if self.is_http else self.path
        return RemoteFile(self.fs, path.rstrip("/").rpartition("/")[0])

    def fetch(self) -> bytes:
        """The whole file, tried again where a failure may pass.

        Raises:
            ImageError: it is not there, cannot be had, or has more than `MOST_BYTES`.
        """
        try:
            with _alone if self.is_one_at_a_time else contextlib.nullcontext():
                return patiently(self._bytes)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"it cannot be fetched: {reason(error)}") from error

    @property
    def is_one_at_a_time(self) -> bool:
        """Whether threads have to take turns."""
        return not _protocols(self.fs).isdisjoint(_ONE_AT_A_TIME)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The file for reading anywhere in it; parts are asked for again where a failure may pass.

        Raises:
            OSError: it cannot be opened, or, later, read; the message can be shown to anyone.
        """
        # The parts of a column lie together, and columns are read in turn: a few blocks are kept.
        options: dict[str, Any] = {
            "block_size": 4 * 2**20,
            "cache_type": "blockcache",
            "cache_options": {"maxblocks": 8},
        }
        return _Patient.opened(lambda: self.fs.open(self.path, mode, **options))

    def stream(self) -> IO[bytes]:
        """The file for reading from its beginning to its end; raises as `open`."""
        return _Patient.opened(self._streamed)

    def _streamed(self) -> IO[bytes]:
        # A web server may not serve parts of files. A size is named because it would be asked for otherwise.
        options: dict[str, Any] = {"block_size": 0, "size": 1} if self.is_http else {}
        return cast("IO[bytes]", self.fs.open(self.path, "rb", **options))

    def _bytes(self) -> bytes:
        if self.size is not None and self.size <= MOST_BYTES:
            return bytes(self.fs.cat_file(self.path))
        if self.size is None:
            with self._streamed() as file:
                data = _at_most(MOST_BYTES + 1, file)
            if len(data) <= MOST_BYTES:
                return data
        raise ImageError(f"the file has more than {MOST_BYTES // 2**20} MiB, too many to be fetched")


class _Patient(io.RawIOBase):
    """A file whose parts are asked for again where a failure may pass."""

    def __init__(self, file: Any) -> None:
        self._file = file

    @classmethod
    def opened(cls, action: Callable[[], Any]) -> IO[bytes]:
        return cast("IO[bytes]", cls(_or_os_error(action)))

    def read(self, size: int = -1) -> bytes:
        return _or_os_error(lambda: cast("bytes", self._file.read(size)))

    def seek(self, offset: int, whence: int = 0) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _or_os_error(action: Callable[[], Result]) -> Result:
    try:
        return patiently(action)
    except Exception as error:
        raise OSError(reason(error)) from error


def _at_most(count: int, file: IO[bytes]) -> bytes:
    parts = []
    while count > 0 and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _protocols(fs: AbstractFileSystem) -> frozenset[str]:
    return frozenset((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
