"""Speed and memory of screening.

    python benchmarks/screening.py [--images 20000] [--rows 1000000] [--rounds 5]

Speed: `screen` with each runtime against a bare PyTorch loop of decode, transform and forward over the same Parquet
rows, in turn, in one run, for three networks. Ray: the same table through Ray Data on this machine, its start apart.
Memory: resident memory over a long run with a network of one layer, after the first 10,000 rows.
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

import normgate
from normgate import demo
from normgate.data.demo import demo_set
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import load
from provenance import write

NETWORKS: dict[str, tuple[normgate.Backbone, int, int]] = {
    "the demo's (one block a stage, width 16), 64 px": (
        normgate.Backbone("resnet18", 24, demo.NETWORK["width"], 2, demo.NETWORK["model_args"]),
        64,
        1,
    ),
    "slim ResNet18 (width 16), 32 px": (normgate.Backbone("resnet18", 10, 16, 1), 32, 1),
    "ResNet18 (width 64), 32 px": (normgate.Backbone("resnet18", 10, 64, 1), 32, 10),
}
"""Network, side of its input, and which fraction of the images it is measured on."""


def table_of(path: Path, count: int) -> None:
    """A Parquet table of `count` rows that repeats the demo's test images."""
    payloads = [record.payload for name in ("test", *demo.OUTLIERS) for record in demo_set(name)]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 8192):
            rows = [
                {"bytes": payloads[i % len(payloads)], "path": None} for i in range(start, min(start + 8192, count))
            ]
            writer.write_table(pa.table({"image": rows}, schema=schema))


def untrained(network: nn.Module, side: int, backbone: normgate.Backbone | None = None) -> normgate.Gate:
    """A gate whose network has learned nothing, which is as fast as one that has."""
    classes = [f"class {i}" for i in range(next(m for m in network.modules() if isinstance(m, nn.Linear)).out_features)]
    return normgate.Gate.calibrate(
        network,
        preprocessing=Preprocessing((side, side)),
        calibration=load(demo_set("calibration")),
        classes=classes,
        backbone=backbone,
        drop_duplicates=True,
    )


def bare_loop(gate: normgate.Gate, path: Path, batch_size: int) -> int:
    """What a careful script would do: decode, torchvision's transform, forward, softmax."""
    preprocessing = gate.preprocessing
    transform = transforms.Compose(
        [
            transforms.Resize(preprocessing.size),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    seen = 0
    with torch.inference_mode():
        for batch in pq.ParquetFile(path).iter_batches(batch_size, columns=["image"]):
            images = [
                transform(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in batch["image"].to_pylist()
            ]
            seen += len(gate.extractor.model(torch.stack(images)).softmax(dim=1))
    return seen


def speeds(gate: normgate.Gate, table: Path, output: Path, rounds: int, batch_size: int) -> dict[str, Any]:
    """Images a second of the bare loop and of each runtime, and the ratios of each round."""
    bare_loop(gate, table, batch_size)  # warm-up, as the first run that exports the graph
    normgate.screen(gate, table, output, overwrite=True, batch_size=batch_size, runtime="onnx")
    rates: dict[str, list[float]] = {"bare": [], "torch": [], "onnx": []}
    for _ in range(rounds):
        started = time.perf_counter()
        seen = bare_loop(gate, table, batch_size)
        rates["bare"].append(seen / (time.perf_counter() - started))
        for runtime in ("torch", "onnx"):
            found = normgate.screen(gate, table, output, overwrite=True, batch_size=batch_size, runtime=runtime)
            rates[runtime].append(found.images / found.seconds)
    ratios = {name: [own / bare for own, bare in zip(rates[name], rates["bare"], strict=True)] for name in rates}
    return {
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": {
            name: {"median": statistics.median(found), "min": min(found), "max": max(found)}
            for name, found in ratios.items()
            if name != "bare"
        },
    }


def through_ray(gate: normgate.Gate, table: Path, output: Path, rounds: int, batch_size: int) -> dict[str, Any]:
    """Images a second of the local engine and of Ray from its first part on, in turn, and the ratios."""
    seen: list[tuple[float, int]] = []

    def watch(task: str, done: int, total: int | None, /, **figures: float) -> None:
        seen.append((time.perf_counter(), done))

    rates: dict[str, list[float]] = {"local": [], "ray": []}
    starts = []
    for _ in range(rounds):
        for engine in ("local", "ray"):
            seen.clear()
            started = time.perf_counter()
            options: dict[str, Any] = {
                "overwrite": True,
                "runtime": "onnx",
                "batch_size": batch_size,
                "progress": watch,
            }
            normgate.screen(gate, table, output, engine=engine, **options)
            (first, before), (last, after) = seen[0], seen[-1]
            rates[engine].append((after - before) / (last - first))
            if engine == "ray":
                starts.append(first - started)
    ratios = [ray / local for ray, local in zip(rates["ray"], rates["local"], strict=True)]
    return {
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "start_seconds": statistics.median(starts),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_of(table: Path, output: Path) -> tuple[int, int, int]:
    """Rows, resident bytes after the first 10,000, and the most after that; with a network of one layer."""
    used: list[int] = []
    gate = untrained(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)), 8)

    def watch(task: str, done: int, total: int | None, /, **figures: float) -> None:
        if done >= 10_000:
            used.append(resident_bytes())

    summary = normgate.screen(gate, table, output, overwrite=True, progress=watch)
    used.append(resident_bytes())
    return summary.images, used[0], max(used)


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, Any] = {"images": arguments.images, "batch_size": arguments.batch_size, "networks": {}, "seed": 0}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "verdicts"
        table_of(Path(name) / "table.parquet", arguments.images)
        for network, (backbone, side, fraction) in NETWORKS.items():
            table = Path(name) / f"{fraction}.parquet"
            table_of(table, arguments.images // fraction)
            gate = untrained(backbone.build(), side, backbone)
            found["networks"][network] = speeds(gate, table, output, arguments.rounds, arguments.batch_size)
        network, (backbone, side, _) = next(itertools.islice(NETWORKS.items(), 1, None))
        gate = untrained(backbone.build(), side, backbone)
        rounds = max(1, arguments.rounds // 2)
        measured = through_ray(gate, Path(name) / "table.parquet", output, rounds, arguments.batch_size)
        found["ray"] = {"network": network, **measured}

        table_of(Path(name) / "long.parquet", arguments.rows)
        # In a process of its own, as a user would run it: what the rounds before left behind does not count.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows, settled, peak = pool.apply(memory_of, (Path(name) / "long.parquet", output))
        found["memory"] = {
            "network": "one linear layer, 8 px",
            "rows": rows,
            "resident_mb_after_10000": settled / 2**20,
            "growth_mb": (peak - settled) / 2**20,
        }
    write("screening", found)


if __name__ == "__main__":
    main()
