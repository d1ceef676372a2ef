"""docs/results.md is what the files of measured runs say."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from normgate.demo import NETWORK, RECIPE

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
    page = results_page.page(
        found, results_page.ablations(), results_page.speeds(), results_page.trials(), results_page.operations()
    )
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page


def test_the_readme_has_the_gains_over_plain_training(
    results_page: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = results_page.runs()
    assert importlib.import_module("readme").written("results_page.py") == results_page.summary(found)
    row = next(line for line in results_page.summary(found).splitlines() if line.startswith("| CIFAR-10: resnet18, 60"))
    seeds = [
        [run["metrics"]["norm"]["mean near"]["auroc"] for run in found[f"cifar10-resnet18-{name}"]]
        for name in ("plain", "l2")
    ]
    assert len(seeds[0]) == len(seeds[1])
    assert f"{100 * np.mean(seeds[0]):.1f} → {100 * np.mean(seeds[1]):.1f}" in row


def test_the_speed_of_screening_and_delays_are_those_of_the_files(results_page: ModuleType) -> None:
    measured = results_page.operations()
    page = "\n".join([*results_page._screening(measured), *results_page._shift(measured["shift"])])
    onnx = measured["screening"]["networks"]["slim ResNet18 (width 16), 32 px"]["images_per_second"]["onnx"]
    assert re.search(rf"\| slim ResNet18 \(width 16\), 32 px \|.* {onnx:.0f} \|", page)
    served = measured["serving"]["demo"]["throughput"]["16 a request"]["images_per_second"]
    assert f"| the demo's | 16 a request | {served:.0f} |" in page
    few = measured["shift"]["delays"]["cifar100-test, 0.05, after 0"]
    assert f"| {few['median_delay']:.0f} ({few['raised']} of {few['orders']}) |" in page


def test_every_file_says_where_it_comes_from(results_page: ModuleType) -> None:
    for seeds in results_page.runs().values():
        for run in seeds:
            assert {"device", "seed", "commit", "versions", "seconds", "held_out"} <= run.keys()
            assert run["seconds"] > 0


def test_intervals_over_seeds(results_page: ModuleType) -> None:
    """Student's: for 1, 2, 3 the mean is 2 and the half width 4.303 · 1/√3."""
    assert results_page._interval([0.01, 0.02, 0.03]) == "+2.0 (-0.5 to +4.5)"
    assert results_page._interval([0.01]) == "+1.0"


def test_the_demo_is_trained_as_held_out_signs_decided(results_page: ModuleType) -> None:
    tried = results_page.trials()["recipes"]
    best = max(tried, key=lambda name: tried[name]["auroc"])
    assert best == f"{RECIPE.epochs} epochs, batch {RECIPE.batch_size}, rate {RECIPE.learning_rate}"
    assert NETWORK["model_args"]["zero_init_last"] is False


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


def test_runs_of_other_lengths_are_compared_with_plain_ones_as_long(results_page: ModuleType) -> None:
    run = results_page.runs()["demo-l2"][0]
    norm = run["metrics"]["norm"]
    runs = {
        name: [
            {
                **run,
                "name": name,
                "recipe": {**run["recipe"], "epochs": epochs},
                "metrics": {"norm": {**norm, "mean near": {**norm["mean near"], "auroc": near}}},
                "chosen": "norm",
            }
        ]
        for name, epochs, near in (
            ("demo-plain", 60, 0.8),
            ("demo-plain-e5", 5, 0.6),
            ("demo-l2", 60, 0.85),
            ("demo-l2-e5", 5, 0.5),
            ("demo-l2-e100", 100, 0.9),
        )
    }
    _, _, table = "\n".join(results_page._section(runs)).partition("Minus plain training of as many epochs")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| demo-l2")]
    assert [row[:3] for row in rows if "+0.0" in row[3]] == [["| demo-l2-e5", "1", "-10.0"], ["| demo-l2", "1", "+5.0"]]


def variant(name: str, predicted: float, near: list[float], probes: list[float], **told: object) -> dict:
    """One measured variant, whose probes choose norm_gain."""
    runs = [
        {
            "held": [f"class {index}"],
            "accuracy": 0.9,
            "near": {"norm": a, "norm_gain": a + 0.1, "knn": 0.99},
            "probes": {
                "norm": {"flat": b - 0.1, "light": b + 0.1, "pose": 0.0},
                "norm_gain": {"flat": b, "light": b + 0.2, "pose": 0.0},
                "knn": {"flat": 0.96, "light": 1.0, "pose": 0.0},
            },
            "magnitude": "norm_gain",
            "chosen": "knn",
        }
        for index, (a, b) in enumerate(zip(near, probes, strict=True))
    ]
    recipe = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1, "temperature": 1.0}
    usual = {"device": "CPU", "commit": "abc", "seconds": 3.0, "network": {"model": "resnet18"}, "recipe": recipe}
    usual |= {"judged_by": ["flat", "light"], "precision": "32-true", "setting": "demo", "variant": name}
    return {**usual, "predicted": {"near": predicted, "why": ""}, "runs": runs, **told}


PAPER = variant("paper", 0, [0.5, 0.6, 0.7], [0.4, 0.4, 0.4])
WORSE = variant("worse", 1.0, [0.49, 0.58, 0.67], [0.4, 0.4, 0.4])
BETTER = variant("better", -1.0, [0.51, 0.62, 0.73], [0.6, 0.6, 0.6])


def rows(text: str) -> list[list[str]]:
    names = ("| paper", "| worse", "| better")
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(names)]


def test_ablations_stand_beside_their_predictions(results_page: ModuleType) -> None:
    found = rows("\n".join(results_page._ablations({"demo": {"paper": PAPER, "worse": WORSE, "better": BETTER}})))
    assert [row[0] for row in found] == ["paper", "better", "worse"] * 2
    assert found[1][3:5] == ["-1.0", "+2.0 (-0.5 to +4.5)"]
    assert found[2][3:5] == ["+1.0", "-2.0 (-4.5 to +0.5)"]
    assert found[0][5] == "40.0 (40.0–40.0)"
    assert found[0][6] == "60.0 (55.0–65.0)"  # means of norm_gain's near and probes
    assert found[1][7] == "+11.0 (+9.8 to +12.2)"
    assert found[3][1:4] == ["norm_gain", "70.0 (60.0–80.0)", "50.0 (50.0–50.0)"]
    assert found[3][4:7] == ["knn", "99.0 (99.0–99.0)", "98.0 (98.0–98.0)"]


def test_ablations_that_are_not_all_there_yet(results_page: ModuleType) -> None:
    found = rows("\n".join(results_page._ablations({"demo": {"worse": WORSE, "better": BETTER}})))
    assert [row[4] for row in found[:2]] == ["–", "–"]
    fewer = {**BETTER, "runs": BETTER["runs"][1:]}
    found = rows("\n".join(results_page._ablations({"demo": {"paper": PAPER, "better": fewer}})))
    assert found[1][4] == "+2.5 (-3.9 to +8.9)"
    without = [{**run, "near": {"norm_gain": 0.9, "knn": 0.9}} for run in BETTER["runs"]]
    found = rows("\n".join(results_page._ablations({"demo": {"paper": PAPER, "better": {**BETTER, "runs": without}}})))
    assert found[1][2:5:2] == ["–", "–"]
    assert results_page._ablations({}) == []


def test_intervals_over_groups_of_classes(results_page: ModuleType) -> None:
    """Student's where no class is in two groups, else the jackknife.

    With gains x_a + x_b over all pairs of n classes the mean is 2 x̄, whose error is 2 s/√n.
    """
    apart = {("a", "b"): 0.01, ("c", "d"): 0.02, ("e", "f"): 0.03}
    assert results_page._over_classes(apart) == "+2.0 (-0.5 to +4.5)"
    own = dict(zip("abcdefgh", np.random.default_rng(0).normal(size=8), strict=True))
    pairs = {(a, b): own[a] + own[b] for a, b in itertools.combinations(own, 2)}
    reach = 2 * np.std(list(own.values()), ddof=1) / math.sqrt(8) * stats.t.ppf(0.975, 7)
    assert results_page._reach_over_classes(pairs) == pytest.approx(reach, rel=1e-12)
    assert results_page._reach_over_classes({("a", "b"): 0.1}) == math.inf
    assert results_page._reach_over_classes({("a", "b"): 0.1, ("a", "c"): 0.2}) == math.inf


def test_all_pairs_stand_for_some_and_short_runs_for_none(results_page: ModuleType) -> None:
    own = {"paper": PAPER, "better": BETTER}
    none = {"paper": PAPER, "better": {**BETTER, "runs": [{**run, "accuracy": 0.5} for run in BETTER["runs"]]}}
    variants = {"demo": none, "demo-pairs": own, "cifar10-slim": own, "cifar10-slim-short": none}
    assert "By the rule better is" in results_page.verdict(variants)
    assert "in demo it costs" in results_page.verdict({"demo": none, "cifar10-slim": own})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, r"\*\*By the rule better is the default recipe\*\*: better gains most, \+11.0"),
        ({"seconds": 4.4}, "By the rule better is"),
        ({"seconds": 6.0}, "it takes longer, and epochs-double was not run in every setting"),
        ({"seconds": 6.0, "at_once": 2}, "how long it takes was not measured"),
        ({"seconds": 4.4, "compiled": True}, "how long it takes was not measured"),
        ({"runs": BETTER["runs"][:1]}, "its gain, .10.5, is not above its interval"),
        ({"runs": [{**run, "accuracy": 0.88} for run in BETTER["runs"]]}, "it costs 2.0 points of accuracy"),
        ({"recipe": {**BETTER["recipe"], "temperature": None}}, "stays the paper's.*worse, the only candidate, gains"),
    ],
)
def test_the_rule_is_followed(changes: dict, said: str, results_page: ModuleType) -> None:
    own = {"paper": PAPER, "worse": WORSE, "better": {**BETTER, **changes}}
    assert re.search(said, results_page.verdict({"demo": own, "cifar10-slim": own}))
    assert "asks for runs on two data sets" in results_page.verdict({"demo": own})
    assert "asks for runs on two data sets" in results_page.verdict({"cifar10-slim": own, "cifar10-resnet18": own})
    assert "was not run in b yet" in results_page.verdict({"a": own, "b": {"better": BETTER}})
    strange = {**BETTER, "runs": [{**run, "held": ["another class"]} for run in BETTER["runs"]]}
    assert "worse, the only candidate, gains" in results_page.verdict({"a": own, "b": {**own, "better": strange}})
    alone = {"paper": PAPER, "worse": WORSE}
    said = results_page.verdict({"demo": alone, "cifar10-slim": own})
    assert "worse, the only candidate, gains -1.0" in said
    assert "better" not in results_page.verdict({"demo": own, "cifar10-slim": alone})


def test_more_time_must_be_worth_more_than_more_epochs(results_page: ModuleType) -> None:
    longer = {**BETTER, "variant": "epochs-double"}
    own = {"paper": PAPER, "better": {**BETTER, "seconds": 6.0}, "epochs-double": longer}
    assert "twice the epochs gain as much" in results_page.verdict({"demo": own, "cifar10-slim": own})


def test_runs_that_are_not_all_there_yet(results_page: ModuleType) -> None:
    """Other seeds of plain training, a network whose norm is refused, a lone run of another length."""
    found = results_page.runs()
    plain, l2 = found["demo-plain"], found["demo-l2"]
    apart = {"demo-plain": plain[:1], "demo-l2": l2[1:2]}
    assert "Minus plain training" not in "\n".join(results_page._section(apart))
    metrics = {score: own for score, own in l2[0]["metrics"].items() if score != "norm"}
    refused = {"demo-plain": plain[:1], "demo-l2": [{**l2[0], "metrics": metrics}]}
    assert "| demo-l2 | 1 | – | – |" in "\n".join(results_page._section(refused))
    lone = {"demo-l2-e5": [{**l2[0], "name": "demo-l2-e5"}]}
    assert "demo-l2-e5" in "\n".join(results_page._section(lone))


def test_hindsight_is_of_the_same_seeds_and_the_norm_is_not_spared(results_page: ModuleType) -> None:
    def run(name: str, seed: int, norm: float, knn: float, chosen: str) -> dict:
        metrics = {
            score: {where: {"auroc": value} for where in ("mean near", "mean far")}
            for score, value in (("norm", norm), ("knn", knn))
        }
        return {"name": name, "seed": seed, "metrics": metrics, "chosen": chosen}

    own = {
        "a-plain": [run("a-plain", 0, 0.5, 0.8, "norm"), run("a-plain", 7, 0.0, 1.0, "norm")],
        "a-l2": [run("a-l2", 0, 0.7, 0.85, "norm"), run("a-l2", 1, 1.0, 1.0, "norm")],
        "a-patterns": [run("a-patterns", 0, 0.6, 0.9, "knn")],
        "b-l2": [run("b-l2", 0, 0.6, 0.9, "knn")],
    }
    _, table = results_page._hindsight(own)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert rows == [
        ["a-l2", "1", "norm", "knn 80.0", "-10.0", "knn 80.0", "-10.0"],
        ["a-patterns", "1", "knn", "knn 80.0", "+10.0", "knn 80.0", "+10.0"],
    ]
    _, losses = results_page._losses(own)
    assert "a-patterns, near: the norm has 60.0; knn of a-patterns training has 90.0" in losses
    assert "a-plain, near" not in losses


def test_seconds_of_runs_that_shared_a_machine_are_not_shown(results_page: ModuleType) -> None:
    assert results_page._seconds([{"seconds": 40.0, "at_once": 1}, {"seconds": 60.0}]) == "50"
    assert results_page._seconds([{"seconds": 40.0, "at_once": 1}, {"seconds": 60.0, "at_once": 3}]) == "40"
    assert results_page._seconds([{"seconds": 60.0, "at_once": 3}]) == "–"


def test_one_setting_can_be_enough_to_say_no(results_page: ModuleType) -> None:
    no = "no variant has a gain above its interval"
    cheap = {**BETTER, "runs": [{**run, "accuracy": 0.895} for run in BETTER["runs"]]}
    dear = {**BETTER, "runs": [{**run, "accuracy": 0.88} for run in BETTER["runs"]]}
    plain = {**BETTER, "recipe": {**BETTER["recipe"], "temperature": None}}
    for own, beaten in (({"better": cheap}, False), ({"better": dear}, True), ({"plain": plain}, True)):
        assert (no in results_page.verdict({"demo": {"paper": PAPER, "worse": WORSE, **own}})) == beaten
    assert no not in results_page.verdict({"demo": {"better": BETTER}})


def test_a_norm_that_was_refused_costs_no_page(results_page: ModuleType) -> None:
    found = results_page.runs()
    bare = {score: by_set for score, by_set in found["demo-plain"][0]["metrics"].items() if score != "norm"}
    runs = {**found, "demo-plain": [{**run, "metrics": bare} for run in found["demo-plain"]]}
    page = results_page.page(runs, {}, [], results_page.trials(), results_page.operations())
    (row,) = [line for line in page.partition("## Hand signs")[0].splitlines() if "(*demo*)" in line]
    assert " | – → " in row
