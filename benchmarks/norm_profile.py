"""With what an image's norms are compared, decided on probes alone: python benchmarks/norm_profile.py --gates DIR.

For each gate below DIR: mean AUROC over probes, as gates choose by it, of the distance of the norms at all depths from
the mean of all training images, of the nearest class, and of the predicted class (which `norm_profile` has), beside the
norm and the best other score. Writes results/norm_profile.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import normgate
from normgate import metrics, scores
from normgate.scores.mahalanobis import class_means, covariance, inverse_cholesky
from normgate.scores.norm_profile import NormProfile
from provenance import write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from normgate.features import Features


def distances(train: Features, features: Features, by: str) -> np.ndarray:
    """Negative squared distances of profiles under the covariance about the means that are asked for."""
    score = NormProfile("norm_profile")
    p, x = score._norms(train).log(), score._norms(features).log()
    assert train.labels is not None
    labels = train.labels if by != "all" else torch.zeros_like(train.labels)
    means, index = class_means(p, labels)
    whitening = inverse_cholesky(covariance(p, means, index), score.jitter)
    values = (x[:, None] @ whitening.T - means @ whitening.T).square().sum(dim=2)
    own = features.logits.argmax(dim=1, keepdim=True) if by == "predicted" else values.argmin(dim=1, keepdim=True)
    return -values.gather(1, own)[:, 0].numpy()


def compared(folder: Path) -> dict[str, float | str]:
    """Means over informative probes, families counting once."""
    gate = normgate.Gate.load(folder, device="cpu")
    train, tuning, probes = (gate.kept[name] for name in ("train", "tuning", "probes"))
    report = gate.probes
    assert report is not None
    # The same probes for all: those that some score of the gate sees.
    names = np.array([name.rpartition("#")[0] for name in probes.ids])
    best = next(name for name in report.ranking() if name != "norm_profile")
    found: dict[str, float | str] = {"best other": best}
    found |= {score: mean(report.auroc[score], report.informative) for score in ("norm", best)}
    for by in ("all", "nearest", "predicted"):
        known, unknown = distances(train, tuning, by), distances(train, probes, by)
        auroc = {name: metrics.auroc(known, unknown[names == name]) for name in report.informative}
        found[f"profile, {by}"] = mean(auroc, report.informative)
    exact = scores.create("norm_profile").fit(train)(probes).numpy()
    assert np.allclose(exact, distances(train, probes, "predicted"), rtol=1e-6, atol=1e-6)
    return found


def mean(auroc: Mapping[str, float], probes: Iterable[str]) -> float:
    """Over families of probes, each counting once."""
    families: dict[str, list[float]] = {}
    for name in probes:
        families.setdefault(name.partition("/")[0], []).append(auroc[name])
    return float(np.mean([np.mean(values) for values in families.values()]))


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=Path, required=True, help="where benchmarks/quality.py trained its gates")
    gates = sorted(path.parent for path in parser.parse_args().gates.glob("*-[0-9]/gate.json"))
    write("norm_profile", {"seed": 0, "gates": {path.name: compared(path) for path in gates}})


if __name__ == "__main__":
    main()
