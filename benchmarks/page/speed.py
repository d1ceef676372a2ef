"""How fast training is, and how few seconds of it are enough."""

from __future__ import annotations

import json
from typing import Any

from page.cells import interval, spread, table
from page.runs import RESULTS, Runs, auroc, order


def speeds() -> list[dict[str, Any]]:
    """What speed.py, and quality.py with --speed, have measured."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("speed-*.json"))]


SPEED = """## How fast training is

Where the seconds of one run on one machine of its own went: reading and decoding the images, compilation and first
kernels (*first*: what the first epoch takes beyond another), the epochs of the recipe at their steady rate (the median
epoch), what training does beside its epochs (the network is built and moved, checkpoints are copied), and calibration
with the choice of a score. *Floor* is the arithmetic of the forward and backward passes of all epochs at the rate of a
large matrix product on that machine, and *share* the floor over the steady epochs."""


def section(timed: list[dict[str, Any]]) -> list[str]:
    """Where the seconds go, and the floor."""
    if not timed:
        return []
    head = ["run", "device", "epochs", "batch", "loading", "first", "epochs, steady", "beside"]
    head += ["calibrating", "all", "floor", "share", "images a second"]
    return [
        SPEED,
        table(
            head,
            [
                [
                    run["name"] + (", compiled" if run["compiled"] else ""),
                    run["device"],
                    str(run["recipe"]["epochs"]),
                    str(run["recipe"]["batch_size"]),
                    f"{run['seconds']['loading']:.1f}",
                    f"{run['seconds']['first epoch beyond another']:.1f}",
                    f"{run['seconds']['epoch'] * run['recipe']['epochs']:.1f}",
                    f"{run['seconds']['training beside epochs']:.1f}",
                    f"{run['seconds']['calibrating']:.1f}",
                    f"{run['seconds']['all']:.1f}",
                    f"{run['floor_of_an_epoch'] * run['recipe']['epochs']:.1f}",
                    f"{100 * run['share_of_the_matrix_rate']:.0f} %",
                    f"{run['images_per_second']:.0f}",
                ]
                for run in timed
            ],
        ),
        f"Commits {', '.join(sorted({run['commit'] for run in timed}))}.",
    ]


EARLY = """### How few seconds are enough

The same network and batch, trained for fewer epochs or more: their number times the steady seconds of one, from the
table above, and what the norm and the score that probes choose are then worth near, less what they are after the usual
number. What comes before the first epoch and after the last is the same for all."""


def early(timed: list[dict[str, Any]], found: Runs) -> list[str]:
    """Steady seconds beside near AUROC, for every run whose epochs were timed."""
    rows = []
    for name, seeds in found.items():
        epoch = next((own["seconds"]["epoch"] for own in timed if _step(own) == _step(seeds[0])), None)
        base, kind, length = order(name)
        lengths = [other for other in found if order(other)[:2] == (base, kind)]
        if epoch is None or len(lengths) < 2:
            continue
        usual = {run["seed"]: run for run in found.get(name.removesuffix(f"-e{length}"), [])} if length else {}
        epochs = seeds[0]["recipe"]["epochs"]
        row = [name, str(epochs), str(len(seeds)), f"{epoch * epochs:.1f}", spread([run["accuracy"] for run in seeds])]
        for score in ("norm", None):
            own = {run["seed"]: auroc(run, score or run["chosen"], "mean near") for run in seeds}
            others = {seed: auroc(run, score or run["chosen"], "mean near") for seed, run in usual.items()}
            row += [spread(list(own.values())), interval([own[seed] - others[seed] for seed in own.keys() & others])]
        rows.append((epochs, row))
    head = ["run", "epochs", "seeds", "seconds", "accuracy", "norm near", "difference", "chosen near", "difference"]
    return [EARLY, table(head, [row for _, row in sorted(rows)])] if rows else []


def _step(run: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the seconds of an epoch depend on."""
    return run["network"], {name: value for name, value in run["recipe"].items() if name != "epochs"}
