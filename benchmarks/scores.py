"""Speed of scores and metrics: python benchmarks/scores.py [--rows 50000] writes results/scores.json.

Synthetic features, ten classes of 512 dimensions after a ReLU, on two threads, all in wall-clock time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from normgate import backbones, scores
from normgate.data.preprocessing import Preprocessing
from normgate.extractor import FeatureExtractor
from normgate.features import Features, concatenate
from normgate.metrics import ood_metrics
from provenance import write

if TYPE_CHECKING:
    from collections.abc import Iterator

DIMENSIONS = 512
SLACK = 0.02  # seconds by which a score may be slower than its peer, whatever their ratio


def synthetic(rows: int, seed: int, classes: int = 10) -> Features:
    """Classes around ReLU'd Gaussian centres, spread along 64 shared directions and a little along all."""
    fixed = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, DIMENSIONS, generator=fixed)
    shared = torch.randn(64, DIMENSIONS, generator=fixed) / 8
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    spread = torch.randn(rows, 64, generator=generator) @ shared
    z = torch.relu(centres[labels] + spread + 0.3 * torch.randn(rows, DIMENSIONS, generator=generator))
    weight = torch.relu(centres)
    weight = 5 * nn.functional.normalize(weight - weight.mean(dim=0), dim=1)
    bias = torch.linspace(-0.1, 0.1, classes)
    logits = nn.functional.linear(nn.functional.normalize(z, dim=1), weight, bias)
    # These stand for early stages, whose norms follow those of z loosely.
    stages = torch.linalg.vector_norm(z, dim=1, keepdim=True) * torch.rand(rows, 4, generator=generator).add(0.5)
    ids = tuple(str(row) for row in range(rows))
    return Features(z, logits, weight, bias, 1.0, ids, labels, stage_norms=stages)


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Peak resident memory inside above that at the start, in GiB, sampled every 5 ms."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before, peaks, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peaks[0] = max(peaks[0], resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    found: dict[str, float] = {}
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found["gib"] = peaks[0] / 2**30


def seconds(function: Any) -> tuple[float, Any]:
    """Wall-clock time of a call, and what it returns."""
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def all_scores(train: Features, queries: Features, tuning: Features) -> dict[str, dict[str, float]]:
    """Seconds to fit and to score; directions and raw logits count for the first score to need them."""
    times = {}
    for name in scores.names():
        score = scores.create(name)
        fit, _ = seconds(lambda score=score: score.fit(train, tuning))
        scoring, _ = seconds(lambda score=score: score(queries))
        times[name] = {"fit": fit, "score": scoring}
        print(f"{name:26s} fit {fit:7.3f} s, score {scoring:7.3f} s", flush=True)
    return times


def peers(train: Features) -> dict[str, tuple[Any, str, str]]:
    """Detectors of pytorch-ood by the name of our score: detector, methods' suffix and what they are given."""
    from pytorch_ood import detector as d

    assert train.bias is not None
    head = nn.Linear(DIMENSIONS, len(train.weight))
    head.load_state_dict({"weight": train.weight, "bias": train.bias})
    flat = nn.Sequential(nn.Flatten(), head)
    return {
        "msp": (d.MaxSoftmax(None), "logits", "logits"),
        "max_logit": (d.MaxLogit(None), "logits", "logits"),
        "energy": (d.EnergyBased(None), "logits", "logits"),
        "energy_raw": (d.EnergyBased(None), "logits", "raw_logits"),
        "entropy": (d.Entropy(None), "logits", "logits"),
        "gen": (d.GEN(None), "logits", "logits"),
        "kl_matching": (d.KLMatching(None), "logits", "logits"),
        "knn": (d.KNN(None), "features", "u"),
        "knn_raw": (d.KNN(None, normalize=False), "features", "z"),
        "mahalanobis": (d.Mahalanobis(None), "features", "u"),
        "mahalanobis_raw": (d.Mahalanobis(None), "features", "z"),
        "relative_mahalanobis": (d.RMD(None), "features", "u"),
        "relative_mahalanobis_raw": (d.RMD(None), "features", "z"),
        "gmm": (d.GMM(None), "features", "u"),
        "she": (d.SHE(None, head), "features", "z"),
        "nci": (d.NCI(None, head), "features", "z"),
        "fdbd": (d.fDBD(None, head), "features", "z"),
        "vim": (d.ViM(None, DIMENSIONS // 2, train.weight, train.bias), "features", "z"),
        "nnguide": (d.NNGuide(None, head), "features", "z"),
        "react": (d.ReAct(None, flat), "feature_maps", "z"),
        "ash": (d.ASH(None, flat), "feature_maps", "z"),
        "scale": (d.SCALE(None, flat), "feature_maps", "z"),
        "dice": (d.DICE(None, train.weight, train.bias, 0.9), "features", "z"),
    }


def compared(
    name: str, peer: tuple[Any, str, str], train: Features, queries: Features, repeats: int = 3
) -> dict[str, float]:
    """Our seconds and theirs on the same features: the best of some runs, in turn."""
    detector, kind, space = peer
    fit_peer: Any = getattr(detector, f"fit_{kind}", None)
    score_peer = getattr(detector, f"predict_{kind}")

    def given(features: Features) -> torch.Tensor:
        values = features.space(space)
        return values[:, :, None, None] if kind == "feature_maps" else values

    # NNGuide's peer keeps the whole bank, so ours does here, too.
    score = scores.create(name, **({"fraction": 1.0} if name == "nnguide" else {}))
    fit = scoring = their_fit = their_scoring = float("inf")
    for _ in range(repeats):
        fit = min(fit, seconds(lambda: score.fit(train))[0])
        scoring = min(scoring, seconds(lambda: score(queries))[0])
        with torch.inference_mode():
            if detector.requires_fit:
                their_fit = min(their_fit, seconds(lambda: fit_peer(given(train), train.labels))[0])
            their_scoring = min(their_scoring, seconds(lambda: score_peer(given(queries)))[0])
    their_fit = their_fit if detector.requires_fit else 0.0
    total, their_total = fit + scoring, their_fit + their_scoring
    print(f"{name:26s} {total:7.3f} s, pytorch-ood {their_total:7.3f} s", flush=True)
    return {
        "fit": fit,
        "score": scoring,
        "peer_fit": their_fit,
        "peer_score": their_scoring,
        "times_faster": their_total / total,
        "times_faster_scoring": their_scoring / scoring if scoring else float("inf"),
        "within": total <= max(1.2 * their_total, their_total + SLACK),
    }


def single_pass(images: int) -> dict[str, float]:
    """A full-width ResNet18 over 32 × 32 images, then fit and all scores over the same images."""
    torch.manual_seed(0)
    model = backbones.Backbone("resnet18", 10, stem=1).build()
    extractor = FeatureExtractor(model, Preprocessing((32, 32), mean=(0.5,) * 3, std=(0.25,) * 3))
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    extractor(pixels[:128])
    forward, parts = seconds(lambda: [extractor(pixels[i : i + 128]) for i in range(0, images, 128)])
    features = concatenate(parts)
    features = dataclasses.replace(features, labels=torch.arange(images) % 10)
    times = all_scores(features, features, features)
    total = sum(sum(row.values()) for row in times.values())
    return {"images": images, "forward": forward, "fit_and_scores": total, "ratio": (forward + total) / forward}


def main() -> None:
    """Run all parts and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="training images and queries for all scores")
    parser.add_argument("--peer-rows", type=int, default=10_000, help="the same for the comparison with pytorch-ood")
    parser.add_argument("--images", type=int, default=4_000, help="images for the forward pass")
    parser.add_argument("--metrics", type=int, default=1_000_000, help="scores for the metrics")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)  # pytorch-ood's

    train, queries, tuning = (synthetic(n, seed) for seed, n in enumerate((arguments.rows, arguments.rows, 2000), 1))
    with peak_memory() as peak:
        times = all_scores(train, queries, tuning)
    every = {
        "rows": arguments.rows,
        "dimensions": DIMENSIONS,
        "classes": 10,
        "bank_fraction": {"knn": 1.0, "knn_raw": 1.0, "nnguide": scores.create("nnguide").settings["fraction"]},
        "seconds": sum(sum(row.values()) for row in times.values()),
        "peak_gib_above_inputs": peak["gib"],
        "by_score": times,
    }

    n = arguments.peer_rows
    bank, some, few = train.select(range(n)), queries.select(range(n)), queries.select(range(max(1, n // 5)))
    hundred = synthetic(n, 1, classes=100), synthetic(n, 2, classes=100)
    for features in (bank, some, few, train, *hundred):
        _ = features.u, features.raw_logits  # shared by both
    known = {name: peer for name, peer in peers(bank).items() if name in scores.names()}
    against = {
        "rows": n,
        "by_score": {name: compared(name, peer, bank, some) for name, peer in known.items()},
        "mahalanobis_100_classes": compared("mahalanobis", peers(hundred[0])["mahalanobis"], *hundred),
        "knn_whole_bank": {
            "bank": len(train),
            "queries": len(few),
            **compared("knn", peers(train)["knn"], train, few),
        },
    }

    rng = np.random.default_rng(0)
    id_scores, ood_scores = rng.normal(1, 1, arguments.metrics // 2), rng.normal(0, 1, arguments.metrics // 2)
    metrics, _ = seconds(lambda: ood_metrics(id_scores, ood_scores))
    write(
        "scores",
        {
            "seed": 0,
            "all_scores": every,
            "pytorch_ood": against,
            "single_pass": single_pass(arguments.images),
            "metrics": {"scores": arguments.metrics, "seconds": metrics},
        },
    )


if __name__ == "__main__":
    main()
