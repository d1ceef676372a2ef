"""How fast screening and serving are, and how soon a shift is noticed."""

from __future__ import annotations

import collections
import json
from typing import Any

from page.cells import table
from page.runs import RESULTS


def operations() -> dict[str, dict[str, Any]]:
    """What screening.py, serving.py, kills.py and shift.py have measured."""
    names = ("screening", "serving", "kills", "shift")
    return {name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in names}


SCREENING = """## How fast screening and serving are

Images a second out of one Parquet file, decoding included: `screen` with PyTorch and with ONNX Runtime, beside a bare
PyTorch loop of decoding, transforms and network, with networks that nobody has trained. All take turns in one run;
these are the medians of the turns, and of each turn's ratio to the bare loop, in brackets the smallest and the largest
(`benchmarks/screening.py`)."""


SERVING = """The server, asked over HTTP by clients on the same cores, beside its runtime alone on the same images; the
ResNet18 is at 224 pixels (`benchmarks/serving.py`):"""


def screening(measured: dict[str, dict[str, Any]]) -> list[str]:
    """Images a second, latency, and what was lost in kills."""
    offline, serving, kills = (measured[name] for name in ("screening", "serving", "kills"))
    rows = [
        [
            name,
            *(f"{found['images_per_second'][how]:.0f}" for how in ("bare", "torch", "onnx")),
            *(
                f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
                for ratio in (found["ratio"][how] for how in ("torch", "onnx"))
            ),
        ]
        for name, found in offline["networks"].items()
    ]
    asked = [
        [
            {"demo": "the demo's", "resnet18": "ResNet18"}[name],
            size,
            f"{found['images_per_second']:.0f}",
            f"{found['offline_images_per_second']:.0f}",
        ]
        for name in ("demo", "resnet18")
        for size, found in serving[name]["throughput"].items()
    ]
    latency = [
        f"At {found['requests_per_second']:.0f} requests a second of an image each, {said} gate answers half of them "
        f"within {1000 * found['p50_seconds']:.0f} ms, and 99 of 100 within {1000 * found['p99_seconds']:.0f} ms"
        + (f" ({found['not_200']} of {found['requests']} had another answer)." if found["not_200"] else ".")
        for said, found in (
            ("the demo's", serving["demo"]["latency"]),
            ("the ResNet18's", serving["resnet18"]["latency"]),
        )
    ]
    lost = kills["lost"] + kills["doubled"] + kills["foreign"]
    return [
        SCREENING,
        table(["network", "a bare loop", "PyTorch", "ONNX Runtime", "PyTorch ÷ bare", "ONNX Runtime ÷ bare"], rows),
        f"{offline['device']}; commit {offline['commit']}.",
        SERVING,
        table(["gate", "images", "served", "runtime alone"], asked),
        " ".join(latency),
        f"{serving['device']}; commit {serving['commit']}.",
        f"A run over {kills['images']} images was killed {kills['kills']} times (`kill -9`) and begun again as often. "
        f"Rows that were lost, doubled or of another image: {lost} (`benchmarks/kills.py`; commit {kills['commit']}).",
    ]


SHIFT = """## How soon a shift is noticed

Images of a CIFAR-10 stream until the alarm, after unknown images have begun to be mixed in: median over the orders in
which it was raised, and in brackets how many these are, where it stayed quiet in others. All are of one gate, whose
score the alarm sees (`benchmarks/shift.py`)."""


def shift(found: dict[str, Any]) -> list[str]:
    """Delays and false alarms."""
    delays: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for key, delay in found["delays"].items():
        name, share, after = key.split(", ")
        number = "–" if delay["median_delay"] is None else f"{delay['median_delay']:.0f}"
        always = delay["raised"] == delay["orders"]
        cell = number if always else f"{number} ({delay['raised']} of {delay['orders']})"
        delays[name][f"{float(share):.0%} from image {after.removeprefix('after ')} on"] = cell
    head = list(next(iter(delays.values())))
    false = found["false_alarms"]
    raised = "; ".join(
        f"{own['raised']} of {false['streams']} with {images} calibration scores"
        for images, own in false["by_calibration_images"].items()
    )
    return [
        SHIFT,
        table(["unknown images", *head], [[name, *(own[column] for column in head)] for name, own in delays.items()]),
        f"Score {found['score']}, δ = {found['delta']:g}; {found['device']}; commit {found['commit']}. Of made-up "
        f"streams of {false['length']} scores, which have ties and heavy tails and do not change, these raised it at "
        f"δ = {false['delta']:g}: {raised}.",
    ]
