"""Exported gates against the gates they come from: every score on the demo's network, two scores on five networks.

    python benchmarks/export.py --gates DIR

Reads the demo's gate of seed 0 below DIR (benchmarks/auto.py trains it); the five networks are as timm makes them,
untrained. For each: labels that differ, the largest error of a score as a share of what is allowed (1e-4 of its size or
of the interquartile range of the calibration scores), and decisions that differ further than that from the threshold.
Writes results/export.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import normgate
from normgate import demo, scores
from normgate.data.demo import demo_set
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import load
from normgate.export import export
from normgate.runtime import PortableGate
from provenance import write

NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "convnext_atto", "vit_tiny_patch16_224")
ON_NETWORKS = ("norm", "energy")
ALLOWED = 1e-4


def compared(gate: normgate.Gate, images: Any, path: Path) -> dict[str, Any]:
    """Export a gate and ask both."""
    started = time.perf_counter()
    export(gate, path, overwrite=True)
    seconds = time.perf_counter() - started
    here, there = gate(images), PortableGate.load(path)(images)
    spread = np.subtract(*np.quantile(gate.calibration.scores, [0.75, 0.25]))
    allowed = ALLOWED * np.maximum(np.abs(here.score), spread)
    near = np.abs(here.score - gate.calibration.thresholds[0]) <= allowed
    return {
        "labels_that_differ": int(sum(a != b for a, b in zip(here.label, there.label, strict=True))),
        "largest_error_of_allowed": float((np.abs(here.score - there.score) / allowed).max()),
        "decisions_that_differ": int(((here.accepted != there.accepted) & ~near).sum()),
        "export_seconds": seconds,
        "megabytes": path.stat().st_size / 1e6,
    }


def noise(count: int, seed: int) -> np.ndarray:
    """Noise of many contrasts, so that norms vary, (N, 64, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    contrast = rng.uniform(0.02, 1, (count, 1, 1, 1))
    return (contrast * rng.integers(0, 256, (count, 64, 64, 3))).astype(np.uint8)


def untrained(name: str, score: str) -> normgate.Gate:
    """A gate of a network as timm makes it, with images of noise."""
    torch.manual_seed(0)
    sized: dict[str, Any] = {"img_size": 64} if name.startswith("vit") else {}
    network = timm.create_model(name, num_classes=10, **sized)
    known = noise(100, 0)
    return normgate.Gate.calibrate(
        normgate.l2norm(network),
        preprocessing=Preprocessing((64, 64)),
        classes=[str(i) for i in range(10)],
        calibration=known,
        score=score,
    )


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=Path, required=True, help="where benchmarks/auto.py trained its gates")
    gate = normgate.Gate.load(parser.parse_args().gates / "demo-0", device="cpu")
    images = [record.payload for name in ("test", *demo.OUTLIERS) for record in load(demo_set(name))[::3]]
    other = list(noise(40, 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate.onnx"
        found = {name: compared(gate.recalibrate(score=name), images, path) for name in scores.names()}
        networks = {
            f"{network}, {score}": compared(untrained(network, score), other, path)
            for network in NETWORKS
            for score in ON_NETWORKS
        }
    everything = [*found.values(), *networks.values()]
    write(
        "export",
        {
            "seed": 0,
            "images": len(images),
            "worst": {key: max(item[key] for item in everything) for key in everything[0]},
            "scores": found,
            "networks": networks,
        },
    )


if __name__ == "__main__":
    main()
