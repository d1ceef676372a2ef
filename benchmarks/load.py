"""Load on a server, from a process of its own: closed loops of clients that never pause, or arrivals on a schedule."""

from __future__ import annotations

import asyncio
import base64
import collections
import dataclasses
import itertools
import json
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BOUNDARY = "normgate-load"
IDLE = 2.0
"""Seconds after which a client opens a new connection: the server closes idle ones, which may cross with a request."""


@dataclasses.dataclass
class Outcome:
    """What clients saw.

    Attributes:
        statuses: how often each was answered; 0 counts requests without an answer.
        latencies: seconds from when a request was due to its answer, of those answered with 200.
        seconds: wall-clock time.
        cpu_seconds: of the clients' process.
        unanswered: times at which requests without an answer were sent, by `time.time`.
    """

    statuses: collections.Counter[int]
    latencies: list[float]
    seconds: float
    cpu_seconds: float
    unanswered: list[float]


def request(images: Sequence[bytes]) -> bytes:
    """A whole HTTP request: the image as the body, or a form of several."""
    if len(images) == 1:
        kind, body = "application/octet-stream", images[0]
    else:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{i}"\r\n\r\n'.encode()
            + image
            + b"\r\n"
            for i, image in enumerate(images)
        ]
        body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    head = f"POST /verdicts HTTP/1.1\r\nHost: load\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Client:
    """One connection, opened again when the server has closed it."""

    def __init__(self, port: int, outcome: Outcome) -> None:
        self._port, self._outcome = port, outcome
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._used = 0.0

    async def ask(self, data: bytes, due: float) -> int:
        """Send a request and wait for its answer; its status, or 0 where there is none."""
        sent = time.time()
        try:
            if self._writer is not None and sent > self._used + IDLE:
                self._writer.close()
            if self._writer is None or self._writer.is_closing():
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            status = await self._answered(data)
            self._used = time.time()
        except (OSError, asyncio.IncompleteReadError):
            self._outcome.unanswered.append(sent)
            self._outcome.statuses[0] += 1
            self._writer = None
            return 0
        self._outcome.statuses[status] += 1
        if status == 200:
            self._outcome.latencies.append(time.perf_counter() - due)
        return status

    async def _answered(self, data: bytes) -> int:
        assert self._reader is not None
        assert self._writer is not None
        self._writer.write(data)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)
        if b"connection: close" in head:
            self._writer.close()
            self._writer = None
        return int(head.split(b" ", 2)[1])


async def _closed(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Outcome:
    outcome = Outcome(collections.Counter(), [], 0.0, 0.0, [])
    bodies = itertools.cycle(requests)
    started = time.perf_counter()

    async def loop() -> None:
        client = Client(port, outcome)
        while (due := time.perf_counter()) < started + seconds:
            if await client.ask(next(bodies), due) == 0:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(loop() for _ in range(clients)))
    outcome.seconds = time.perf_counter() - started
    return outcome


async def _scheduled(port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int) -> Outcome:
    outcome = Outcome(collections.Counter(), [], 0.0, 0.0, [])
    bodies, rng = itertools.cycle(requests), random.Random(seed)
    free: list[Client] = []
    started = due = time.perf_counter()

    async def one(data: bytes, due: float) -> None:
        client = free.pop() if free else Client(port, outcome)
        await client.ask(data, due)
        free.append(client)

    async with asyncio.TaskGroup() as tasks:
        while (due := due + rng.expovariate(rate)) < started + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(one(next(bodies), due))
    outcome.seconds = time.perf_counter() - started
    return outcome


class Running:
    """A load that goes on in a process of its own."""

    def __init__(self, kind: str, port: int, requests: Sequence[bytes], *numbers: float) -> None:
        # Not by multiprocessing, whose process would load all that the benchmark has loaded.
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        bodies = [base64.b64encode(body).decode("ascii") for body in requests]
        self._process.stdin.write(json.dumps([kind, port, bodies, *numbers]).encode("ascii"))
        self._process.stdin.close()

    def outcome(self) -> Outcome:
        """What clients saw, once all is over."""
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.read())
        self._process.wait()
        statuses = collections.Counter({int(status): count for status, count in told["statuses"].items()})
        return Outcome(**{**told, "statuses": statuses})


def load(kind: str, port: int, requests: Sequence[bytes], *numbers: float) -> Outcome:
    """The outcome of a load.

    Args:
        kind: "closed", then clients and seconds follow; or "scheduled", at times of a Poisson process, then requests a
            second, seconds and a seed follow.
        port: of the server.
        requests: in turn.
        numbers: as the kind wants.
    """
    return Running(kind, port, requests, *numbers).outcome()


def main() -> None:
    """Read a load from standard input, and write its outcome to standard output."""
    kind, port, bodies, *numbers = json.load(sys.stdin)
    requests = [base64.b64decode(body) for body in bodies]
    before = time.process_time()
    outcome = asyncio.run((_closed if kind == "closed" else _scheduled)(port, requests, *numbers))
    outcome.cpu_seconds = time.process_time() - before
    json.dump(vars(outcome), sys.stdout)


if __name__ == "__main__":
    main()
