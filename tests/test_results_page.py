"""docs/results.md is what the files of measured runs say."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "benchmarks" / "results_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_and_files_agree(results_page: ModuleType) -> None:
    found = results_page.runs()
    assert found
    page = results_page.page(found, results_page.ablations())
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page


def test_every_file_says_where_it_comes_from(results_page: ModuleType) -> None:
    for seeds in results_page.runs().values():
        for run in seeds:
            assert {"device", "seed", "commit", "versions", "seconds", "held_out"} <= run.keys()
            assert run["seconds"] > 0


def test_intervals_over_seeds(results_page: ModuleType) -> None:
    """Student's: for 1, 2, 3 the mean is 2 and the half width 4.303 · 1/√3."""
    assert results_page._interval([0.01, 0.02, 0.03]) == "+2.0 (-0.5 to +4.5)"
    assert results_page._interval([0.01]) == "+1.0"


def test_every_run_has_a_place_on_the_page(results_page: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = list(importlib.import_module("quality").RUNS)
    assert len({results_page._order(name) for name in names}) == len(names)
    ordered = ["a-plain", "a-plain-e5", "a-plain-e10", "a-l2", "a-l2-e5", "a-l2-0.1", "a-l2-learned", "b-plain"]
    assert sorted(set(ordered), key=results_page._order) == ordered


def test_runs_of_other_lengths_have_a_table_of_their_own(results_page: ModuleType) -> None:
    run = results_page.runs()["demo-l2"][0]
    runs = {
        name: [{**run, "name": name, "accuracy": accuracy, "recipe": {**run["recipe"], "epochs": epochs}}]
        for name, epochs, accuracy in (("demo-l2", 60, 0.9), ("demo-l2-e5", 5, 0.5), ("demo-l2-e100", 100, 0.95))
    }
    main, _, curve = "\n".join(results_page._section(runs)).partition("How early it is there")
    assert "demo-l2-e" not in main
    rows = [line.split(" | ") for line in curve.splitlines() if line.startswith("| demo-l2")]
    assert [row[1:4] for row in rows] == [["5", "1", "50.0"], ["60", "1", "90.0"], ["100", "1", "95.0"]]


def variant(name: str, predicted: float, near: list[float], probes: list[float]) -> dict:
    """One measured variant, whose probes choose norm_gain."""
    runs = [
        {
            "held": [f"class {index}"],
            "accuracy": 0.9,
            "near": {"norm": a, "norm_gain": a + 0.1, "knn": 0.99},
            "probes": {"norm": b, "norm_gain": b + 0.1, "knn": 0.98},
            "magnitude": "norm_gain",
            "chosen": "knn",
        }
        for index, (a, b) in enumerate(zip(near, probes, strict=True))
    ]
    recipe = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1}
    told = {"device": "CPU", "commit": "abc", "seconds": 3.0, "network": {"model": "resnet18"}, "recipe": recipe}
    return {**told, "setting": "demo", "variant": name, "predicted": {"near": predicted, "why": ""}, "runs": runs}


def test_ablations_stand_beside_their_predictions(results_page: ModuleType) -> None:
    own = {
        "paper": variant("paper", 0, [0.5, 0.6, 0.7], [0.4, 0.4, 0.4]),
        "worse": variant("worse", 1.0, [0.49, 0.58, 0.67], [0.4, 0.4, 0.4]),
        "better": variant("better", -1.0, [0.51, 0.62, 0.73], [0.6, 0.6, 0.6]),
    }
    text = "\n".join(results_page._ablations({"demo": own}))
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| paper", "| worse", "| be"))
    ]
    assert [row[0] for row in rows] == ["paper", "better", "worse"] * 2
    assert rows[1][3:5] == ["-1.0", "+2.0 (-0.5 to +4.5)"]
    assert rows[2][3:5] == ["+1.0", "-2.0 (-4.5 to +0.5)"]
    assert rows[0][6] == "60.0 (55.0–65.0)"  # means of norm_gain's near and probes
    assert rows[1][7] == "+11.0 (+9.8 to +12.2)"
    assert rows[3][1:4] == ["knn", "99.0 (99.0–99.0)", "98.0 (98.0–98.0)"]
