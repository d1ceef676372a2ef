"""What is planned and has no result yet, a command a line.

    python benchmarks/missing.py [TIER] [--gates DIR] [--parts DIR]

TIER is `cpu` or `gpu`, by default both. The lines are a list for several.py, in the order of what is missed most: the
first seeds of all runs of quality.py, then further ones, then ablations and speed. `python benchmarks/results_page.py`
puts them on the page.
"""

from __future__ import annotations

import argparse
import shlex

import ablation
import quality
import speed
from provenance import RESULTS

AT_ONCE = 3
"""Of an ablation's networks, on a GPU."""


def runs() -> list[tuple[str, int]]:
    """Names and seeds of quality.py, first seeds first."""
    planned = [(name, seed) for name, run in quality.RUNS.items() for seed in range(run.seeds)]
    return sorted((run for run in planned if not quality.result(*run).exists()), key=lambda run: run[1])


def variants() -> list[tuple[str, str]]:
    """Settings and variants of ablation.py."""
    planned = [(name, variant) for name, setting in ablation.SETTINGS.items() for variant in setting.variants]
    return [each for each in planned if not ablation.result(*each).exists()]


def timings() -> list[str]:
    """Names of speed.py, all for a GPU that nothing else uses."""
    return [name for name in speed.RUNS if not (RESULTS / f"speed-{name}.json").exists()]


def run_command(name: str, *seeds: int, gates: str = "$GATES") -> str:
    """Of quality.py."""
    run = quality.RUNS[name]
    how = "--precision bf16-mixed" if run.tier == "cpu" else ""
    if run.tier == "gpu" and not run.changes.get("radial"):
        how = "--compile"
    told = f"quality.py {name} --gates {gates} --seeds {' '.join(map(str, seeds))} --missing"
    return f"{told} {how}".strip()


def variant_command(setting: str, *names: str, parts: str = "$PARTS") -> str:
    """Of ablation.py."""
    gpu = f" --parts {parts} --at-once {AT_ONCE} --compile" if ablation.SETTINGS[setting].tier == "gpu" else ""
    return f"ablation.py {setting} {' '.join(names)} --missing --precision bf16-mixed{gpu}"


def main() -> None:
    """Print the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tier", nargs="?", choices=["cpu", "gpu"])
    parser.add_argument("--gates", help="folder for trained gates")
    parser.add_argument("--parts", help="folder for the figures of single networks of ablations")
    arguments = parser.parse_args()
    gates, parts = (
        default if given is None else shlex.quote(given)
        for given, default in ((arguments.gates, "$GATES"), (arguments.parts, "$PARTS"))
    )
    tiers = {arguments.tier or "cpu", arguments.tier or "gpu"}
    for name, seed in runs():
        if quality.RUNS[name].tier in tiers:
            print(run_command(name, seed, gates=gates))
    for setting, variant in variants():
        if ablation.SETTINGS[setting].tier in tiers:
            print(variant_command(setting, variant, parts=parts))
    if "gpu" in tiers:
        for name in timings():
            print(f"speed.py {name}")


if __name__ == "__main__":
    main()
