"""How to join magnitude and direction, decided on probes alone: python benchmarks/polar.py --gates DIR.

For each gate below DIR (as benchmarks/auto.py trains them): AUROC of tuning images against each probe that at least one
of the two parts sees, for three combinations of their smooth p-values. Writes results/polar.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import normgate
from normgate import metrics, scores
from provenance import write

RULES = {
    "Fisher: sum of logarithms": lambda logs: logs.sum(axis=1),
    "harmonic mean": lambda logs: -np.logaddexp(-logs[:, 0], -logs[:, 1]),
    "Tippett: minimum": lambda logs: logs.min(axis=1),
}


def combined(folder: Path) -> dict[str, dict[str, float]]:
    """By rule: mean AUROC over the probes, and how far it is below the better part, at most and on average."""
    gate = normgate.Gate.load(folder, device="cpu")
    direction, magnitude = scores.create("mahalanobis").fit(gate.kept["train"]), scores.create("energy_raw")
    known, unknown = (
        np.stack([part(gate.kept[name]).numpy() for part in (magnitude, direction)], axis=1)
        for name in ("tuning", "probes")
    )
    median, low = np.median(known, axis=0), np.quantile(known, 0.05, axis=0)

    def logs(parts: np.ndarray) -> np.ndarray:
        return -np.logaddexp(0, -np.log(19) * (parts - median) / (median - low))

    names = np.array([name.rpartition("#")[0] for name in gate.kept["probes"].ids])
    masks = [names == name for name in dict.fromkeys(names.tolist())]
    better = [max(metrics.auroc(known[:, i], unknown[mask, i]) for i in (0, 1)) for mask in masks]
    seen = [(mask, value) for mask, value in zip(masks, better, strict=True) if value >= 0.6]
    found = {}
    for name, rule in RULES.items():
        values = [metrics.auroc(rule(logs(known)), rule(logs(unknown[mask]))) for mask, _ in seen]
        losses = [value - own for (_, value), own in zip(seen, values, strict=True)]
        found[name] = {
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
