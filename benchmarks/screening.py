"""Speed and memory of screening.

    python benchmarks/screening.py [--images 20000] [--long 200000]

Speed: `screen` against a bare loop of decode, transform and forward over the same Parquet rows, in turn, in one run.
Memory: resident memory over a long run, after the first 10,000 images.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torchvision import transforms

import normgate
from normgate import demo
from normgate.data.demo import demo_set
from normgate.data.sources import load
from normgate.training.splitting import divide_groups
from provenance import write


def table_of(path: Path, count: int) -> None:
    """A Parquet table of `count` rows that repeats the demo's test images."""
    payloads = [record.payload for name in ("test", *demo.FAR) for record in demo_set(name)]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 8192):
            rows = [
                {"bytes": payloads[i % len(payloads)], "path": None} for i in range(start, min(start + 8192, count))
            ]
            writer.write_table(pa.table({"image": rows}, schema=schema))


def bare_loop(gate: normgate.Gate, path: Path, batch_size: int) -> int:
    """What a careful script would do: decode, torchvision's transform, forward, softmax."""
    preprocessing = gate.extractor.preprocessing
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


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_of(gate: Path, table: Path, output: Path, batch_size: int) -> tuple[int, int]:
    """Resident bytes after the first 10,000 images of a screening run, and the most after that."""
    used: list[int] = []

    def watch(task: str, done: int, total: int | None, /, **figures: float) -> None:
        if done >= 10_000:
            used.append(resident_bytes())

    normgate.screen(normgate.Gate.load(gate), table, output, overwrite=True, batch_size=batch_size, progress=watch)
    return used[0], max(used)


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--long", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    held_out = load(demo_set("calibration"))
    tuning, calibration = divide_groups([record.group for record in held_out], 0)
    gate = normgate.train(
        demo_set("train"),
        tuning=held_out.subset(tuning),
        calibration=held_out.subset(calibration),
        recipe=normgate.Recipe(epochs=1, batch_size=64),
        **demo.NETWORK,
    )
    with tempfile.TemporaryDirectory() as name:
        short, long, output = (
            Path(name) / "short.parquet",
            Path(name) / "long.parquet",
            Path(name) / "verdicts.parquet",
        )
        table_of(short, arguments.images)
        rates: dict[str, list[float]] = {"bare": [], "screen": []}
        bare_loop(gate, short, arguments.batch_size)  # warm-up
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            seen = bare_loop(gate, short, arguments.batch_size)
            rates["bare"].append(seen / (time.perf_counter() - started))
            started = time.perf_counter()
            summary = normgate.screen(gate, short, output, overwrite=True, batch_size=arguments.batch_size)
            rates["screen"].append(summary.images / (time.perf_counter() - started))
        ratios = [screen / bare for screen, bare in zip(rates["screen"], rates["bare"], strict=True)]

        table_of(long, arguments.long)
        gate.save(Path(name) / "gate")
        # In a process of its own, as a user would run it: what the rounds before left behind does not count.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            places = (Path(name) / "gate", long, output, arguments.batch_size)
            settled, peak = pool.apply(memory_of, places)
    write(
        "screening",
        {
            "network": "ResNet with one block a stage, width 16, 64 × 64 pixels (the demo's)",
            "images": arguments.images,
            "images_per_second": {key: statistics.median(values) for key, values in rates.items()},
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            "memory": {
                "images": arguments.long,
                "resident_mb_after_10000": settled / 2**20,
                "growth_mb": (peak - settled) / 2**20,
            },
            "seed": 0,
        },
    )


if __name__ == "__main__":
    main()
