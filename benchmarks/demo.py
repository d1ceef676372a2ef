"""The demo over seeds: python benchmarks/demo.py [--seeds 3] writes results/demo.json."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from normgate.demo import demo
from provenance import write


def spread(values: list[float]) -> dict[str, float]:
    """Mean, worst and best of a figure over seeds."""
    return {"mean": sum(values) / len(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Run the demo for each seed and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    with tempfile.TemporaryDirectory() as name:
        runs: list[dict[str, Any]] = [demo(Path(name) / str(seed), seed=seed).to_dict() for seed in seeds]
    scores = runs[0]["auroc"]
    values = {
        "seed": seeds,
        "accuracy": spread([run["accuracy"] for run in runs]),
        "auroc": {
            score: {name: spread([run["auroc"][score][name] for run in runs]) for name in by_set}
            for score, by_set in scores.items()
        },
        "false_alarm_rate": [run["false_alarm_rate"] for run in runs],
        "seconds": spread([run["seconds"] for run in runs]),
    }
    write("demo", values)


if __name__ == "__main__":
    main()
