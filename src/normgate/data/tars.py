"""Reading a tar as a stream, where damage ends nothing quietly."""

from __future__ import annotations

import dataclasses
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, TypeVar, cast

from normgate.data.patience import reason
from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from normgate.data.entries import Place

Result = TypeVar("Result")

_MOST_HEADER_BYTES = 2**20
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class DamagedTarError(NormgateError):
    """A tar cannot be read any further."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar.

    Attributes:
        name: its path, as the tar has it.
        size: in bytes.
        read: gives them; only until the next member is asked for.
    """

    name: str
    size: int
    read: Callable[[], bytes]


def members(place: Place) -> Iterator[Member]:
    """The files of a tar, compressed or not, one after another. Hidden ones, links and devices are left out.

    Raises:
        DamagedTarError: it cannot be opened, or is damaged or cut short; the message says why.
    """
    with _checked(lambda: place.open("rb") if isinstance(place, Path) else place.stream()) as stream:
        tar = _checked(lambda: _opened(stream))
        while (header := _checked(tar.next)) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # all headers so far, of which there may be millions
            if header.type in _FILES and not _is_hidden(header.name):
                yield Member(header.name, header.size, _reader(tar, header))


class _Header(tarfile.TarInfo):
    """A header that must be whole: tarfile would take a damaged or missing one for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros with which a tar ends
            raise
        except tarfile.HeaderError as error:
            missing = isinstance(error, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]
            raise tarfile.ReadError("its end is missing" if missing else f"a header is damaged ({error})") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENDED and header.size > _MOST_HEADER_BYTES):
            raise tarfile.ReadError(f"a header claims {header.size} bytes")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a file with holes (sparse) is in it; make the tar without --sparse")
        return header


def _opened(stream: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header, encoding="utf-8")


def _reader(tar: tarfile.TarFile, header: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        return cast("IO[bytes]", tar.extractfile(header)).read()

    return lambda: _checked(read)


def _checked(action: Callable[[], Result]) -> Result:
    try:
        return action()
    except Exception as error:  # tarfile lets errors of every kind through
        raise DamagedTarError(reason(error)) from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
