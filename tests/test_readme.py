"""The README's figures are those of the file that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_the_demo_is_that_of_the_benchmark() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))
    own = {f"`{score}`": by_set for score, by_set in found["auroc"].items()} | {"**chosen by probes**": found["auto"]}
    rows = re.findall(r"^\| (`\w+`|\*\*chosen by probes\*\*) \|(.*)\|$", README, re.MULTILINE)
    assert len(rows) >= 5
    for name, cells in rows:
        expected = [f"{100 * value['mean']:.1f} ({100 * value['min']:.1f})" for value in own[name].values()]
        assert [cell.strip() for cell in cells.split("|")] == expected
    accuracy = found["accuracy"]
    assert f"Accuracy {100 * accuracy['mean']:.1f} % (worst {100 * accuracy['min']:.1f} %)" in README


def test_every_file_that_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
