"""Commands of benchmarks/README.md are those behind the results, and what benchmarks/missing.py prints can be given."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from normgate import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return {f"{name}.py": importlib.import_module(name) for name in ("quality", "ablation", "missing", "provenance")}


def commands(text: str) -> list[list[str]]:
    """As a shell reads them, braces expanded."""
    lines = re.findall(r"^python benchmarks/(?:quality|ablation)\.py .*", text, re.MULTILINE)
    words = [
        subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True).stdout
        for line in lines
    ]
    return [line.replace("python\nbenchmarks/", "").split() for line in words]


def given(benchmarks: dict[str, ModuleType], command: list[str]) -> dict:
    script, *arguments = command
    return vars(benchmarks[script].options().parse_args(arguments))


def test_results_are_those_of_the_commands(benchmarks: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATES", "gates")
    quality, ablation = benchmarks["quality.py"], benchmarks["ablation.py"]
    told: dict[str, tuple[str, bool]] = {}
    for command in commands(README):
        found = given(benchmarks, command)
        how = found["precision"], found["compile"]
        if command[0] == "quality.py":
            for name in found["names"]:
                told |= {f"quality-{name}-{seed}": how for seed in found["seeds"] or range(quality.RUNS[name].seeds)}
        else:
            variants = found["variants"] or ablation.SETTINGS[found["setting"]].variants
            told |= {f"ablation-{found['setting']}-{variant}": how for variant in variants}
    there = {path.stem for path in RESULTS.glob("*.json") if path.stem.startswith(("quality-", "ablation-"))}
    assert sorted(there) == sorted(told)
    for name, (precision, compiled) in told.items():
        run = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        default = "bf16-mixed" if run["device"].startswith("NVIDIA") else "32-true"
        assert run["precision"] == (precision or default), name
        assert run.get("compiled", compiled) == compiled or "radial" in name, name


def test_runs_were_measured_as_they_are_planned(benchmarks: dict[str, ModuleType]) -> None:
    quality = benchmarks["quality.py"]
    for path in RESULTS.glob("quality-*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        plan = quality.RUNS[run["name"]]
        assert run["seed"] in range(plan.seeds)
        assert Recipe.from_dict(run["recipe"]) == quality.packs.recipe(plan.pack, **plan.changes)
        assert run["network"] == json.loads(json.dumps(plan.network))


def test_what_is_missing_can_be_run_as_it_is_said(benchmarks: dict[str, ModuleType]) -> None:
    missing = benchmarks["missing.py"]
    found = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "missing.py", "--gates", "a b", "--parts", "c"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(found) == len(missing.runs()) + len(missing.variants()) + len(missing.timings())
    for line in found:
        command = shlex.split(line)
        if command[0] != "speed.py":
            told = given(benchmarks, command)
            assert told["missing"]
            assert command[0] != "quality.py" or told["gates"] == Path("a b")


def test_what_has_a_result_is_not_missing(
    benchmarks: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = benchmarks["missing.py"]
    for script in ("quality.py", "ablation.py", "missing.py"):
        monkeypatch.setattr(benchmarks[script], "RESULTS", tmp_path)
    everything = missing.runs()
    assert [seed for _, seed in everything] == sorted(seed for _, seed in everything)
    name, seed = everything[-1]
    (tmp_path / f"quality-{name}-{seed}.json").touch()
    setting, variant = missing.variants()[0]
    (tmp_path / f"ablation-{setting}-{variant}.json").touch()
    (tmp_path / "speed-resnet18.json").touch()
    assert missing.runs() == everything[:-1]
    assert (setting, variant) not in missing.variants()
    assert "resnet18" not in missing.timings()
