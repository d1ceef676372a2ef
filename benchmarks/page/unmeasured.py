"""What is planned and has not been measured yet, with the command for each."""

from __future__ import annotations

import itertools

import missing
import quality
from page.cells import table

UNMEASURED = """## Still to be measured

What is planned and has no result yet. `python benchmarks/missing.py` prints these commands seed by seed, in the order
of what is missed most, each meant to take less than ten minutes on a large GPU, and `benchmarks/several.py` runs such a
list (`benchmarks/README.md`). `$GATES` and `$PARTS` are folders of your choice."""


def section() -> list[str]:
    """A row for each run, each setting of ablations, and the timings."""
    seeds: dict[str, list[int]] = {}
    for name, seed in missing.runs():
        seeds.setdefault(name, []).append(seed)
    rows = [
        [
            name,
            f"seed {own[0]}" if len(own) == 1 else f"seeds {', '.join(map(str, own))}",
            quality.RUNS[name].tier.upper(),
            f"`{missing.run_command(name, *own)}`",
        ]
        for name in quality.RUNS
        if (own := seeds.get(name))
    ]
    for setting, group in itertools.groupby(missing.variants(), key=lambda item: item[0]):
        names = [variant for _, variant in group]
        command = f"`{missing.variant_command(setting, *names)}`"
        rows.append([f"ablations, {setting}", ", ".join(names), "GPU" if "--at-once" in command else "CPU", command])
    if names := missing.timings():
        rows.append(["speed of training", ", ".join(names), "GPU", f"`speed.py {' '.join(names)}`"])
    return [UNMEASURED, table(["run", "missing", "on a", "command"], rows)] if rows else []
