"""The README's figures are those of the file that it names."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from normgate import scores

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


def test_a_block_is_replaced_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    readme = importlib.import_module("readme")
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    block = "<!-- begin: written by benchmarks/{}.py -->\n{}<!-- end -->\n"
    (tmp_path / "README.md").write_text("a\n" + block.format("one", "1\n") + "b\n" + block.format("two", "2\n") + "c\n")
    readme.put("two.py", "3\n4\n")
    assert (readme.written("one.py"), readme.written("two.py")) == ("1\n", "3\n4\n")
    after = (tmp_path / "README.md").read_text()
    assert after == "a\n" + block.format("one", "1\n") + "b\n" + block.format("two", "3\n4\n") + "c\n"
    with pytest.raises(ValueError, match=r"no place for three\.py"):
        readme.put("three.py", "5\n")


def test_every_file_that_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_picture_of_the_demo_shows_every_score() -> None:
    picture = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")
    assert [name for name in scores.names() if name not in picture] == []
