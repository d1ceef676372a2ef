"""Images for the tests of the data package."""

from __future__ import annotations

import http.server
import io
import re
import tarfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """Random uint8 pixels of a shape, always the same."""

    def make(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def encode() -> Encode:
    """An image, or an array of one, as the bytes of a file."""

    def make(image: Image.Image | np.ndarray, file_format: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(buffer, file_format, **options)
        return buffer.getvalue()

    return make


@pytest.fixture
def save(tmp_path: Path, noise: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Write a small image below `tmp_path`, its folders included."""

    def make(name: str, seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(4, 5, 3, seed=seed)).save(path, "PNG")
        return path

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Image packs that lie beside the repository on some machines."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the image packs in shared/data are not on this machine")
    return folder


class Web:
    """A web server on this machine that can be told to misbehave.

    Attributes:
        address: of its root.
        files: content by path.
        failing: how often a path is still answered with 503.
        cut: paths whose content ends before its announced length.
        ranges: whether parts of files are served.
        gate: what requests for files wait at, so that none is answered before others are there.
        asked: the requests so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failing: dict[str, int] = {}
        self.cut: set[str] = set()
        self.ranges = False
        self.gate: threading.Barrier | None = None
        self.asked: list[tuple[str, str]] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.answer(self)

            do_HEAD = do_GET  # noqa: N815 (the name is http.server's)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # whoever asked may have left
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = urllib.parse.unquote(request.path.partition("?")[0].lstrip("/"))
        self.asked.append((request.command, path))
        if self.failing.get(path, 0) > 0:
            self.failing[path] -= 1
            request.send_error(503)
            return
        if path in self.files:
            if self.gate is not None:
                self.gate.wait(timeout=60)
            self._send(request, path, self.files[path])
            return
        below = sorted({self._next(name, path) for name in self.files if name.startswith(path)})
        if not below:
            request.send_error(404)
            return
        links = "".join(f'<a href="{urllib.parse.quote(name)}">{name}</a>' for name in ("../", *below, "?C=N;O=D"))
        page = f"<html>{links}</html>".encode()
        request.send_response(200)
        request.send_header("Content-Type", "text/html; charset=utf-8")
        request.send_header("Content-Length", str(len(page)))
        request.end_headers()
        request.wfile.write(page)

    def _send(self, request: http.server.BaseHTTPRequestHandler, path: str, content: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        whole = len(content)
        if self.ranges and wanted:
            start, end = int(wanted[1]), int(wanted[2] or whole - 1)
            content = content[start : end + 1]
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{whole}")
        else:
            request.send_response(200)
        if self.ranges:
            request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content[: len(content) // 2] if path in self.cut else content)

    @staticmethod
    def _next(name: str, path: str) -> str:
        first, slash, _ = name[len(path) :].lstrip("/").partition("/")
        return first + slash


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server on this machine; tries follow each other without a pause."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("normgate.data.patience.time.sleep", lambda _: None)
    server = Web()
    yield server
    server.server.shutdown()
    server.server.server_close()
    server.thread.join()


@pytest.fixture
def tar(tmp_path: Path) -> Callable[..., Path]:
    """Write a tar of members in their order."""

    def make(name: str, members: dict[str, bytes] | list[tuple[str, bytes]], mode: str = "w") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode) as file:
            for member, content in members.items() if isinstance(members, dict) else members:
                header = tarfile.TarInfo(member)
                header.size = len(content)
                file.addfile(header, io.BytesIO(content))
        return path

    return make
