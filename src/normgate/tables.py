"""What the commands print for people."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from rich.table import Table

from normgate.console import err, out

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from normgate.demo import DemoResult
    from normgate.evaluation import Evaluation
    from normgate.gate import Gate, Verdict
    from normgate.probes import ProbeReport
    from normgate.screening import Summary


def print_gate(gate: Gate, folder: Path) -> None:
    """What a gate is, what it promises and where it comes from."""
    calibration = gate.calibration
    extractor = gate.extractor
    table = Table(title=f"gate {folder}", show_header=False, title_justify="left")
    backbone = gate.backbone
    table.add_row("network", type(extractor.model).__name__ if backbone is None else backbone.name)
    height, width = extractor.preprocessing.size
    table.add_row("input", f"{width} × {height} pixels")
    names = ", ".join(gate.classes[:8]) + (", …" if len(gate.classes) > 8 else "")
    table.add_row("classes", f"{len(gate.classes)}: {names}")
    table.add_row("score", gate.score.name)
    thresholds = calibration.thresholds
    if calibration.by_class:
        table.add_row("thresholds", f"one a predicted class, from {min(thresholds):.4g} to {max(thresholds):.4g}")
    else:
        table.add_row("threshold", f"accepts a score of at least {thresholds[0]:.4g}")
    table.add_row("calibration", f"{calibration.n} images")
    table.add_row(
        "promise",
        f"rejects {calibration.expected_false_alarm_rate:.2%} of familiar images on average over calibration sets "
        f"(at most {calibration.alpha:.2%}),\nif new ones come like the calibration images; "
        "pictures of one person, burst or scene are clustered, and it is then nominal",
    )
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
    if gate.probes is None:
        out.print("not probed: the gate was made without tuning images, so what its score would miss is not known")
    else:
        print_probes(gate.probes, gate.score.name)


def print_probes(report: ProbeReport, own: str) -> None:
    """Scores × families of probes, and in words what the gate's score would miss."""
    families = list(report.families(own)) if own in report.auroc else []
    table = Table(
        title=f"probes: AUROC in points of {report.images} tuning images against synthetic outliers made of them",
        title_justify="left",
    )
    table.add_column("score")
    table.add_column("mean", justify="right")
    for family in families:
        table.add_column(family, justify="right")
    for score in report.ranking() if families else ():
        style = "bold" if score == own else None
        cells = [f"{100 * value:.0f}" for value in report.families(score).values()]
        table.add_row(score + (" ◂ gate" if style else ""), f"{100 * report.mean(score):.1f}", *cells, style=style)
    out.print(table)
    if report.uninformative:
        names = ", ".join(report.uninformative)
        out.print(f"left out, since no score tells them from your images: {names}", markup=False, soft_wrap=True)
    for line in report.warnings(own):
        out.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


def print_verdict(verdict: Verdict, *, as_json: bool) -> None:
    """One image's verdict on one line."""
    if as_json:
        print(json.dumps(_finite(dataclasses.asdict(verdict)), ensure_ascii=False))  # noqa: T201
        return
    if verdict.error is not None:
        err.print(f"{verdict.id}: {verdict.error}", style="red", markup=False, soft_wrap=True)
        return
    word = "accepted" if verdict.accepted else "rejected"
    out.print(
        f"{verdict.id}: {word}, {verdict.label} (probability {verdict.probability:.3f}), "
        f"score {verdict.score:.4g}, p-value {verdict.p_value:.4f}",
        markup=False,
        soft_wrap=True,
    )


def print_summary(summary: Summary, output: Path, rejected: Iterable[str] | None, *, as_json: bool) -> None:
    """What a screening run found."""
    if as_json:
        values = dataclasses.asdict(summary) | ({} if rejected is None else {"rejected_ids": list(rejected)})
        print(json.dumps(values, indent=1, ensure_ascii=False))  # noqa: T201
        return
    for name in rejected or ():
        print(name)  # noqa: T201
    rate = summary.images / summary.seconds
    out.print(
        f"{summary.images} images in {summary.seconds:.1f} s ({rate:,.0f} a second): {summary.accepted} accepted, "
        f"{summary.rejected} rejected, {summary.unreadable} unreadable; verdicts in {output}",
        markup=False,
        soft_wrap=True,
    )
    if summary.false_discovery_rate is not None:
        out.print(
            f"false-discovery rate {summary.false_discovery_rate:g}: rejected where p ≤ {summary.cut:.4g}; "
            f"the smallest p-value that the calibration images allow is {summary.smallest_p_value:.4g}"
            + ("; nothing could be rejected" if summary.cut == 0 else ""),
            soft_wrap=True,
        )
    for line in summary.first_errors:
        err.print(line, style="red", markup=False, soft_wrap=True)
    if summary.unreadable > len(summary.first_errors):
        more = summary.unreadable - len(summary.first_errors)
        err.print(f"… and {more} more; all are in the column 'error' of {output}", style="red", markup=False)


def print_evaluation(evaluation: Evaluation) -> None:
    """Scores × sets, and the promise against what happened."""
    sets = [name for name in evaluation.images if name != "id"]
    if sets:
        table = Table(title="AUROC in points (95 % interval): known against unknown images", title_justify="left")
        table.add_column("score")
        for name in sets:
            table.add_column(f"{name}\n{evaluation.images[name]} images", justify="right")
        for score, by_set in evaluation.metrics.items():
            style = "bold" if score == evaluation.gate_score else None
            cells = [
                f"{100 * value.auroc:.1f} ({100 * value.auroc_low:.1f}–{100 * value.auroc_high:.1f})"
                for value in (by_set[name] for name in sets)
            ]
            table.add_row(score + (" ◂ gate" if style else ""), *cells, style=style)
        out.print(table)
    for name, reason in evaluation.refused.items():
        out.print(f"{name} is left out: {reason}", markup=False, soft_wrap=True)
    if evaluation.accuracy is not None:
        out.print(f"accuracy {evaluation.accuracy:.2%} on {evaluation.images['id']} known images", soft_wrap=True)
    outcome = evaluation.outcome
    if outcome.accuracy_accepted is not None:
        out.print(f"accuracy among the accepted {outcome.accuracy_accepted:.2%}")
    band = (
        ""
        if outcome.band is None
        else f" (99 % of such test sets: {outcome.band[0]:.2%} to {outcome.band[1]:.2%}, if images are independent)"
    )
    out.print(
        f"false alarms: promised {outcome.promised:.2%}, happened {outcome.realised:.2%}{band}",
        soft_wrap=True,
    )
    for name, share in outcome.rejected.items():
        out.print(f"rejected of {name}: {share:.2%}", markup=False)
    for set_name, image, message in evaluation.errors[:10]:
        err.print(f"{set_name}: {image}: {message}", style="red", markup=False, soft_wrap=True)
    if evaluation.errors:
        err.print(f"{len(evaluation.errors)} images could not be read and were left out", style="red")


def print_demo(result: DemoResult) -> None:
    """The demo's findings and what to do next."""
    print_evaluation(result.evaluation)
    out.print("the test signs are several pictures each of 44 people, so the band is nominal: people are clustered")
    print_summary(result.summary, result.folder / "verdicts.parquet", None, as_json=False)
    out.print(f"\n{result.seconds:.0f} s in all; everything is in {result.folder}/", markup=False)
    out.print("now with your own images, one folder a class:", style="bold")
    out.print("  normgate train photos/ -o gates/mine")
    out.print("  normgate screen gates/mine incoming/ -o verdicts.parquet")


def _finite(values: dict[str, object]) -> dict[str, object]:
    """JSON has no NaN: what an unreadable image lacks is null."""
    return {key: None if isinstance(value, float) and value != value else value for key, value in values.items()}
