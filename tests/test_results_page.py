"""docs/results.md is what the files of measured runs say."""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from normgate.demo import NETWORK, RECIPE

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results_page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("results_page")


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return lambda name: importlib.import_module(f"page.{name}")


def test_page_and_files_agree(results_page: ModuleType) -> None:
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == results_page.written()


def test_the_readme_has_the_gains_over_plain_training(part: Callable[[str], ModuleType]) -> None:
    found = part("runs").runs()
    summary = part("quality").summary(found)
    assert importlib.import_module("readme").written("results_page.py") == summary
    row = next(line for line in summary.splitlines() if line.startswith("| CIFAR-10: resnet18, 60"))
    seeds = [
        [run["metrics"]["norm"]["mean near"]["auroc"] for run in found[f"cifar10-resnet18-{name}"]]
        for name in ("plain", "l2")
    ]
    assert len(seeds[0]) == len(seeds[1])
    assert f"{100 * np.mean(seeds[0]):.1f} → {100 * np.mean(seeds[1]):.1f}" in row


def test_the_speed_of_screening_and_delays_are_those_of_the_files(part: Callable[[str], ModuleType]) -> None:
    operation = part("operation")
    measured = operation.operations()
    page = "\n".join([*operation.screening(measured), *operation.shift(measured["shift"])])
    onnx = measured["screening"]["networks"]["slim ResNet18 (width 16), 32 px"]["images_per_second"]["onnx"]
    assert re.search(rf"\| slim ResNet18 \(width 16\), 32 px \|.* {onnx:.0f} \|", page)
    served = measured["serving"]["demo"]["throughput"]["16 a request"]["images_per_second"]
    assert f"| the demo's | 16 a request | {served:.0f} |" in page
    few = measured["shift"]["delays"]["cifar100-test, 0.05, after 0"]
    assert f"| {few['median_delay']:.0f} ({few['raised']} of {few['orders']}) |" in page


def test_every_file_says_where_it_comes_from(part: Callable[[str], ModuleType]) -> None:
    of_runs = part("runs")
    for seeds in of_runs.runs().values():
        for run in seeds:
            assert {"device", "seed", "commit", "versions", "seconds", "held_out"} <= run.keys()
            assert run["seconds"] > 0


def test_intervals_over_seeds(part: Callable[[str], ModuleType]) -> None:
    """Student's: for 1, 2, 3 the mean is 2 and the half width 4.303 · 1/√3."""
    cells = part("cells")
    assert cells.interval([0.01, 0.02, 0.03]) == "+2.0 (-0.5 to +4.5)"
    assert cells.interval([0.01]) == "+1.0"


def test_the_demo_is_trained_as_held_out_signs_decided(part: Callable[[str], ModuleType]) -> None:
    ablations = part("ablations")
    tried = ablations.trials()["recipes"]
    best = max(tried, key=lambda name: tried[name]["auroc"])
    assert best == f"{RECIPE.epochs} epochs, batch {RECIPE.batch_size}, rate {RECIPE.learning_rate}"
    assert NETWORK["model_args"]["zero_init_last"] is False


def test_every_run_has_a_place_on_the_page(part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    of_runs = part("runs")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = list(importlib.import_module("quality").RUNS)
    assert len({of_runs.order(name) for name in names}) == len(names)
    ordered = ["a-plain", "a-plain-e5", "a-plain-e10", "a-l2", "a-l2-e5", "a-l2-0.1", "a-l2-learned", "b-plain"]
    assert sorted(set(ordered), key=of_runs.order) == ordered


def test_runs_of_other_lengths_have_a_table_of_their_own(part: Callable[[str], ModuleType]) -> None:
    quality = part("quality")
    of_runs = part("runs")
    run = of_runs.runs()["demo-l2"][0]
    runs = {
        name: [{**run, "name": name, "accuracy": accuracy, "recipe": {**run["recipe"], "epochs": epochs}}]
        for name, epochs, accuracy in (("demo-l2", 60, 0.9), ("demo-l2-e5", 5, 0.5), ("demo-l2-e100", 100, 0.95))
    }
    main, _, curve = "\n".join(quality.section(runs)).partition("How early it is there, near")
    curve = curve.partition("How early it is there, far")[0]
    assert "| demo-l2-e" not in main
    rows = [line.split(" | ") for line in curve.splitlines() if line.startswith("| demo-l2")]
    assert [row[1:4] for row in rows] == [["5", "1", "50.0"], ["60", "1", "90.0"], ["100", "1", "95.0"]]


def test_runs_of_other_lengths_are_compared_with_plain_ones_as_long(part: Callable[[str], ModuleType]) -> None:
    quality = part("quality")
    of_runs = part("runs")
    run = of_runs.runs()["demo-l2"][0]
    norm = run["metrics"]["norm"]
    runs = {
        name: [
            {
                **run,
                "name": name,
                "recipe": {**run["recipe"], "epochs": epochs},
                "metrics": {"norm": {**norm, "mean near": {**norm["mean near"], "auroc": near}}},
                "chosen": "norm",
                "magnitude": "norm",
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
    _, _, table = "\n".join(quality.section(runs)).partition("Minus plain training of as many epochs")
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
    usual |= {"judged_by": ["flat", "light"], "at_once": 1, "precision": "32-true", "setting": "demo", "variant": name}
    return {**usual, "predicted": {"near": predicted, "why": ""}, "runs": runs, **told}


PAPER = variant("paper", 0, [0.5, 0.6, 0.7], [0.4, 0.4, 0.4])
WORSE = variant("worse", 1.0, [0.49, 0.58, 0.67], [0.4, 0.4, 0.4])
BETTER = variant("better", -1.0, [0.51, 0.62, 0.73], [0.6, 0.6, 0.6])


def rows(text: str) -> list[list[str]]:
    names = ("| paper", "| worse", "| better")
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(names)]


def test_ablations_stand_beside_their_predictions(part: Callable[[str], ModuleType]) -> None:
    ablations = part("ablations")
    found = rows("\n".join(ablations.sections({"demo": {"paper": PAPER, "worse": WORSE, "better": BETTER}})))
    assert [row[0] for row in found] == ["paper", "better", "worse"] * 2
    assert found[1][3:5] == ["-1.0", "+2.0 (-0.5 to +4.5)"]
    assert found[2][3:5] == ["+1.0", "-2.0 (-4.5 to +0.5)"]
    assert found[0][5] == "40.0 (40.0–40.0)"
    assert found[0][6] == "60.0 (55.0–65.0)"  # means of norm_gain's near and probes
    assert found[1][7] == "+11.0 (+9.8 to +12.2)"
    assert found[3][1:4] == ["norm_gain", "70.0 (60.0–80.0)", "50.0 (50.0–50.0)"]
    assert found[3][4:7] == ["knn", "99.0 (99.0–99.0)", "98.0 (98.0–98.0)"]


def test_ablations_that_are_not_all_there_yet(part: Callable[[str], ModuleType]) -> None:
    ablations = part("ablations")
    found = rows("\n".join(ablations.sections({"demo": {"worse": WORSE, "better": BETTER}})))
    assert [row[4] for row in found[:2]] == ["–", "–"]
    fewer = {**BETTER, "runs": BETTER["runs"][1:]}
    found = rows("\n".join(ablations.sections({"demo": {"paper": PAPER, "better": fewer}})))
    assert found[1][4] == "+2.5 (-3.9 to +8.9)"
    without = [{**run, "near": {"norm_gain": 0.9, "knn": 0.9}} for run in BETTER["runs"]]
    found = rows("\n".join(ablations.sections({"demo": {"paper": PAPER, "better": {**BETTER, "runs": without}}})))
    assert found[1][2:5:2] == ["–", "–"]
    assert ablations.sections({}) == []


def test_intervals_over_groups_of_classes(part: Callable[[str], ModuleType]) -> None:
    """Student's where no class is in two groups, else the jackknife.

    With gains x_a + x_b over all pairs of n classes the mean is 2 x̄, whose error is 2 s/√n.
    """
    ablations = part("ablations")
    apart = {("a", "b"): 0.01, ("c", "d"): 0.02, ("e", "f"): 0.03}
    assert ablations.over_classes(apart) == "+2.0 (-0.5 to +4.5)"
    own = dict(zip("abcdefgh", np.random.default_rng(0).normal(size=8), strict=True))
    pairs = {(a, b): own[a] + own[b] for a, b in itertools.combinations(own, 2)}
    reach = 2 * np.std(list(own.values()), ddof=1) / math.sqrt(8) * stats.t.ppf(0.975, 7)
    assert ablations.reach_over_classes(pairs) == pytest.approx(reach, rel=1e-12)
    assert ablations.reach_over_classes({("a", "b"): 0.1}) == math.inf
    assert ablations.reach_over_classes({("a", "b"): 0.1, ("a", "c"): 0.2}) == math.inf


def test_all_pairs_stand_for_some_and_short_runs_for_none(part: Callable[[str], ModuleType]) -> None:
    ablations = part("ablations")
    own = {"paper": PAPER, "better": BETTER}
    none = {"paper": PAPER, "better": {**BETTER, "runs": [{**run, "accuracy": 0.5} for run in BETTER["runs"]]}}
    variants = {"demo": none, "demo-pairs": own, "cifar10-slim": own, "cifar10-slim-short": none}
    assert "By the rule better is" in ablations.verdict(variants)
    assert "in demo it costs" in ablations.verdict({"demo": none, "cifar10-slim": own})


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
def test_the_rule_is_followed(changes: dict, said: str, part: Callable[[str], ModuleType]) -> None:
    ablations = part("ablations")
    own = {"paper": PAPER, "worse": WORSE, "better": {**BETTER, **changes}}
    assert re.search(said, ablations.verdict({"demo": own, "cifar10-slim": own}))
    assert "asks for runs on two data sets" in ablations.verdict({"demo": own})
    assert "asks for runs on two data sets" in ablations.verdict({"cifar10-slim": own, "cifar10-resnet18": own})
    assert "was not run in b yet" in ablations.verdict({"a": own, "b": {"better": BETTER}})
    strange = {**BETTER, "runs": [{**run, "held": ["another class"]} for run in BETTER["runs"]]}
    assert "worse, the only candidate, gains" in ablations.verdict({"a": own, "b": {**own, "better": strange}})
    alone = {"paper": PAPER, "worse": WORSE}
    said = ablations.verdict({"demo": alone, "cifar10-slim": own})
    assert "worse, the only candidate, gains -1.0" in said
    assert "better" not in ablations.verdict({"demo": own, "cifar10-slim": alone})


def test_more_time_must_be_worth_more_than_more_epochs(part: Callable[[str], ModuleType]) -> None:
    ablations = part("ablations")
    longer = {**BETTER, "variant": "epochs-double"}
    own = {"paper": PAPER, "better": {**BETTER, "seconds": 6.0}, "epochs-double": longer}
    assert "twice the epochs gain as much" in ablations.verdict({"demo": own, "cifar10-slim": own})


def test_runs_that_are_not_all_there_yet(part: Callable[[str], ModuleType]) -> None:
    """Other seeds of plain training, a network whose norm is refused, a lone run of another length."""
    quality = part("quality")
    of_runs = part("runs")
    found = of_runs.runs()
    plain, l2 = found["demo-plain"], found["demo-l2"]
    apart = {"demo-plain": plain[:1], "demo-l2": l2[1:2]}
    assert "Minus plain training" not in "\n".join(quality.section(apart))
    metrics = {score: own for score, own in l2[0]["metrics"].items() if score != "norm"}
    refused = {"demo-plain": plain[:1], "demo-l2": [{**l2[0], "metrics": metrics}]}
    assert "| demo-l2 | 1 | – | – |" in "\n".join(quality.section(refused))
    lone = {"demo-l2-e5": [{**l2[0], "name": "demo-l2-e5"}]}
    assert "demo-l2-e5" in "\n".join(quality.section(lone))


def test_hindsight_is_of_the_same_seeds_and_the_norm_is_not_spared(part: Callable[[str], ModuleType]) -> None:
    quality = part("quality")

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
    _, table = quality.hindsight(own)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert rows == [
        ["a-l2", "1", "norm", "knn 80.0", "-10.0", "-10.0", "knn 80.0", "-10.0", "-10.0"],
        ["a-patterns", "1", "knn", "knn 80.0", "-20.0", "+10.0", "knn 80.0", "-20.0", "+10.0"],
    ]
    _, losses = quality.losses(own)
    assert "a-patterns, near: the norm has 60.0; knn of a-patterns training has 90.0" in losses
    assert "a-plain, near" not in losses


def test_seconds_of_runs_that_shared_a_machine_are_not_shown(part: Callable[[str], ModuleType]) -> None:
    of_runs = part("runs")
    assert of_runs.seconds([{"seconds": 40.0, "at_once": 1}, {"seconds": 60.0, "at_once": 1}]) == "50"
    assert of_runs.seconds([{"seconds": 60.0}]) == "–"  # nobody wrote down whether it was alone
    assert of_runs.seconds([{"seconds": 40.0, "at_once": 1}, {"seconds": 60.0, "at_once": 3}]) == "40"
    assert of_runs.seconds([{"seconds": 60.0, "at_once": 3}]) == "–"


def test_one_setting_can_be_enough_to_say_no(part: Callable[[str], ModuleType]) -> None:
    ablations = part("ablations")
    no = "no variant has a gain above its interval"
    cheap = {**BETTER, "runs": [{**run, "accuracy": 0.895} for run in BETTER["runs"]]}
    dear = {**BETTER, "runs": [{**run, "accuracy": 0.88} for run in BETTER["runs"]]}
    plain = {**BETTER, "recipe": {**BETTER["recipe"], "temperature": None}}
    for own, beaten in (({"better": cheap}, False), ({"better": dear}, True), ({"plain": plain}, True)):
        assert (no in ablations.verdict({"demo": {"paper": PAPER, "worse": WORSE, **own}})) == beaten
    assert no not in ablations.verdict({"demo": {"better": BETTER}})


def test_a_norm_that_was_refused_costs_no_page(results_page: ModuleType, part: Callable[[str], ModuleType]) -> None:
    ablations, of_runs, operation = part("ablations"), part("runs"), part("operation")
    found = of_runs.runs()
    bare = {score: by_set for score, by_set in found["demo-plain"][0]["metrics"].items() if score != "norm"}
    runs = {**found, "demo-plain": [{**run, "metrics": bare} for run in found["demo-plain"]]}
    page = results_page.page(runs, {}, [], ablations.trials(), operation.operations())
    (row,) = [line for line in page.partition("## Hand signs")[0].splitlines() if "(*demo*)" in line]
    assert " | – → " in row


def run(name: str, seed: int, **told: object) -> dict:
    """One run, whose figures are of two scores on two sets."""
    figures = {"auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.9, "fpr_at_id_tpr95": 0.5, "fpr_at_ood_tpr95": 0.25}
    sets = dict.fromkeys(("one", "mean near", "mean far"), figures)
    usual = {"metrics": {"norm": sets, "knn": sets}, "chosen": "knn", "network": {"model": "resnet18"}, "accuracy": 0.9}
    return {"name": name, "seed": seed, "recipe": {"epochs": 2, "batch_size": 8}, **usual, **told}


def test_the_magnitude_that_probes_choose_is_of_the_seeds_that_say_it(part: Callable[[str], ModuleType]) -> None:
    quality = part("quality")
    runs = {"a-l2": [run("a-l2", 0), run("a-l2", 1, magnitude="norm"), run("a-l2", 2, magnitude="norm")]}
    _, table = quality._recipes(runs)
    assert "| norm (of 2 of 3 seeds) | 80.0 (80.0–80.0) |" in table
    assert "magnitude" not in quality._recipes({"a-l2": [run("a-l2", 0)]})[1]


def test_every_set_has_a_row(part: Callable[[str], ModuleType]) -> None:
    _, table = part("quality")._sets({"a-l2": [run("a-l2", 0)]})
    rows = table.splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["one", "mean near", "mean far"]
    assert rows[0].endswith("| 80.0 | 70.0–90.0 | 50.0 | 25.0 | 80.0 | 70.0–90.0 | 50.0 | 25.0 |")


def test_losses_are_of_the_seeds_that_plain_training_has(part: Callable[[str], ModuleType]) -> None:
    def with_norm(name: str, seed: int, norm: float, knn: float) -> dict:
        sets = [{where: {"auroc": value} for where in ("mean near", "mean far")} for value in (norm, knn)]
        return run(name, seed, metrics=dict(zip(("norm", "knn"), sets, strict=True)))

    runs = {
        "a-plain": [with_norm("a-plain", 0, 0.5, 0.6), with_norm("a-plain", 1, 0.5, 1.0)],
        "a-l2": [with_norm("a-l2", 0, 0.7, 0.75), with_norm("a-l2", 2, 0.1, 0.1)],
        "a-l2-e5": [with_norm("a-l2-e5", 0, 0.3, 0.4)],
    }
    _, said = part("quality").losses(runs)
    near = [line for line in said.splitlines() if ", near: " in line]
    assert near == [
        "- a-l2, near: the norm has 70.0; knn of a-l2 training has 75.0, the best of all, and of plain training no "
        "score is ahead of the norm.",
        "- a-l2-e5, near: the norm has 30.0; knn of a-l2-e5 training has 40.0, the best of all.",
    ]


def test_seconds_of_short_trainings_are_those_of_the_epochs_that_were_timed(part: Callable[[str], ModuleType]) -> None:
    timed = [{"network": {"model": "resnet18"}, "recipe": {"epochs": 9, "batch_size": 8}, "seconds": {"epoch": 1.5}}]
    short = run("a-l2-e1", 0, recipe={"epochs": 1, "batch_size": 8}, accuracy=0.5)
    other = run("a-l2-e5", 0, recipe={"epochs": 5, "batch_size": 16})
    _, table = part("speed").early(
        timed, {"a-l2": [run("a-l2", 0), run("a-l2", 1)], "a-l2-e1": [short], "a-l2-e5": [other]}
    )
    assert table.splitlines()[2:] == [
        "| a-l2-e1 | 1 | 1 | 1.5 | 50.0 | 80.0 | +0.0 | 80.0 | +0.0 |",
        "| a-l2 | 2 | 2 | 3.0 | 90.0 (90.0–90.0) | 80.0 (80.0–80.0) | – | 80.0 (80.0–80.0) | – |",
    ]
    assert part("speed").early([], {"a-l2": [run("a-l2", 0)]}) == []


def test_how_often_each_was_chosen(part: Callable[[str], ModuleType]) -> None:
    cells = part("cells")
    assert cells.counted(["b", "a", "b"]) == "b (2×), a"
    assert cells.counted(["a", "a"]) == "a"


def test_what_is_unmeasured_is_on_the_page(part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    unmeasured = part("unmeasured")
    missing = importlib.import_module("missing")
    monkeypatch.setattr(missing, "runs", lambda: [("demo-plain", 0), ("cifar10-resnet18-l2", 3), ("demo-plain", 4)])
    monkeypatch.setattr(missing, "variants", lambda: [("demo", "linear"), ("cifar10-resnet18", "rotations")])
    monkeypatch.setattr(missing, "timings", list)
    _, table = unmeasured.section()
    assert [line.split(" | ")[:3] for line in table.splitlines()[2:]] == [
        ["| demo-plain", "seeds 0, 4", "CPU"],
        ["| cifar10-resnet18-l2", "seed 3", "GPU"],
        ["| ablations, demo", "linear", "CPU"],
        ["| ablations, cifar10-resnet18", "rotations", "GPU"],
    ]
    for name in ("runs", "variants"):
        monkeypatch.setattr(missing, name, list)
    assert unmeasured.section() == []
