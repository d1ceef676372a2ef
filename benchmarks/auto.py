"""The score that probes choose, against every score in hindsight.

    python benchmarks/auto.py --gates DIR [--packs demo cifar10 tinyimagenet100] [--seeds 3]

Trains a gate for each pack and seed below DIR (or reads it, if an earlier run left it there), with `score="auto"`, and
evaluates every score on the valid OoD sets, none of which took part in the choice. Packs other than the demo's have one
seed. Writes results/auto.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import normgate
import packs
from provenance import write

ALWAYS = ("norm", "energy", "energy_raw", "knn", "mahalanobis", "polar")


def report(pack: str, seed: int, gates: Path, precision: str | None) -> dict[str, Any]:
    """Choice, hindsight and every figure behind them, in AUROC as shares of 1."""
    gate = packs.trained(pack, gates / f"{pack}-{seed}", seed=seed, hardware=normgate.Hardware(precision=precision))
    gate = gate.recalibrate(score="auto")  # of a gate that an earlier version left there the choice is not this one's
    assert gate.probes is not None
    evaluation = normgate.evaluate(gate, packs.test_data(pack), packs.ood_data(pack))
    sets = [name for name in evaluation.images if name != "id"]
    auroc = {score: {name: by_set[name].auroc for name in sets} for score, by_set in evaluation.metrics.items()}
    means = {score: sum(by_set.values()) / len(sets) for score, by_set in auroc.items()}
    best = max(means, key=lambda score: means[score])
    choice = gate.score.name
    parts = ("energy_raw", "mahalanobis")
    far = packs.groups(pack)["far"]
    return {
        "pack": pack,
        "seed": seed,
        "accuracy": evaluation.accuracy,
        "choice": choice,
        "mean_of_choice": means[choice],
        "best_in_hindsight": best,
        "mean_of_best": means[best],
        "short_of_best": means[best] - means[choice],
        "always": {score: means[score] for score in ALWAYS},
        "polar": {
            "least_far": min(auroc["polar"][name] for name in far),
            "most_below_better_part": max(
                max(auroc[part][name] for part in parts) - auroc["polar"][name] for name in sets
            ),
        },
        "probe_means": {score: gate.probes.mean(score) for score in gate.probes.ranking()},
        "uninformative": list(gate.probes.uninformative),
        "means": dict(sorted(means.items(), key=lambda item: -item[1])),
        "auroc": auroc,
        "refused": evaluation.refused,
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=Path, required=True, help="where gates are trained, or were")
    parser.add_argument("--packs", nargs="+", default=["demo", "cifar10", "tinyimagenet100"])
    parser.add_argument("--seeds", type=int, default=3, help="of the demo's signs")
    parser.add_argument("--precision", help="of training; see normgate train --help")
    arguments = parser.parse_args()
    runs = [
        report(pack, seed, arguments.gates, arguments.precision if pack != "demo" else None)
        for pack in arguments.packs
        for seed in range(arguments.seeds if pack == "demo" else 1)
    ]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def over_packs(figure: Any) -> float:
        """Each pack counts once, however many seeds it has."""
        return mean([mean([figure(run) for run in runs if run["pack"] == pack]) for pack in arguments.packs])

    write(
        "auto",
        {
            "seed": sorted({run["seed"] for run in runs}),
            "mean": {
                "auto": over_packs(lambda run: run["mean_of_choice"]),
                **{f"always {score}": over_packs(lambda run, score=score: run["always"][score]) for score in ALWAYS},
                "hindsight": over_packs(lambda run: run["mean_of_best"]),
            },
            "short_of_best": {
                pack: mean([run["short_of_best"] for run in runs if run["pack"] == pack]) for pack in arguments.packs
            },
            "polar": {
                "least_far": min(run["polar"]["least_far"] for run in runs),
                "most_below_better_part": max(run["polar"]["most_below_better_part"] for run in runs),
            },
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
