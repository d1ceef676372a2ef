"""The application under uvicorn: one process, or several that share a port."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from normgate.errors import NormgateError
from normgate.serving.application import create_application
from normgate.serving.errors import ServingError
from normgate.serving.metrics import SHARED, forget
from normgate.serving.served import Served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.applications import Starlette

    from normgate.serving.options import Options

CONNECTIONS = 800
"""Open connections of a process beyond which 503 is answered, below the usual limit of 1,024 open files."""
PATIENCE = 60
"""Seconds that a worker may be silent before it is taken for dead."""
_LAST = 0.5
"""Seconds for which the port stays open after a signal, so that whoever connected before it is let in."""
logger = logging.getLogger(__name__)


def run(
    gate: str | os.PathLike[str],
    options: Options,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    told: Callable[[str], None] = logger.info,
) -> None:
    """Serve a gate until SIGTERM or SIGINT, then answer what was accepted; SIGHUP loads the gate anew.

    The port takes no connection before the gate is loaded. One process has told its address once the port listens;
    several still load the gate then, and /ready says when one of them has.

    Args:
        gate: its folder, or the file that `normgate export` has made of it.
        options: limits and additions.
        host: address to listen on.
        port: 0 takes one that is free.
        workers: processes. Each watches for shifts at its share of the chance of a false alarm.
        told: called with the address.

    Raises:
        NormgateError: the gate cannot be served, the port is taken, or the alarm's state could not be kept at the end.
    """
    if workers < 1:
        raise ServingError(f"workers are at least 1, not {workers}")
    if workers > 1 and options.shift_state is not None:
        raise ServingError("several workers have an alarm each, and one file cannot keep them: leave out --shift-state")
    if workers > 1 and options.shift_delta is not None:
        options = dataclasses.replace(options, shift_delta=options.shift_delta / workers)
    logging.basicConfig(level=logging.INFO, format=_FORMAT)
    with _bound(host, port) as listener:
        if options.token is None and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            logger.warning("everyone who reaches %s can ask: there is no token (--token-file)", host)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        if workers == 1:
            application = create_application(gate, options)
            _settle(application)
            _serve_alone(application, options, listener, functools.partial(told, address))
        else:
            Served.load(Path(gate), options)  # what is wrong is said once, and a graph is exported once
            told(address)
            _run_workers(Path(gate), options, workers, listener)


class _Server(uvicorn.Server):
    """uvicorn's server, which would reset the connections that the port has taken and the application has not."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.force_exit:
            await asyncio.sleep(_LAST)
        await super().shutdown(sockets)


def _serve_alone(application: Starlette, options: Options, listener: socket.socket, told: Callable[[], None]) -> None:
    server = _Server(_config(application, options))

    def stop(*_: object) -> None:
        server.should_exit = True

    # Before uvicorn has its own handlers and after: it ends as the signals it caught would have it, but to drain in
    # good order is no failure. SIGHUP is for when the application runs.
    handlers: dict[int, Any] = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        listener.listen(server.config.backlog)
        told()
        server.run([listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if server.lifespan.should_exit:
        raise ServingError("the server did not end in good order; its log says why")


_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def _config(application: Any, options: Options, *, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        factory=workers > 1,
        workers=workers,
        http="httptools",  # what is left of a refused body is read and thrown away; h11 would cut the line
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=math.ceil(options.timeout) + 1,
    )


_LAST_PORT = 65535


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, and does not listen yet."""
    if not 0 <= port <= _LAST_PORT:  # getaddrinfo would take it modulo 2**16
        raise ServingError(f"a port is a number from 0 to {_LAST_PORT}, not {port}; choose another with --port (port=)")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServingError(f"{host} is no address to listen on: {reason}") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.set_inheritable(True)
    except (OSError, OverflowError) as error:
        found.close()
        raise ServingError(f"port {port} of {host} cannot be had: {error}; choose another with --port") from error
    return found


def _settle(application: Starlette) -> None:
    """Make a process ready to serve: while the application runs, SIGHUP loads the gate anew."""
    # What is loaded stays; to look through all of it for garbage would make requests wait.
    gc.collect()
    gc.freeze()
    lifespan = application.router.lifespan_context

    @contextlib.asynccontextmanager
    async def listening(app: Starlette) -> AsyncIterator[None]:
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        async def reload() -> None:
            with contextlib.suppress(Exception):  # it is in the log
                await app.state.service.reload()

        def start() -> None:
            if len(tasks) > 1:  # one loads and one waits, which will find what a third would
                return
            tasks.add(task := loop.create_task(reload()))
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(signal.SIGHUP, start)
        try:
            async with lifespan(app):
                yield
        finally:
            gc.unfreeze()  # or compiled libraries take what is never cleared for their leaks, and say so

    application.router.lifespan_context = listening


class _Worker(Process):
    """uvicorn's process, asked for a sign of life without waiting for it."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._asked: float | None = None

    @property
    def server(self) -> uvicorn.Server:
        """What runs in the process."""
        if self._server is None:
            self._server = _Server(self.config)
        return self._server

    def is_alive(self, timeout: float = PATIENCE) -> bool:
        """Whether it runs, and has not been silent for so many seconds."""
        if not self.process.is_alive():
            return False
        now = time.monotonic()
        try:
            if self._asked is None or self.parent_conn.poll():
                if self._asked is not None:
                    self.parent_conn.recv_bytes()
                self.parent_conn.send(b"ping")
                self._asked = now
        except (OSError, EOFError):
            return False
        return now - self._asked < timeout


class _Workers(Multiprocess):
    """uvicorn's processes; on SIGHUP each loads the gate itself, and none is replaced.

    Their number stays, since they share the chance of a false alarm.
    """

    def init_processes(self) -> None:
        self.processes = [self._started() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        for place, process in enumerate(self.processes):
            if process.is_alive():
                continue
            process.kill()
            process.join()
            if process.process.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            logger.warning("worker %s has died; another takes its place", process.pid)
            if process.pid is not None:
                forget(process.pid)
            self.processes[place] = self._started()

    def handle_hup(self) -> None:
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)

    def handle_ttin(self) -> None:
        pass

    def handle_ttou(self) -> None:
        pass

    def _started(self) -> _Worker:
        process = _Worker(self.config, self.sockets)
        process.start()
        return process


def _run_workers(gate: Path, options: Options, workers: int, listener: socket.socket) -> None:
    with tempfile.TemporaryDirectory(prefix="normgate-") as shared:
        os.environ[SHARED] = shared
        try:
            make = functools.partial(_in_worker, gate, options)
            processes = _Workers(_config(make, options, workers=workers), [listener])
            processes.run()
        finally:
            del os.environ[SHARED]
    if any(process.exitcode == STARTUP_FAILURE for process in processes.processes):
        raise ServingError("a worker could not start; it has said why")


def _in_worker(gate: Path, options: Options) -> Starlette:
    logging.basicConfig(level=logging.INFO, format=_FORMAT)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is loading already
    try:
        application = create_application(gate, options)
    except NormgateError as error:
        logger.error("the gate cannot be served: %s", error)
        sys.exit(STARTUP_FAILURE)
    _settle(application)
    return application
