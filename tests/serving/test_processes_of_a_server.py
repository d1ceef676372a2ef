"""The command in processes of its own: signals under load, several workers, and what keeps it from starting."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from normgate import cli
from normgate.serving import Options, ServingError, create_application, run, running
from normgate.serving.running import PATIENCE

SECONDS = 60


@contextlib.contextmanager
def serving(gate: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`normgate serve` and its port, once it is ready."""
    command = [sys.executable, "-m", "normgate.cli", "serve", str(gate), "--port", "0", "--runtime", "torch", *options]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " at http://127.0.0.1:" in line, line + process.stderr.read()
        port = int(line.rsplit(":", 1)[1])
        give_up = time.monotonic() + SECONDS
        while asked(port, "GET", "/ready")[0] != 200:
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.communicate()


FORM = "multipart/form-data; boundary=border"


def form(images: list[bytes]) -> bytes:
    head = b'--border\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'
    return b"".join(head + image + b"\r\n" for image in images) + b"--border--\r\n"


def asked(port: int, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
    """Status and body of an answer; status 0 where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


class Load:
    """Clients that ask without a pause; what they sent and what they were told."""

    def __init__(self, port: int, bodies: list[bytes], kind: str = "", clients: int = 8) -> None:
        self.answers: list[tuple[float, int, str]] = []
        self._port, self._bodies, self._kind, self._stopped = port, bodies, kind, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def _ask(self, number: int) -> None:
        while not self._stopped.is_set():
            sent = time.monotonic()
            status, body = asked(self._port, "POST", "/verdicts", self._bodies[number], self._kind)
            self.answers.append((sent, status, json.loads(body)["gate"] if status == 200 else ""))

    def wait(self, count: int) -> None:
        """Until so many more were answered."""
        wanted = len(self.answers) + count
        give_up = time.monotonic() + SECONDS
        while len(self.answers) < wanted and time.monotonic() < give_up:
            time.sleep(0.01)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(SECONDS)


@pytest.mark.parametrize(("runtime", "images"), [("torch", 1), ("onnx", 12)])
def test_sigterm_under_load_loses_nothing_that_was_accepted(
    gate_folder: Path, files: list[bytes], runtime: str, images: int
) -> None:
    with serving(gate_folder, "--runtime", runtime) as (process, port):
        # A request whose body is still on its way is accepted, too.
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"POST /verdicts HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(files[0]) + files[0][:9])
        with Load(port, [form(files[i : i + images]) for i in range(8)], FORM) as load:
            load.wait(100)
            signalled = time.monotonic()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            slow.sendall(files[0][9:])
            answer = b"".join(iter(lambda: slow.recv(65536), b""))
            code = process.wait(SECONDS)
        assert code == 0
        assert answer.startswith(b"HTTP/1.1 200"), answer
        before = Counter(status for sent, status, _ in load.answers if sent < signalled)
        assert set(before) == {200}
        assert before[200] > 100


def test_who_waits_at_the_port_is_let_in_before_it_closes() -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def told() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = running._Server(uvicorn.Config(answer, lifespan="off", log_config=None))
            server.config.load()
            server.lifespan = server.config.lifespan_class(server.config)
            await server.startup([listener])
            with socket.create_connection(listener.getsockname()) as client:  # the application has not seen it yet
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await server.shutdown([listener])
                return client.recv(100)

    assert asyncio.run(told()).startswith(b"HTTP/1.1 200")


def test_sighup_under_load_fails_no_request(
    gate_folder: Path, other_folder: Path, files: list[bytes], tmp_path: Path
) -> None:
    folder, digests = tmp_path / "gate", set()
    shutil.copytree(gate_folder, folder)
    with serving(folder) as (process, port), Load(port, files) as load:
        assert process.stderr is not None
        load.wait(50)
        shutil.rmtree(folder)
        process.send_signal(signal.SIGHUP)
        assert "goes on" in process.stderr.readline()
        shutil.copytree(other_folder, folder)
        process.send_signal(signal.SIGHUP)
        assert "serving gate" in process.stderr.readline()
        load.wait(50)
        digests = {digest for _, _, digest in load.answers}
        current = json.loads(asked(port, "GET", "/gate")[1])
    assert Counter(status for _, status, _ in load.answers).keys() == {200}
    assert len(digests) == 2
    assert current["score"] == "knn"
    assert load.answers[-1][2] == current["gate"]


def test_workers_share_a_port_and_their_counts(gate_folder: Path, files: list[bytes]) -> None:
    with serving(gate_folder, "--workers", "2", "--shift-alarm", "0.02") as (process, port):
        with Load(port, files) as load:
            load.wait(60)
        assert Counter(status for _, status, _ in load.answers).keys() == {200}
        text = asked(port, "GET", "/metrics")[1].decode()
        assert f'normgate_requests_total{{path="/verdicts",status="200"}} {float(len(load.answers))}' in text
        assert f"normgate_batch_images_sum {float(len(load.answers))}" in text
        assert json.loads(asked(port, "GET", "/gate")[1])["shift"]["delta"] == 0.01
        process.send_signal(signal.SIGTTIN)  # their number stays
        # One is silent and the other dies: the parent waits for neither.
        silent, dead = workers_of(process)
        os.kill(silent, signal.SIGSTOP)
        time.sleep(1)
        os.kill(dead, signal.SIGKILL)
        give_up = time.monotonic() + PATIENCE / 2
        while len(workers_of(process) - {silent, dead}) != 1:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        os.kill(silent, signal.SIGCONT)
        assert asked(port, "POST", "/verdicts", files[0])[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()}


def test_sigterm_as_soon_as_the_address_is_told_ends_it_in_good_order(gate_folder: Path) -> None:
    command = [sys.executable, "-m", "normgate.cli", "serve", str(gate_folder), "--port", "0", "--runtime", "torch"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert " at http://127.0.0.1:" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == ""  # such as libraries that take what was kept for their leaks
    finally:
        process.kill()
        process.communicate()


def test_signals_before_uvicorn_has_its_handlers_are_not_lost(
    gate_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.gc, "freeze", lambda: None)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]

    def told(address: str) -> None:
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):  # it listens
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)

    run(gate_folder, Options(runtime="torch"), port=0, told=told)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_a_state_that_cannot_be_kept_is_a_failure(
    gate_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.gc, "freeze", lambda: None)
    state = tmp_path / "state.json"
    options = Options(runtime="torch", shift_delta=0.1, shift_state=state)

    def told(_: str) -> None:
        state.mkdir()
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(ServingError, match="good order"):
        run(gate_folder, options, port=0, told=told)


def test_a_storm_of_sighup_loads_once_now_and_once_after(gate_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.gc, "freeze", lambda: None)
    application = create_application(gate_folder, Options(runtime="torch"))
    running._settle(application)
    service, loads, go_on = application.state.service, [], threading.Event()

    def load(*_: object) -> Any:
        loads.append(1)
        assert go_on.wait(30)
        return service.served

    monkeypatch.setattr("normgate.serving.service.Served.load", load)

    async def storm() -> None:
        async with application.router.lifespan_context(application):
            for _ in range(20):
                signal.raise_signal(signal.SIGHUP)
                await asyncio.sleep(0.001)
            go_on.set()
            while len(loads) < 2 or service._reloading.locked():
                await asyncio.sleep(0.001)

    asyncio.run(storm())
    assert len(loads) == 2


def test_without_a_token_others_are_warned_of(
    gate_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running.gc, "freeze", lambda: None)
    for host, warned in (("0.0.0.0", True), ("127.0.0.1", False)):
        caplog.clear()
        run(
            gate_folder, Options(runtime="torch"), host=host, port=0, told=lambda _: signal.raise_signal(signal.SIGTERM)
        )
        assert ("no token" in caplog.text) == warned


def test_what_keeps_it_from_starting(gate_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.run(["serve", str(gate_folder), "--port", port]) == cli.USAGE
    assert "--port" in capsys.readouterr().err
    for workers in ("1", "2"):
        assert cli.run(["serve", str(tmp_path), "--port", "0", "--workers", workers]) == cli.USAGE
        assert "no gate.json" in capsys.readouterr().err
    assert cli.run(["serve", str(gate_folder), "--runtime", "abacus"]) == cli.USAGE
    assert "'abacus'" in capsys.readouterr().err
    for host in ("no.such.host.invalid", "a..b"):
        assert cli.run(["serve", str(gate_folder), "--host", host]) == cli.USAGE
        assert f"{host} is no address" in capsys.readouterr().err
    for number in (-1, 99_999):
        with pytest.raises(ServingError, match=f"a port is a number from 0 to 65535, not {number}"):
            run(gate_folder, Options(), port=number)
    with pytest.raises(ServingError, match="--shift-state"):
        run(gate_folder, Options(shift_delta=0.1, shift_state=tmp_path / "s"), workers=2)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    with pytest.raises(ServingError, match=r"needs uvicorn: pip install 'normgate\[serve\]'"):
        _ = importlib.import_module("normgate.serving").create_application
