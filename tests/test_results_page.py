"""docs/results.md is what the files of measured runs say."""

from __future__ import annotations

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
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == results_page.page(found)


def test_every_file_says_where_it_comes_from(results_page: ModuleType) -> None:
    for seeds in results_page.runs().values():
        for run in seeds:
            assert {"device", "seed", "commit", "versions", "seconds", "held_out"} <= run.keys()
            assert run["seconds"] > 0


def test_intervals_over_seeds(results_page: ModuleType) -> None:
    """Student's: for 1, 2, 3 the mean is 2 and the half width 4.303 · 1/√3."""
    assert results_page._interval([0.01, 0.02, 0.03]) == "+2.0 (-0.5 to +4.5)"
    assert results_page._interval([0.01]) == "+1.0"
