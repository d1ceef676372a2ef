"""What per-image standardisation of the input changes: python benchmarks/standardize.py --gates DIR [--seeds 3].

Trains the demo's signs with the demo's recipe, with and without it, over seeds, and writes results/standardize.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import normgate
import packs
from demo import spread
from provenance import write


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=Path, required=True, help="where gates are trained, or were")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    seeds = list(range(arguments.seeds))
    results: dict[str, Any] = {}
    for name, standardize in (("channels", False), ("image", True)):
        runs = []
        for seed in seeds:
            folder = arguments.gates / (f"demo-{seed}" if not standardize else f"demo-standardized-{seed}")
            gate = packs.trained("demo", folder, seed=seed, standardize=standardize)
            runs.append(normgate.evaluate(gate, packs.test_data("demo"), packs.ood_data("demo")))
        scores = [score for score in runs[0].metrics if all(score in run.metrics for run in runs)]
        results[name] = {
            "accuracy": spread([run.accuracy or 0.0 for run in runs]),
            "auroc": {
                score: {ood: spread([run.metrics[score][ood].auroc for run in runs]) for ood in packs.ood_data("demo")}
                for score in scores
            },
        }
    write("standardize", {"seed": seeds, "recipe": packs.recipe("demo").to_dict(), "normalised by": results})


if __name__ == "__main__":
    main()
