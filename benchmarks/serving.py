"""The server: throughput beside the same runtime offline, latency at half load, soak, fuzz, SIGTERM under load.

    python benchmarks/serving.py --gates DIR [--seconds 20] [--soak-minutes 10] [--fuzz 10000] [--stops 5]

Serves the demo's gate of seed 0 below DIR (benchmarks/auto.py trains it), whose network is tiny, so that HTTP weighs
most, and an untrained ResNet-18 at 224 pixels. The clients are a process of their own on the same cores; what they and
the server used of these is told beside each rate. Offline and served throughput are measured in turn, and the medians
compared. Linux. Writes results/serving.json.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from PIL import Image

import normgate
from load import Running, load, request
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.demo import demo_set
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import load as records
from normgate.data.sources import open_source
from normgate.judging import Judge, choose_judge
from normgate.screening.judged import judged
from normgate.serving.batching import BATCH
from provenance import write

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPES = ((1, 32), (16, 16), (64, 6))
"""Images in a request, and clients."""
ROUNDS = 5
TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(gate: Path, *options: str) -> Iterator[tuple[int, int]]:
    """Process and port of `normgate serve`."""
    command = [sys.executable, "-m", "normgate.cli", "serve", str(gate), "--port", "0", *options]
    with tempfile.TemporaryFile() as log:  # a pipe that nobody reads would fill
        process = subprocess.Popen(command, stderr=log)
        while not (told := re.search(rb"http://\S+:(\d+)\s", os.pread(log.fileno(), 1 << 16, 0))):
            if process.poll() is not None:
                raise RuntimeError(os.pread(log.fileno(), 1 << 16, 0).decode())
            time.sleep(0.05)
    port = int(told[1])
    try:
        while asked(port, "/ready")[0] != 200:
            time.sleep(0.05)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(60)


def asked(port: int, path: str, body: bytes | None = None, kind: str = "image/png") -> tuple[int, bytes]:
    """Status and body of an answer; 0 where there is none."""
    asking = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(asking, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(process: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def offline(judge: Judge, images: list[bytes], seconds: float) -> tuple[float, float]:
    """Images a second, and CPU seconds an image, from encoded images to verdicts, as `screen` judges them."""
    count, started, cpu = 0, time.perf_counter(), time.process_time()
    options: dict[str, Any] = {"batch_size": BATCH, "workers": None, "max_pixels": DEFAULT_MAX_PIXELS}
    while time.perf_counter() < started + seconds:
        count += sum(len(table) for _, table in judged(judge, open_source(images, labelled=False), **options))
    return count / (time.perf_counter() - started), (time.process_time() - cpu) / count


def batch_seconds(judge: Judge, images: list[bytes]) -> float:
    """The time of one full batch, from encoded images to verdicts, with nothing beside it."""
    one = (images * (BATCH // len(images) + 1))[:BATCH]
    source = open_source(one, labelled=False)
    options: dict[str, Any] = {"batch_size": BATCH, "workers": None, "max_pixels": DEFAULT_MAX_PIXELS}
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        assert sum(len(table) for _, table in judged(judge, source, **options)) == BATCH
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def requests(images: list[bytes], size: int) -> list[bytes]:
    """All images in requests of this size, those that are left over with the first ones."""
    count = max(1, len(images) // size)
    return [request([images[(i * size + k) % len(images)] for k in range(size)]) for i in range(count)]


def throughput(judge: Judge, images: list[bytes], process: int, port: int, seconds: float) -> dict[str, Any]:
    """Saturation beside offline, for each shape of request; offline runs while the server has nothing to do."""
    found: dict[str, Any] = {}
    part = seconds / ROUNDS
    offline(judge, images, part)
    for size, clients in SHAPES:
        bodies = requests(images, size)
        load("closed", port, bodies, clients, part)
        rows = []
        for _ in range(ROUNDS):
            alone, alone_cpu = offline(judge, images, part)
            before = cpu_seconds(process)
            outcome = load("closed", port, bodies, clients, part)
            count = size * outcome.statuses[200]
            used = cpu_seconds(process) - before
            others = sum(outcome.statuses.values()) - outcome.statuses[200]
            rate = count / outcome.seconds
            rows.append([alone, alone_cpu, rate, used / count, outcome.cpu_seconds / count, rate / alone, others])
        columns = [statistics.median(column) for column in zip(*rows, strict=True)]
        names = (
            "offline_images_per_second",
            "offline_cpu_per_image",
            "images_per_second",
            "server_cpu_per_image",
            "clients_cpu_per_image",
            "share_of_offline",
            "other_answers",
        )
        found[f"{size} a request"] = {"clients": clients, **dict(zip(names, columns, strict=True))}
    return found


def latency(judge: Judge, images: list[bytes], port: int, seconds: float, saturation: float) -> dict[str, Any]:
    """One image a request at half the saturation of such requests, at random times."""
    one = batch_seconds(judge, images)
    outcome = load("scheduled", port, requests(images, 1), saturation / 2, seconds, 0)
    p50, p99 = np.quantile(outcome.latencies, [0.5, 0.99]).tolist()
    return {
        "batch": BATCH,
        "seconds_of_a_batch": one,
        "requests_per_second": saturation / 2,
        "requests": sum(outcome.statuses.values()),
        "not_200": sum(outcome.statuses.values()) - outcome.statuses[200],
        "p50_seconds": p50,
        "p99_seconds": p99,
        "p99_of_a_batch": p99 / one,
    }


def soak(process: int, port: int, images: list[bytes], minutes: float) -> dict[str, Any]:
    """Resident memory while every kind of request comes: the last third beside the second."""
    mixed = [*requests(images, 1)[:200], *requests(images, 16), request([b"no image"]), request([images[0][:50]])]
    random.Random(0).shuffle(mixed)
    memory: list[int] = []
    seconds = 60 * minutes
    running = Running("closed", port, mixed, 8, seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        memory.append(resident(process))
        time.sleep(min(1.0, seconds / 30))
    outcome = running.outcome()
    third = len(memory) // 3
    second, last = statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])
    return {
        "minutes": minutes,
        "requests": sum(outcome.statuses.values()),
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "megabytes_second_third": second / 1e6,
        "megabytes_last_third": last / 1e6,
        "growth": last / second - 1,
    }


def damaged(images: list[bytes], rng: random.Random) -> tuple[bytes, str]:
    """A body and its kind: an image or a form with some of its bytes changed, cut off, or none of it right."""
    content = bytearray(rng.choice(images))
    kind = rng.choice(["image/webp", "application/octet-stream", "image/x-unknown"])
    if rng.random() < 0.4:
        whole = request([bytes(content)] * 2)
        head, _, body = whole.partition(b"\r\n\r\n")
        content, kind = bytearray(body), head.split(b"Content-Type: ")[1].split(b"\r\n")[0].decode()
    for _ in range(rng.choice([0, 1, 4, 64])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    if rng.random() < 0.3:
        del content[rng.randrange(len(content)) :]
    if rng.random() < 0.05:
        content, kind = bytearray(rng.randbytes(rng.randrange(2000))), rng.choice([kind, "text/plain", "multipart/x"])
    return bytes(content), kind


def fuzz(port: int, images: list[bytes], count: int) -> dict[str, Any]:
    """Damaged images and forms, and requests that schemathesis makes up from the OpenAPI document, half each."""
    rng = random.Random(0)
    statuses: collections.Counter[int] = collections.Counter()
    slowest = 0.0
    for _ in range(count // 2):
        started = time.perf_counter()
        statuses[asked(port, "/verdicts", *damaged(images, rng))[0]] += 1
        slowest = max(slowest, time.perf_counter() - started)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    # Nearly all are of the one operation that takes something.
    more = ["--checks", checks, "--phases", "fuzzing", "--max-examples", str(max(1, count // 2)), "--seed", "0"]
    done = subprocess.run([*command, *more, "--mode", "all", "--no-color"], capture_output=True, text=True)
    return {
        "damaged": count // 2,
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "server_errors_or_none": sum(number for status, number in statuses.items() if status >= 500 or status == 0),
        "slowest_seconds": slowest,
        "schemathesis_exit_code": done.returncode,
        "schemathesis": [line.strip() for line in done.stdout.splitlines() if "generated" in line or "unique" in line],
        "alive": asked(port, "/health")[0] == 200,
    }


def stop(gate: Path, images: list[bytes], seconds: float) -> dict[str, Any]:
    """SIGTERM amid saturation: requests sent before it that had no answer, or another one than 200."""
    with serving(gate) as (process, port):
        running = Running("closed", port, requests(images, 1), 32, seconds)
        time.sleep(seconds / 2)
        signalled = time.time()
        os.kill(process, signal.SIGTERM)
        outcome = running.outcome()
    return {
        "answered": outcome.statuses[200],
        "refused": sum(number for status, number in outcome.statuses.items() if status not in (0, 200)),
        "lost": sum(sent < signalled for sent in outcome.unanswered),
    }


def photos(count: int) -> list[bytes]:
    """JPEG images of 320 × 240 pixels with the smoothness of photographs."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        encoded = io.BytesIO()
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
        found.append(encoded.getvalue())
    return found


def resnet18(folder: Path, images: list[bytes]) -> Path:
    """A gate of a network of usual size."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=10)
    normgate.Gate.calibrate(
        network,
        preprocessing=Preprocessing((224, 224), resize=256),
        classes=[str(i) for i in range(10)],
        calibration=images,
        score="energy",
        false_alarm_rate=0.2,
    ).save(folder / "resnet18")
    return folder / "resnet18"


def measured(gate: Path, images: list[bytes], seconds: float) -> dict[str, Any]:
    """Throughput and latency of one gate."""
    loaded = normgate.Gate.load(gate, device="cpu")
    chosen, alone = choose_judge(loaded, "auto"), choose_judge(loaded, "auto", threads=1)
    with serving(gate, "--queue", "2048") as (process, port):
        rates = throughput(alone.judge, images, process, port, seconds)
        saturation = rates["1 a request"]["images_per_second"]
        return {
            "runtime": chosen.runtime,
            "throughput": rates,
            "latency": latency(alone.judge, images, port, seconds, saturation),
        }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=Path, required=True, help="where benchmarks/auto.py trained its gates")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--soak-minutes", type=float, default=10.0)
    parser.add_argument("--fuzz", type=int, default=10_000, help="requests")
    parser.add_argument("--stops", type=int, default=5, help="servers that are stopped under load")
    arguments = parser.parse_args()
    gate = arguments.gates / "demo-0"
    images = [record.payload for record in records(demo_set("test")) if isinstance(record.payload, bytes)]
    with tempfile.TemporaryDirectory() as folder:
        large = photos(40)
        found = {
            "demo": measured(gate, images, arguments.seconds),
            "resnet18": measured(resnet18(Path(folder), large), large, arguments.seconds),
        }
    with serving(gate, "--shift-alarm", "0.01") as (process, port):
        lasting = soak(process, port, images, arguments.soak_minutes)
        fuzzed = fuzz(port, images, arguments.fuzz)
        shift = json.loads(asked(port, "/gate")[1])["shift"]["seen"]
    stops = [stop(gate, images, min(10.0, arguments.seconds)) for _ in range(arguments.stops)]
    write(
        "serving",
        {"seed": 0, **found, "soak": lasting, "fuzz": fuzzed, "images_the_alarm_saw": shift, "sigterm": stops},
    )


if __name__ == "__main__":
    main()
