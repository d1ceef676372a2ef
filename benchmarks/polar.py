"""How to join magnitude and direction, decided on probes alone: python benchmarks/polar.py --gates DIR.

For each gate below DIR (as benchmarks/auto.py trains them): AUROC of tuning images against each probe that at least one
of the two parts sees, for three combinations of their p-values. These are made smooth in two ways: logistic through the
median and the 5 % quantile, or quantile by quantile with an exponential tail below the 5 % quantile. Writes
results/polar.json.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import normgate
from normgate import metrics, scores
from provenance import write

if TYPE_CHECKING:
    from collections.abc import Callable

QUANTILE = 0.05
RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fisher: sum of logarithms": lambda logs: logs.sum(axis=1),
    "harmonic mean": lambda logs: -np.logaddexp(-logs[:, 0], -logs[:, 1]),
    "Tippett: minimum": lambda logs: logs.min(axis=1),
}


def logistic(parts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Logarithms of p = 1/(1 + 19^−t): 1/2 at the median of the tuning scores and 1/20 at their 5 % quantile."""
    median, low = np.median(known, axis=0), np.quantile(known, QUANTILE, axis=0)
    logs: np.ndarray = -np.logaddexp(0, -np.log(1 / QUANTILE - 1) * (parts - median) / (median - low))
    return logs


def tailed(parts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """As polar has them: interpolated between quantiles of the tuning scores, with an exponential tail below."""
    shares = np.linspace(QUANTILE, 1, 50)
    knots = np.quantile(known, shares, axis=0)
    inner = np.stack([np.interp(*columns, np.log(shares)) for columns in zip(parts.T, knots.T, strict=True)], axis=1)
    excess = np.array([np.mean((low - part)[part <= low]) for low, part in zip(knots[0], known.T, strict=True)])
    return np.where(parts < knots[0], np.log(QUANTILE) - (knots[0] - parts) / excess, inner)


SCALES = {"logistic": logistic, "quantiles and exponential tail": tailed}


def combined(folder: Path) -> dict[str, dict[str, float]]:
    """By rule: mean AUROC over the probes, and how far it is below the better part, at most and on average."""
    gate = normgate.Gate.load(folder, device="cpu")
    direction, magnitude = scores.create("mahalanobis").fit(gate.kept["train"]), scores.create("energy_raw")
    known, unknown = (
        np.stack([part(gate.kept[name]).numpy() for part in (magnitude, direction)], axis=1)
        for name in ("tuning", "probes")
    )
    names = np.array([name.rpartition("#")[0] for name in gate.kept["probes"].ids])
    masks = [names == name for name in dict.fromkeys(names.tolist())]
    better = [max(metrics.auroc(known[:, i], unknown[mask, i]) for i in (0, 1)) for mask in masks]
    seen = [(mask, value) for mask, value in zip(masks, better, strict=True) if value >= 0.6]
    found = {}
    for (scale, logs), (name, rule) in itertools.product(SCALES.items(), RULES.items()):
        reference = rule(logs(known, known))
        values = [metrics.auroc(reference, rule(logs(unknown[mask], known))) for mask, _ in seen]
        losses = [value - own for (_, value), own in zip(seen, values, strict=True)]
        found[f"{name}; {scale}"] = {
            "auroc": float(np.mean(values)),
            "loss": float(np.mean(losses)),
            "largest_loss": float(np.max(losses)),
        }
    return found


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=Path, required=True, help="where benchmarks/auto.py trained its gates")
    folder = parser.parse_args().gates
    gates = sorted(path.parent for path in folder.glob("*-[0-9]/gate.json") if "standardized" not in path.parent.name)
    write("polar", {"seed": 0, "gates": {path.name: combined(path) for path in gates}})


if __name__ == "__main__":
    main()
