"""The ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from normgate.errors import NormgateError
from normgate.serving import metrics, openapi, page
from normgate.serving.errors import Refused
from normgate.serving.options import MOST_NEIGHBOURS, Options
from normgate.serving.served import finite
from normgate.serving.service import Service
from normgate.serving.uploads import memory, read_images

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from normgate.serving.batching import Answer

OPEN = ("/", "/health", "/ready", "/openapi.json")
"""Paths that ask for no token: they say nothing of the gate."""
RETRY = (429, 503)


def create_application(gate: str | os.PathLike[str], options: Options | None = None) -> Starlette:
    """A gate as an ASGI application; it is loaded when this returns.

    Args:
        gate: its folder, or the file that `normgate export` has made of it.
        options: limits and additions; None for the defaults.

    Raises:
        NormgateError: the gate cannot be served.
    """
    options = options or Options()
    service = Service(Path(gate), options)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    routes = [
        Route("/", _page),
        Route("/verdicts", _verdicts, methods=["POST"]),
        Route("/gate", _gate),
        Route("/reload", _reload, methods=["POST"]),
        Route("/metrics", _metrics),
        Route("/health", _health),
        Route("/ready", _ready),
        Route("/openapi.json", _openapi),
    ]
    application = Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, service=service, paths=frozenset(route.path for route in routes))],
        exception_handlers={Refused: _refused, HTTPException: _http_error, 500: _failed},
        lifespan=lifespan,
    )
    application.router.redirect_slashes = False
    application.state.service = service
    application.state.memory = memory(options)
    return application


class _Guard:
    """Asks for the token, and counts and times what is answered."""

    def __init__(self, app: ASGIApp, *, service: Service, paths: frozenset[str]) -> None:
        self._app, self._service, self._paths = app, service, paths
        token = service.options.token
        self._token = None if token is None else token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            if path in OPEN or self._is_allowed(scope):
                await self._app(scope, receive, noted)
            else:
                told = _error(401, "this server asks for a token: send the header 'Authorization: Bearer TOKEN'")
                told.headers["WWW-Authenticate"] = "Bearer"
                await told(scope, receive, noted)
        finally:
            known = path if path in self._paths else "other"
            self._service.metrics.answered(known, status, time.perf_counter() - started)

    def _is_allowed(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)


async def _verdicts(request: Request) -> Response:
    service: Service = request.app.state.service
    options = service.options
    wanted = _neighbours(request)
    service.batcher.check()
    uploading = True
    try:
        async with asyncio.timeout(options.timeout):
            with request.app.state.memory.body() as body:
                records, is_form = await read_images(request, options, body)
                uploading = False
                gate, answers = await service.judge(records, wanted, body)
    except TimeoutError:
        if uploading:
            return _error(408, f"the body did not arrive within {options.timeout:g} seconds")
        return _error(503, f"no verdict within {options.timeout:g} seconds; the server is busy, try again later")
    except ClientDisconnect:
        return _error(400, "the client went away")
    if not is_form and (error := answers[0].verdict.error) is not None:
        return _error(422, error)
    return _json({"gate": gate, "verdicts": [_plain(answer, named=wanted > 0) for answer in answers]})


def _neighbours(request: Request) -> int:
    text = request.query_params.get("neighbours", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 3 and int(text) <= MOST_NEIGHBOURS):
        raise Refused(422, f"neighbours is a whole number from 0 to {MOST_NEIGHBOURS}, not {text[:20]!r}")
    return int(text)


async def _gate(request: Request) -> Response:
    return _json(request.app.state.service.about())


async def _reload(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.options.token is None:
        return _error(403, "without a token nobody reloads over HTTP; send SIGHUP to the process")
    try:
        return _json({"gate": (await service.reload()).digest})
    except NormgateError as error:
        return _error(409, f"the gate from before goes on: {error}")


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)


async def _health(_: Request) -> Response:
    return _json({"status": "alive"})


async def _ready(request: Request) -> Response:
    request.app.state.service.batcher.check()
    return _json({"status": "ready"})


async def _openapi(request: Request) -> Response:
    return _json(openapi.document(request.app.state.service.options))


async def _page(_: Request) -> Response:
    return Response(page.HTML, media_type="text/html", headers={"Content-Security-Policy": page.POLICY})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error(error.status, error.message)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = _error(error.status_code, error.detail)
    told.headers.update(error.headers or {})
    return told


async def _failed(_: Request, __: Exception) -> Response:
    return _error(500, "internal error; the server's log has the reason")


def _error(status: int, message: str) -> Response:
    headers = {"Retry-After": "1"} if status in RETRY else None
    return _json({"error": message}, status, headers)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # In ASCII, so that any name of a file can be told.
    return Response(json.dumps(value, allow_nan=False), status, headers, media_type="application/json")


def _plain(answer: Answer, *, named: bool) -> dict[str, Any]:
    verdict = answer.verdict
    plain = {
        "id": verdict.id,
        "label": verdict.label,
        "probability": finite(verdict.probability),
        "score": finite(verdict.score),
        "p_value": finite(verdict.p_value),
        "accepted": None if verdict.error is not None else verdict.accepted,
        "error": verdict.error,
    }
    return {**plain, "neighbours": [vars(near) for near in answer.neighbours]} if named else plain
