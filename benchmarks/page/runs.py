"""Runs of benchmarks/quality.py: their files, their order, and figures of their seeds."""

from __future__ import annotations

import collections
import json
import re
from pathlib import Path
from typing import Any

from page.cells import mean

RESULTS = Path(__file__).parents[1] / "results"
PACKS = {
    "demo": "Hand signs (the embedded demo set)",
    "cifar10": "CIFAR-10",
    "tinyimagenet100": "Tiny-ImageNet, 100 classes",
}
KINDS: tuple[str, ...] = ("plain", "l2", "l2-0.1", "l2-learned")
KINDS += ("patterns", "patterns-all", "patterns-rotations", "patterns-radial")
Run = dict[str, Any]
Runs = dict[str, list[Run]]


def runs() -> Runs:
    """Every run by name, its seeds in order."""
    found: Runs = collections.defaultdict(list)
    for path in sorted(RESULTS.glob("quality-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["name"]].append(run)
    return {name: sorted(found[name], key=lambda run: run["seed"]) for name in sorted(found, key=order)}


def order(name: str) -> tuple[str, int, int]:
    """Plain training first, then the paper's, then others; runs of other lengths by their epochs."""
    kinds = "|".join(re.escape(kind) for kind in sorted(KINDS, key=len, reverse=True))
    matched = re.fullmatch(rf"(.+?)-({kinds})(?:-e(\d+))?", name)
    assert matched is not None, name
    base, kind, epochs = matched.groups()
    return base, KINDS.index(kind), int(epochs or 0)


def plain_of(name: str) -> str:
    """The run of plain training that a run is compared with, as long as it."""
    base, _, epochs = order(name)
    return f"{base}-plain" + (f"-e{epochs}" if epochs else "")


def beside_plain(name: str, found: Runs) -> list[tuple[Run, Run]]:
    """Each seed of a run beside the same seed of plain training; none of plain training itself."""
    plain = plain_of(name)
    if name == plain:
        return []
    others = {run["seed"]: run for run in found.get(plain, [])}
    return [(run, others[run["seed"]]) for run in found[name] if run["seed"] in others]


def network(run: Run) -> str:
    """Its settings in words."""
    return ", ".join(f"{key}={value}" for key, value in run["network"].items())


def auroc(run: Run, score: str, where: str) -> float:
    """Of a score on a set, or on "mean near" or "mean far"."""
    return float(run["metrics"][score][where]["auroc"])


def of(seeds: list[Run], score: str, where: str) -> list[float]:
    """As `auroc`, of the seeds whose network has the score."""
    return [auroc(run, score, where) for run in seeds if score in run["metrics"]]


def means(seeds: list[Run], where: str) -> dict[str, float]:
    """The mean AUROC over seeds of every score that all of them have."""
    return {
        score: mean([auroc(run, score, where) for run in seeds])
        for score in seeds[0]["metrics"]
        if all(score in run["metrics"] for run in seeds)
    }


def best(seeds: list[Run], where: str) -> tuple[str, float]:
    """The score that is best in the mean over seeds, and its AUROC."""
    return max(means(seeds, where).items(), key=lambda item: item[1])


def seconds(seeds: list[Run]) -> str:
    """Of training; of runs that shared their machine, or do not say that they did not, they would say little."""
    own = [run["seconds"] for run in seeds if shared(run) == 1]
    return f"{mean(own):.0f}" if own else "–"


def shared(run: Run) -> int | None:
    """How many shared its machine; None where that was not written down."""
    return None if (found := run.get("at_once")) is None else int(found)
