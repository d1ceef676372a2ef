"""Bodies of requests: one image, or a form of many, in memory and within limits."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from normgate.data.sources import Record
from normgate.serving.errors import Refused
from normgate.serving.options import BODIES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from starlette.requests import Request

    from normgate.serving.options import Options

_FORM = "multipart/form-data"
_BINARY = "application/octet-stream"
_FIELD_BYTES = 4096
# It warns of each bad form; the client is told, and nobody is to fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Memory:
    """The bytes of bodies that are held, all requests together.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.held = 0

    @contextlib.contextmanager
    def body(self) -> Iterator[Body]:
        """Room for one body, which is free again when the block has ended and nobody else holds it."""
        body = Body(self)
        body.hold()
        try:
            yield body
        finally:
            body.release()

    def take(self, size: int) -> None:
        """Hold more.

        Raises:
            Refused: with 429, there is no room.
        """
        with self._lock:
            if self.held + size > self._most:
                raise Refused(429, "the server holds as many bytes as it may; try again later")
            self.held += size

    def free(self, size: int) -> None:
        """Hold less."""
        with self._lock:
            self.held -= size


class Body:
    """The bytes of one body, and how many hold them: the request, and whoever decodes and judges its images."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._holders = 0
        self.size = 0

    def take(self, size: int) -> None:
        """Hold more bytes."""
        self._memory.take(size)
        self.size += size

    def hold(self) -> None:
        """One more holds them."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """One fewer holds them; the last gives the room back."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._memory.free(self.size)


def memory(options: Options) -> Memory:
    """Room for the bodies that options allow at a time."""
    return Memory(BODIES * options.max_bytes)


async def read_images(request: Request, options: Options, body: Body) -> tuple[list[Record], bool]:
    """The images of a request, undecoded, and whether it was a form.

    Args:
        request: its body is one image, or a form of files.
        options: limits.
        body: told of each byte before it is kept.

    Raises:
        Refused: with 413 the body is too large, with 415 of another kind, with 422 no image or a broken form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _FORM:
        return await _read_form(request, options, body), True
    if kind not in ("", _BINARY) and not kind.startswith("image/"):
        raise Refused(415, f"send one image as image/… or {_BINARY}, or several as files of a {_FORM} form")
    data = b"".join([chunk async for chunk in _chunks(request, options, body)])
    if not data:
        raise Refused(422, "the body is empty; send an image")
    return [Record("image", data)], False


async def _chunks(request: Request, options: Options, body: Body) -> AsyncGenerator[bytes, None]:
    message = f"the body has more than {options.max_bytes:,} bytes; send smaller images or fewer at a time"
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > options.max_bytes:
        raise Refused(413, message)
    async for chunk in request.stream():
        if body.size + len(chunk) > options.max_bytes:
            raise Refused(413, message)
        body.take(len(chunk))
        yield chunk


class _Form(MultiPartParser):
    """Knows whether the last boundary has come: of a form that is cut short a part would be lost without a word."""

    ended = False

    def on_end(self) -> None:
        """The last boundary has come."""
        self.ended = True


async def _read_form(request: Request, options: Options, body: Body) -> list[Record]:
    parser = _Form(
        request.headers,
        _chunks(request, options, body),
        max_files=options.max_images,
        max_fields=1,
        max_part_size=_FIELD_BYTES,
    )
    parser.spool_max_size = options.max_bytes + 1  # nothing is written to disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(422, f"the form is not accepted: {error.message}") from error
    except (UnicodeError, ValueError) as error:  # names in a charset that is none
        raise Refused(422, f"the form cannot be read: {error}") from error
    if not parser.ended:
        await form.close()
        raise Refused(422, "the form ends before its last boundary; send it whole")
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if len(files) != len(form.multi_items()):
        raise Refused(422, "the form has a part without a file name; send nothing but images, as files")
    if not files:
        raise Refused(422, "the form has no files; send images, as files")
    records = [Record(file.filename or f"image {i}", file.file.read()) for i, file in enumerate(files)]
    await form.close()
    return records
