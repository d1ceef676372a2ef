"""The demo over seeds: python benchmarks/demo.py [--seeds 3].

Writes results/demo.json, the table that the README shows of it, and docs/demo.svg, what the demo printed for seed 0.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import readme
from normgate import demo, tables
from normgate.console import Terminal
from normgate.evaluation import Spread
from provenance import write

ROOT = Path(__file__).parents[1]
SHOWN = ("norm", "norm_gain", "norm_profile", "msp", "energy", "energy_raw", "knn", "mahalanobis", "polar")


class Picture(Terminal):
    """Records what is printed, with long lines wrapped as a terminal wraps them."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As `Console.print`."""
        super().print(*objects, **{**options, "soft_wrap": False})


def spread(values: list[float]) -> dict[str, float]:
    """Mean, worst and best of a figure over seeds."""
    return vars(Spread.of(values))


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several runs of the demo."""
    scores = [score for score in runs[0]["auroc"] if all(score in run["auroc"] for run in runs)]
    auto = [run["auroc"][run["score"]] for run in runs]
    return {
        "seed": list(range(len(runs))),
        "accuracy": spread([run["accuracy"] for run in runs]),
        "auroc": {
            score: {name: spread([run["auroc"][score][name] for run in runs]) for name in demo.OUTLIERS}
            for score in scores
        },
        "auto": {name: spread([own[name] for own in auto]) for name in demo.OUTLIERS},
        "choice": [run["score"] for run in runs],
        "false_alarm_rate": [run["false_alarm_rate"] for run in runs],
        "seconds": spread([run["seconds"] for run in runs]),
    }


def markdown(values: dict[str, Any]) -> str:
    """The README's table: AUROC in points, mean and worst seed."""

    def row(name: str, by_set: dict[str, dict[str, float]]) -> str:
        cells = [f"{100 * own['mean']:.1f} ({100 * own['min']:.1f})" for own in by_set.values()]
        return " | ".join([f"| {name}", *cells]) + " |"

    chosen = ", ".join(f"`{score}`" for score in values["choice"])
    lines = [
        "| score | " + " | ".join(demo.OUTLIERS) + " |",
        "|---|" + "---:|" * len(demo.OUTLIERS),
        *(row(f"`{score}`", values["auroc"][score]) for score in SHOWN),
        row("**chosen by probes**", values["auto"]),
        "",
        f"Accuracy {100 * values['accuracy']['mean']:.1f} % (worst {100 * values['accuracy']['min']:.1f} %). "
        f"For seeds {values['seed'][0]} to {values['seed'][-1]} the probes chose {chosen}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the demo for each seed and write what it gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    runs = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(parser.parse_args().seeds):
            # Relative, so that the picture shows no folder of this machine.
            with contextlib.chdir(name):
                result = demo.demo("normgate-demo", seed=seed)
            runs.append(result.to_dict())
            if seed == 0:
                screen = Picture(record=True, width=100, highlight=False, markup=False, file=io.StringIO())
                with mock.patch.object(tables, "out", screen):
                    tables.print_demo(result)
                screen.save_svg(str(ROOT / "docs" / "demo.svg"), title="normgate demo")
    values = summary(runs)
    write("demo", values)
    readme.put("demo.py", markdown(values))


if __name__ == "__main__":
    main()
