"""What the commands print for people."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from normgate.calibration import false_alarm_spread
from normgate.console import err, out, print_json
from normgate.data.names import printable
from normgate.evaluation.figures import DEFINITIONS
from normgate.evaluation.results import Evaluation
from normgate.evaluation.words import (
    auroc_text,
    columns,
    comparison_row,
    difference_text,
    left_out_line,
    points,
    row,
    spread_text,
    summary_lines,
)
from normgate.layouts import GAP, Column, Layout, figures, fitting, wrapped
from normgate.scores import described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from normgate.calibration import Calibration
    from normgate.demo import DemoResult
    from normgate.evaluation import Against, SeedSummary
    from normgate.gate import Gate, Verdict
    from normgate.probes import ProbeReport
    from normgate.screening import Summary

MARK = " ◂ gate"
_FIRST_ERRORS = 10


WIDE = 104
"""Columns of a terminal from which on every family of probes has one."""


def print_gate(gate: Gate, folder: Path, *, as_json: bool = False) -> None:
    """What a gate is, what it promises and where it comes from."""
    calibration = gate.calibration
    if as_json:
        from normgate.gate.folder import describe

        # JSON has no infinity: a threshold there accepts every image, or none but those at infinity.
        numbers = [value if math.isfinite(value) else None for value in calibration.thresholds.tolist()]
        held_out = gate.held_out
        about = {"thresholds": numbers, "calibration_images": calibration.n}
        about["held_out"] = None if held_out is None else held_out._asdict()
        print_json(describe(gate) | about)
        return
    table = Table(title=f"gate {folder}", show_header=False, title_justify="left")
    table.add_row("network", gate.network_name)
    table.add_row("input", gate.preprocessing.in_words)
    names = ", ".join(gate.classes[:8]) + (", …" if len(gate.classes) > 8 else "")
    table.add_row("classes", f"{len(gate.classes)}: {names}")
    table.add_row("score", described(gate.score))
    thresholds = calibration.thresholds
    if calibration.by_class:
        table.add_row("thresholds", f"one a predicted class, from {min(thresholds):.4g} to {max(thresholds):.4g}")
    else:
        table.add_row("threshold", f"accepts a score of at least {thresholds[0]:.4g}")
    table.add_row("calibration", f"{calibration.n} images")
    table.add_row(
        "promise",
        f"rejects {calibration.expected_false_alarm_rate:.2%} of familiar images on average over calibration sets "
        f"(at most {calibration.alpha:.2%}){_spread(calibration)},\nif new ones come like the calibration images; "
        "pictures of one person, burst or scene are clustered, and it is then nominal",
    )
    table.add_row("training", _training(gate))
    if (held_out := gate.held_out) is not None:
        right, images = held_out
        table.add_row("accuracy", f"{right / images:.1%} of {images} images that were held out of training")
    kept = {name: len(part) for name, part in gate.kept.items()}
    table.add_row(
        "keeps",
        "no features (lean)"
        if not kept
        else "features of "
        + ", ".join(f"{count} {name}" for name, count in kept.items())
        + " images; they derive from those images, share them as you would the images",
    )
    out.print(table)
    if gate.probes is not None:
        print_probes(gate.probes, gate.score.name)
    for line in gate.caveats:
        out.print(f"warning: {line}", style="yellow", soft_wrap=True)


def _spread(calibration: Calibration) -> str:
    if calibration.by_class:
        return ""
    low, high = false_alarm_spread(calibration.alpha, calibration.n)
    return f",\nand with {calibration.n} of them, in 19 cases of 20, from {low:.2%} to {high:.2%}"


def _training(gate: Gate) -> str:
    """How the network was normalised in training and, where it was trained here, with which recipe."""
    tau = gate.temperature
    said = "without L2 normalisation"
    if tau is not None:
        said = "L2 normalisation, τ learned" if tau == "learned" else f"L2 normalisation, τ = {tau:g}"
    try:
        run, images = gate.provenance["run"], gate.provenance["sets"]["train"]
        epochs, batch = (run["recipe"][name] for name in ("epochs", "batch_size"))
        return f"{said}; {epochs} epochs over {images} images, batch {batch}, seed {run['seed']}"
    except (KeyError, TypeError, IndexError):  # of a network that was trained elsewhere, or in words of somebody's own
        return said


def print_probes(report: ProbeReport, own: str) -> None:
    """Scores × families of probes, and in words what the gate's score would miss."""
    families = list(report.families(own)) if own in report.auroc else []
    wide = out.width >= WIDE
    out.print(f"probes: AUROC in points of {report.images} tuning images against synthetic outliers made of them")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("score", no_wrap=True, min_width=max(map(len, report.auroc), default=0))
    for title in ["mean", *(families if wide else ["lowest family"])]:
        table.add_column(title, justify="right", no_wrap=True)
    for score in report.ranking() if families else ():
        by_family = {family: f"{100 * value:.0f}" for family, value in report.families(score).items()}
        lowest = min(families, key=report.families(score).__getitem__)
        cells = by_family.values() if wide else [f"{lowest} {by_family[lowest]:>3}"]
        style = "bold" if score == own else None
        table.add_row(score + (" ◂" if style else ""), points(report.mean(score)), *cells, style=style)
    if families:
        out.print(table)
    if report.refused:
        out.print(f"not to be had for this network: {', '.join(report.refused)}", soft_wrap=True)
    if report.trained_on:
        out.print(f"left out, since the network was trained on them: {', '.join(report.trained_on)}", soft_wrap=True)
    if report.uninformative and not report.too_few:
        names = ", ".join(report.uninformative)
        out.print(f"left out, since no score tells them from your images: {names}", soft_wrap=True)


def print_each_probe(report: ProbeReport, own: str) -> None:
    """Probe by probe: the gate's score, the norm, and the score that sees it best."""
    shown = [score for score in dict.fromkeys([own, "norm"]) if score in report.auroc]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("probe", no_wrap=True)
    for score in shown:
        table.add_column(score + (" ◂" if score == own else ""), justify="right", no_wrap=True)
    table.add_column("seen best by", no_wrap=True)
    for probe in report.probes:
        best = max(report.auroc, key=lambda score: report.auroc[score][probe])
        cells = [f"{100 * report.auroc[score][probe]:.0f}" for score in shown]
        seen = f"{best} {100 * report.auroc[best][probe]:.0f}"
        if probe not in report.informative:
            seen = "no score: left out" if probe in report.uninformative else f"{seen}; trained on: left out"
        table.add_row(probe, *cells, seen)
    out.print(table)


def print_geometry(gate: Gate) -> None:
    """In words, what the geometry of the training features says of the norm."""
    from normgate.collapse import explain
    from normgate.gate.geometry import gate_geometry

    found = gate_geometry(gate)
    if found is None:
        out.print("geometry: not known, since the gate keeps no training features")
        return
    out.print("geometry of the training features:")
    for line in explain(found, gate.classes):
        out.print(f"  {line}", soft_wrap=True)


def print_verdict(verdict: Verdict, *, as_json: bool) -> None:
    """One image's verdict on one line."""
    if as_json:
        judged = {} if verdict.error is None else {"accepted": None}
        print_json(_finite(dataclasses.asdict(verdict)) | judged, indent=None)
        return
    if verdict.error is not None:
        err.print(printable(f"{verdict.id}: {verdict.error}"), style="red", soft_wrap=True)
        return
    word = "accepted" if verdict.accepted else "rejected"
    out.print(
        f"{printable(verdict.id)}: {word}, {verdict.label} (probability {verdict.probability:.3f}), "
        f"score {verdict.score:.4g}, p-value {verdict.p_value:.4f}",
        soft_wrap=True,
    )


RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch"}


def print_summary(summary: Summary, output: Path, rejected: Iterable[str] | None, *, as_json: bool) -> None:
    """What a screening run found."""
    if as_json:
        values = dataclasses.asdict(summary) | ({} if rejected is None else {"rejected_ids": list(rejected)})
        print_json(values)
        return
    for name in rejected or ():
        sys.stdout.write((printable(name) if out.is_terminal else name) + "\n")
    # The ids may go to another program, which wants nothing else.
    told = out if rejected is None else err
    judged = summary.images - summary.resumed
    rate = f" ({judged / summary.seconds:,.0f} a second)" if judged else ""
    told.print(
        f"{summary.images} image{'s' * (summary.images != 1)} in {summary.seconds:.1f} s{rate}: "
        f"{summary.accepted} accepted, {summary.rejected} rejected, {summary.unreadable} unreadable"
        + (f" ({summary.skipped} other files skipped, not named like images)" if summary.skipped else "")
        + f"; verdicts in {output}",
        soft_wrap=True,
    )
    if summary.resumed:
        told.print(f"{summary.resumed} of them were judged by an earlier run that was stopped", soft_wrap=True)
    told.print(f"judged by {RUNTIMES[summary.runtime]}", style="dim", soft_wrap=True)
    if summary.runtime_reason:
        told.print(f"not by ONNX Runtime: {printable(summary.runtime_reason)}", style="dim", soft_wrap=True)
    if summary.false_discovery_rate is not None:
        told.print(
            f"false-discovery rate {summary.false_discovery_rate:g}: rejected where p ≤ {summary.cut:.4g}; "
            f"the smallest p-value that the calibration images allow is {summary.smallest_p_value:.4g}"
            + ("; nothing is rejected" if summary.cut == 0 else ""),
            soft_wrap=True,
        )
    if (shift := summary.shift) is not None:
        said = (
            f"raised after {shift.after} images in random order: they do not come like the calibration images"
            if shift.raised
            else "quiet"
        )
        told.print(f"shift alarm {said} (chance of a false alarm at most {shift.delta:g})", soft_wrap=True)
    for line in summary.first_errors:
        err.print(printable(line), style="red", soft_wrap=True)
    if summary.unreadable > len(summary.first_errors):
        more = summary.unreadable - len(summary.first_errors)
        err.print(f"… and {more} more; all are in the column 'error' of {output}", style="red")


def print_skipped(count: int) -> None:
    """How many files were not taken for images."""
    if count:
        out.print(f"{count} other file{'s' * (count != 1)} skipped, not named like images", soft_wrap=True)


def print_written(path: Path, *, aside: bool = False) -> None:
    """Where something more is to be found; aside where standard output is for another program."""
    (err if aside else out).print(f"written: {printable(str(path))}", soft_wrap=True)


def print_results(results: Evaluation | SeedSummary) -> None:
    """What was found of one gate, or of several over seeds."""
    if isinstance(results, Evaluation):
        print_evaluation(results)
    else:
        print_seeds(results)


def print_evaluation(evaluation: Evaluation) -> None:
    """Scores × sets, the gate's score in detail, and the promise against what happened."""
    if evaluation.sets:
        title = "AUROC in points{}: known against unknown images, best mean first"
        _print_scores(evaluation, title, _auroc, _differences(evaluation))
        if evaluation.gate_score in evaluation.metrics:
            _print_details(evaluation, evaluation.gate_score)
        out.print("every metric of every score: -o results.csv, .json, .md or .tex", style="dim")
    for line in summary_lines(evaluation):
        out.print(printable(line), soft_wrap=True)
    _print_unread(evaluation.errors)


def print_seeds(summary: SeedSummary) -> None:
    """Scores × sets over seeds."""

    def cell(found: Any, wide: bool) -> str:
        return spread_text(found["auroc"]) if wide else points(found["auroc"].mean)

    if summary.sets:
        title = "AUROC in points{}: mean over gates, best first"
        _print_scores(summary, title, cell, _differences(summary), interval="smallest–largest")
    for line in summary_lines(summary):
        out.print(printable(line), soft_wrap=True)
    for evaluation in summary.evaluations:
        _print_unread(evaluation.errors)


def print_against(results: Evaluation | SeedSummary, against: Against) -> None:
    """What gates, or scores, have over others: a row a score, with intervals on as much as fits."""
    rows = [comparison_row(results, found) for found in against.comparisons]

    def column(number: int, interval: bool) -> Column:
        cells = [difference_text(found[number], interval=interval) for found in rows]
        return Column(columns(results)[number], cells)

    layouts = [Layout([column(*place) for place in places], least) for places, least in _places(results)]
    over = "" if isinstance(results, Evaluation) else " over seeds"
    out.print(f"\nAUROC in points, less that of {printable(against.less)}", style="italic", soft_wrap=True)
    labels = [against.label(found) + MARK * against.is_own(found) for found in against.comparisons]
    shown = fitting(layouts, labels, out.width)
    out.print(figures(shown, labels, [against.is_own(found) for found in against.comparisons], out.width))
    interval = f"the 95 % interval{over}"
    bracketed = any("(" in cell for part in shown.columns for cell in part.cells)
    legend = f"in brackets {interval}; * where it leaves out 0" if bracketed else f"* where {interval} leaves out 0"
    out.print(legend, style="dim")
    if len(shown.columns) < len(columns(results)):
        out.print("the columns of the sets do not fit here; -o results.json has them", style="dim")


def _print_scores(
    results: Evaluation | SeedSummary,
    title: str,
    cell: Callable[[Any, bool], str],
    differences: dict[str, dict[str, str]],
    interval: str = "95 % interval",
) -> None:
    """A row a score, with intervals on as much as fits: on everything, on the means, or on nothing."""
    rows = [row(results, score) for score in results.ranking]

    def column(number: int, wide: bool) -> Column:
        return Column(columns(results)[number], [cell(found[number], wide) for found in rows])

    further = [
        Column(name, [by_score.get(score, "") for score in results.ranking]) for name, by_score in differences.items()
    ]
    layouts = []
    for places, least in _places(results):
        found = [column(*place) for place in places]
        layouts += [Layout(found + part, least) for part in ((further, []) if least < _WIDEST else (further,))]
    labels = [score + MARK * (score == results.gate_score) for score in results.ranking]
    shown = fitting(layouts, labels, out.width)
    with_interval = [part for part in shown.columns if any("(" in text for text in part.cells)]
    own = [part for part in shown.columns if part not in further]
    said = f" ({'means: ' * (len(with_interval) < len(own))}{interval})" if with_interval else ""
    out.print(title.format(said), style="italic")
    out.print(figures(shown, labels, [score == results.gate_score for score in results.ranking], out.width))
    if len(own) < len(columns(results)):
        out.print("the columns of the sets do not fit here; -o results.csv has them", style="dim")
    if differences and further[0] in shown.columns:
        over = "" if isinstance(results, Evaluation) else " over seeds"
        out.print(f"− gate: difference to the gate's score; * where its 95 % interval{over} leaves out 0", style="dim")


_WIDEST, _NARROW = 9, 6  # to which names of columns are broken into lines


def _places(results: Evaluation | SeedSummary) -> list[tuple[list[tuple[int, bool]], int]]:
    """What to try, best first: columns by number and whether they have intervals, and how wide their names are.

    Where even the figures alone do not fit, the means do.
    """
    names = columns(results)
    every = range(len(names))
    means = [number for number in every if names[number] not in results.sets] or list(every)
    shown = ([(n, True) for n in every], [(n, n in means and len(means) < len(names)) for n in every])
    bare = [(n, False) for n in every]
    return [
        *((part, _WIDEST) for part in (*shown, bare)),
        (bare, _NARROW),
        ([(n, True) for n in means], _WIDEST),
        ([(n, False) for n in means], _NARROW),
    ]


def _auroc(found: Any, wide: bool) -> str:
    return auroc_text(found) if wide else points(found.auroc)


def _differences(results: Evaluation | SeedSummary) -> dict[str, dict[str, str]]:
    """A column a group of sets: the difference of the mean AUROC to that of the gate's score, by score."""
    return {
        f"{group} − gate": {
            score: difference_text(found.means[group], interval=False) for score, found in results.differences.items()
        }
        for group in results.groups
        if results.differences
    }


def _print_details(evaluation: Evaluation, score: str) -> None:
    """Every metric of one score, a row a set."""
    out.print(f"\n{score}, the gate's score, in points", style="italic")
    names = ["ap_id", "ap_ood", "fpr_at_id_tpr95", "fpr_at_ood_tpr95", "aurc_outliers"]
    names += ["aurc_both"] if score in evaluation.aurc_wrong else []
    rows = dict(zip(columns(evaluation), row(evaluation, score), strict=True))
    titles = {name: re.sub("^(fpr_at|[a-z]+)_", r"\1_\n", name) for name in names}
    sets = min(20, max(cell_len(printable(name)) for name in rows))
    room = out.width - sets - max(len("(95 % interval)"), *(len(auroc_text(found)) for found in rows.values())) - GAP
    shown = [name for name in names if (room := room - max(map(len, titles[name].splitlines())) - GAP) >= 0]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("set", min_width=sets)
    table.add_column("auroc\n(95 % interval)", justify="right", no_wrap=True)
    for name in shown:
        table.add_column(titles[name], justify="right", no_wrap=True)
    for name, found in rows.items():
        values = [points(getattr(found, metric)) for metric in shown]
        table.add_row(wrapped(name, 20), auroc_text(found), *values)
    out.print(table)
    if len(shown) < len(names):
        out.print(f"{', '.join(names[len(shown) :])}: do not fit here; -o results.csv has them", style="dim")
    for name in shown[2:]:
        out.print(f"{name}: {DEFINITIONS[name]}", style="dim", soft_wrap=True)
    if score in evaluation.aurc_wrong:
        out.print(
            f"aurc_wrong {100 * evaluation.aurc_wrong[score]:.2f}: {DEFINITIONS['aurc_wrong']}",
            style="dim",
            soft_wrap=True,
        )


def _print_unread(errors: Sequence[tuple[str, str, str]]) -> None:
    for set_name, image, message in errors[:_FIRST_ERRORS]:
        err.print(printable(f"{set_name}: {image}: {message}"), style="red", soft_wrap=True)
    if errors:
        more = "; all are in a .json (-o results.json)" if len(errors) > _FIRST_ERRORS else ""
        err.print(f"{left_out_line(errors)}{more}", style="red")


def print_demo(result: DemoResult) -> None:
    """The demo's findings and what to do next."""
    print_evaluation(result.evaluation)
    out.print("the test signs are several pictures each of 44 people, so the band is nominal: people are clustered")
    print_summary(result.summary, result.folder / "verdicts.parquet", None, as_json=False)
    out.print(f"\n{result.seconds:.0f} s in all; everything is in {result.folder}/")
    out.print(
        f"to look at in a browser: {result.folder / 'report.html'}"
        if result.report
        else "for a report to look at: pip install 'normgate[report]'",
        soft_wrap=True,
    )
    out.print("now with your own images, one folder a class:", style="bold")
    # As it was called from an environment that is not activated.
    called = Path(sys.argv[0])
    command = str(called) if called.name == "normgate" and not shutil.which("normgate") else "normgate"
    out.print(f"  {command} train photos/ -o gates/mine", soft_wrap=True)
    out.print(f"  {command} screen gates/mine incoming/ -o verdicts.parquet", soft_wrap=True)


def _finite(values: dict[str, object]) -> dict[str, object]:
    """JSON has no NaN and no infinity: what an unreadable image lacks is null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
