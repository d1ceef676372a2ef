"""What people are shown: names as they are, and nothing that drives the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normgate import Gate, console, tables
from normgate.evaluation import Against, evaluate_scores
from normgate.probes import ProbeReport
from normgate.screening import Summary
from normgate.verdicts import Verdict
from samples import CLASSES, PREPROCESSING, random_records, small_network

MARKUP = ("[/b]", "[red]x", ":owl:", "[link=file:x]y[/link]", "100% \\[b]", "[/]")
CODES = {"\x1b[31mred": "\ufffd[31mred", "a\rb": "a\ufffdb", "bell\x07": "bell\ufffd", "\x9b2J": "\ufffd2J"}
VERDICT = Verdict("a.png", "cat", 0.75, 12.5, 0.25, True, None)
SUMMARY = Summary(
    images=4,
    accepted=2,
    rejected=1,
    unreadable=1,
    skipped=3,
    first_errors=("bad.png: not an image",),
    false_alarm_rate=0.05,
    false_discovery_rate=None,
    cut=0.05,
    smallest_p_value=1 / 41,
    seconds=2.0,
    runtime="torch",
)


@pytest.fixture(scope="module")
def gate() -> Gate:
    sets = {"train": random_records(60, 1), "calibration": random_records(40, 3)}
    return Gate.calibrate(small_network(), preprocessing=PREPROCESSING, workers=0, score="energy", **sets)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a function prints to a wide terminal, both streams one after the other."""

    def capture(function: Callable[..., None], *given: Any, **options: Any) -> str:
        streams = [io.StringIO(), io.StringIO()]
        for name, stream in zip(("out", "err"), streams, strict=True):
            kind = type(getattr(console, name))
            plain = kind(file=stream, width=250, highlight=False, markup=False, emoji=False, color_system=None)
            monkeypatch.setattr(tables, name, plain)
        function(*given, **options)
        return "".join(stream.getvalue() for stream in streams)

    return capture


def harmless(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


# The gate, from whoever made it: its classes, its folder and its report of probes.


def _by_class(gate: Gate, name: str) -> tuple[Any, ...]:
    return tables.print_gate, dataclasses.replace(gate, classes=(name, "dog", "owl")), Path("gate")


def _by_folder(gate: Gate, name: str) -> tuple[Any, ...]:
    return tables.print_gate, gate, Path("gates") / name.replace("/", "∕")


def _by_report(gate: Gate, name: str) -> tuple[Any, ...]:
    probes = {f"{name}/x": 0.9, "flat/black": 0.5}
    report = ProbeReport({"energy": probes, "norm": probes}, 60, 60, {})
    return tables.print_gate, dataclasses.replace(gate, probes=report), Path("gate")


def _by_refusal(gate: Gate, name: str) -> tuple[Any, ...]:
    return tables.print_probes, ProbeReport({"energy": {"flat/black": 0.9}}, 60, 60, {name: "no"}), "energy"


def _by_reason(gate: Gate, name: str) -> tuple[Any, ...]:
    report = ProbeReport({"norm": {"flat/black": 0.9}}, 60, 60, {"energy": name})
    return tables.print_gate, dataclasses.replace(gate, probes=report), Path("gate")


def _by_probe(gate: Gate, name: str) -> tuple[Any, ...]:
    return tables.print_each_probe, ProbeReport({"energy": {f"flat/{name}": 0.9}}, 60, 60, {}), "energy"


def test_families_that_were_trained_on_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    auroc = {"energy": {"flat/black": 0.9, "noise/uniform": 0.8, "blend/mixed": 0.5}}
    report = ProbeReport(auroc, 60, 60, {}, ("noise",))
    tables.print_probes(report, "energy")
    tables.print_each_probe(report, "energy")
    printed = capsys.readouterr().out
    assert "left out, since the network was trained on them: noise\n" in printed
    assert "left out, since no score tells them from your images: blend/mixed\n" in printed
    rows = [line.strip() for line in printed.splitlines() if line.strip().startswith(("flat/", "noise/", "blend/"))]
    lines = {row.split()[0]: row.split("  ")[-1].strip() for row in rows}
    assert lines["flat/black"] == "energy 90"
    assert lines["noise/uniform"] == "energy 80; trained on: left out"
    assert lines["blend/mixed"] == "no score: left out"


# Images, from whoever sends them.


def _by_label(gate: Gate, name: str) -> tuple[Any, ...]:
    return _printed, dataclasses.replace(VERDICT, label=name)


def _by_image(gate: Gate, name: str) -> tuple[Any, ...]:
    return _printed, dataclasses.replace(VERDICT, id=name)


def _by_error(gate: Gate, name: str) -> tuple[Any, ...]:
    return _printed, dataclasses.replace(VERDICT, label=None, accepted=False, error=name)


def _by_first_error(gate: Gate, name: str) -> tuple[Any, ...]:
    return _summarised, dataclasses.replace(SUMMARY, first_errors=(name,)), Path("v.parquet")


def _by_output(gate: Gate, name: str) -> tuple[Any, ...]:
    return _summarised, SUMMARY, Path(name.replace("/", "∕"))


def _printed(verdict: Verdict) -> None:
    tables.print_verdict(verdict, as_json=False)


def _summarised(summary: Summary, output: Path) -> None:
    tables.print_summary(summary, output, None, as_json=False)


PLACES = [
    _by_class, _by_folder, _by_report, _by_refusal, _by_reason, _by_probe,
    _by_label, _by_image, _by_error, _by_first_error, _by_output,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_names_are_shown_as_they_are(place: Callable[..., tuple[Any, ...]], gate: Gate, shown: Callable) -> None:
    for name in MARKUP:
        text = shown(*place(gate, name))
        assert (name.replace("/", "∕") if place in (_by_folder, _by_output) else name.partition("/")[0]) in text
        assert harmless(text)


@pytest.mark.parametrize("place", PLACES)
def test_names_do_not_drive_the_terminal(place: Callable[..., tuple[Any, ...]], gate: Gate, shown: Callable) -> None:
    for name, expected in CODES.items():
        text = shown(*place(gate, name))
        assert expected in text
        assert harmless(text)


# ---------------------------------------------------------------------------------------------------- contents


def test_what_is_said_of_a_gate(gate: Gate, shown: Callable) -> None:
    text = shown(tables.print_gate, gate, Path("gates/mine"))
    for part in ("gate gates/mine", "Sequential", "8 × 8 pixels", f"3: {', '.join(CLASSES)}", "energy", "40 images"):
        assert part in text
    assert f"at least {gate.calibration.thresholds[0]:.4g}" in text
    assert "rejects 4.88% of familiar images" in text  # 2/41
    assert "with 40 of them, in 19 cases of 20, from 0.61% to 13.16%" in text  # of Beta(2, 39)
    assert "without L2 normalisation" in text
    assert "features of 60 train, 40 calibration images" in text
    assert "not probed, for want of tuning images" in text
    assert "no features (lean)" in shown(tables.print_gate, gate.recalibrate(lean=True), Path("gates/mine"))


@pytest.mark.parametrize("provenance", [{"run": "exp-7"}, {"run": {"recipe": 1}, "sets": {"train": 3}}, {"sets": [1]}])
def test_provenance_may_be_in_words_of_ones_own(gate: Gate, shown: Callable, provenance: dict[str, Any]) -> None:
    own = dataclasses.replace(gate, provenance=provenance)
    assert "without L2 normalisation" in shown(tables.print_gate, own, Path("gates/mine"))


def test_a_verdict_is_a_line(shown: Callable) -> None:
    line = "a.png: accepted, cat (probability 0.750), score 12.5, p-value 0.2500\n"
    assert shown(_printed, VERDICT) == line
    rejected = dataclasses.replace(VERDICT, accepted=False)
    assert shown(_printed, rejected) == line.replace("accepted", "rejected")
    assert shown(_printed, dataclasses.replace(VERDICT, error="not an image")) == "a.png: not an image\n"


def test_a_verdict_as_json_has_no_nan(shown: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    nan = float("nan")
    bad = Verdict("a\x1b.png", None, nan, float("-inf"), nan, False, "not an image")
    shown(tables.print_verdict, bad, as_json=True)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed  # JSON escapes it
    expected = {**dataclasses.asdict(bad), "probability": None, "score": None, "p_value": None, "accepted": None}
    assert json.loads(printed, parse_constant=pytest.fail) == expected


def test_what_is_said_of_a_screening(shown: Callable) -> None:
    text = shown(_summarised, SUMMARY, Path("v.parquet"))
    assert "4 images in 2.0 s (2 a second): 2 accepted, 1 rejected, 1 unreadable" in text
    assert "unreadable (3 other files skipped, not named like images); verdicts in" in text
    assert text.endswith("verdicts in v.parquet\njudged by PyTorch\nbad.png: not an image\n")
    more = dataclasses.replace(SUMMARY, unreadable=7)
    assert "… and 6 more; all are in the column 'error' of v.parquet" in shown(_summarised, more, Path("v.parquet"))
    fdr = dataclasses.replace(SUMMARY, false_alarm_rate=None, false_discovery_rate=0.1, cut=0.0)
    text = shown(_summarised, fdr, Path("v.parquet"))
    assert "false-discovery rate 0.1: rejected where p ≤ 0" in text
    assert "nothing is rejected" in text


def test_rejected_names_are_listed_as_they_are_for_another_program(
    shown: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(tables.print_summary, SUMMARY, Path("v"), ["[/b].png", "a b.png"], as_json=False)
    assert capsys.readouterr().out == "[/b].png\na b.png\n"


def test_names_and_figures_fit_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "_width", 80)
    rng = np.random.default_rng(0)
    for sets in (["cifar100", "tin", "mnist", "svhn", "textures", "places365"], [f"some{n}" for n in range(12)]):
        names = ["norm", "experiment/" * 5 + "scores:knn"]
        found = evaluate_scores({score: {name: rng.normal(size=20) for name in ("id", *sets)} for score in names})
        tables.print_evaluation(found)
        tables.print_against(found, Against([found.compare(names[1], "norm")], score="norm"))
        out = capsys.readouterr().out
        assert "…" not in out
        lines = [line for line in out.splitlines() if line.startswith(("score", "norm", "exper"))]
        assert max(map(len, lines)) <= 80
        assert [sum(line.startswith(name[:4]) for line in lines) for name in names] == [1, 2]
        assert f"{100 * found.means['norm']['mean'].auroc:.1f} (" in out
        assert out.count("the columns of the sets do not fit here") == 2


@pytest.mark.parametrize("width", [60, 80, 110])
def test_details_that_do_not_fit_are_named(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "_width", width)
    rng = np.random.default_rng(0)
    sets = {name: rng.normal(size=20) for name in ("id", "cifar100", "交通標識の写真")}
    found = evaluate_scores({"norm": sets}, wrong=rng.random(20) < 0.5)
    tables.print_evaluation(dataclasses.replace(found, gate_score="norm"))
    out = capsys.readouterr().out
    assert "…" not in out
    assert out.count("cifar100") == 3  # the table, the details, and how many images
    assert ("do not fit here; -o results.csv has them" in " ".join(out.split())) == (width < 110)
