"""Speed of the geometry, and its distance from the formulas as they read.

    python benchmarks/collapse.py [--images 50000] [--dimensions 512] [--rounds 5]

Gaussian classes with an offset, as after a ReLU; the reference forms Σ_W and Σ_B whole, in float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch

from normgate.collapse import geometry, neural_collapse
from normgate.features import Features
from provenance import write

SEED = 0


def features_of(images: int, dimensions: int, classes: int) -> Features:
    """Gaussian classes around random centres, and a head that knows them and is trained on directions."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.arange(images) % classes
    centres = torch.randn(classes, dimensions, generator=generator)
    z = (centres[labels] + torch.randn(images, dimensions, generator=generator)).relu()
    weight = centres + 0.3 * torch.randn(classes, dimensions, generator=generator)
    logits = torch.nn.functional.normalize(z, dim=1) @ weight.T
    return Features(z, logits, weight, None, 1.0, tuple(map(str, range(images))), labels)


def reference(features: Features, space: str) -> dict[str, float]:
    """NC1–NC4 by the formulas, with full covariances."""
    h = features.z.numpy().astype(np.float64)
    if space == "u":
        h /= np.linalg.norm(h, axis=1, keepdims=True)
    assert features.labels is not None
    labels, weight = features.labels.numpy(), features.weight.numpy().astype(np.float64)
    k = len(weight)
    mu = np.stack([h[labels == c].mean(axis=0) for c in range(k)])
    means = mu - mu.mean(axis=0)
    within = sum((h[labels == c] - mu[c]).T @ (h[labels == c] - mu[c]) / (labels == c).sum() for c in range(k)) / k
    between = means.T @ means / k
    lengths = np.linalg.norm(means, axis=1)
    gram = means @ means.T
    cosines = (gram / np.outer(lengths, lengths))[~np.eye(k, dtype=bool)]
    target = (np.eye(k) - 1 / k) / np.sqrt(k - 1)
    nearest = [np.linalg.norm(mu - row, axis=1).argmin() for row in h]
    return {
        "within_between": np.trace(within @ np.linalg.pinv(between, rcond=1e-12, hermitian=True)) / k,
        "equinorm": lengths.std() / lengths.mean(),
        "equiangularity": cosines.std(),
        "widest_angle": np.abs(cosines + 1 / (k - 1)).mean(),
        "simplex_distance": np.linalg.norm(gram / np.linalg.norm(gram) - target),
        "self_duality": np.linalg.norm(weight / np.linalg.norm(weight) - means / np.linalg.norm(means)),
        "nearest_mean_disagreement": (np.array(nearest) != features.logits.numpy().argmax(axis=1)).mean(),
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results = {}
    for classes in (10, 200):
        features = features_of(arguments.images, arguments.dimensions, classes)
        seconds: dict[str, list[float]] = {"nc_z": [], "nc_u": [], "geometry": []}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in seconds}
        for _ in range(arguments.rounds):
            for name, measure in (
                ("nc_z", partial(neural_collapse, features, "z")),
                ("nc_u", partial(neural_collapse, features, "u")),
                ("geometry", partial(geometry, features)),
            ):
                started, cpu_started = time.perf_counter(), time.process_time()
                measure()
                cpu_seconds[name].append(time.process_time() - cpu_started)
                seconds[name].append(time.perf_counter() - started)
        apart = 0.0
        for space in ("z", "u"):
            collapse = neural_collapse(features, space)
            values = {**vars(collapse), **vars(collapse.means)}
            expected = reference(features, space)
            apart = max(apart, *(abs(values[name] - value) for name, value in expected.items()))
        results[f"{classes} classes"] = {
            "seconds": {name: statistics.median(values) for name, values in seconds.items()},
            "cpu_seconds": {name: statistics.median(values) for name, values in cpu_seconds.items()},
            "slowest_seconds": {name: max(values) for name, values in seconds.items()},
            "largest_difference_from_reference": float(apart),
        }
    write(
        "collapse",
        {
            "images": arguments.images,
            "dimensions": arguments.dimensions,
            "rounds": arguments.rounds,
            "measured": results,
            "seed": SEED,
        },
    )


if __name__ == "__main__":
    main()
