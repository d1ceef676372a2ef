"""The sections of a page: what its template shows, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.collapse import explain
from normgate.evaluation.disjoint import shared_lines
from normgate.evaluation.figures import DEFINITIONS
from normgate.evaluation.words import auroc_text, columns, points, row
from normgate.report import drawing
from normgate.report.checks import SQUARE
from normgate.report.figures import SQUARE_WIDTH, WIDE_WIDTH, best_first, in_words, is_grouped
from normgate.scores import described

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normgate.collapse import Geometry
    from normgate.evaluation import Evaluation
    from normgate.gate import Gate
    from normgate.report.figures import Chart
    from normgate.report.gallery import Gallery
    from normgate.report.levels import Levels
    from normgate.report.scored import ScoredSet
    from normgate.screening import Summary

_CAPTIONS = {
    "distributions": "Shares of each set by score. Dashed: the gate's threshold; the line in colour follows the "
    "slider. The outermost bars hold what lies beyond.",
    "roc": "Every threshold: known images rejected against unknown images rejected. Dots: the gate's own.",
    "risk-coverage": "From the most familiar image down: the share of answers so far that are errors. An unknown image "
    "that is accepted is one; unknown images together weigh as much as known ones.",
    "scores": "AUROC of every score with its 95 % interval.",
    "probes": "AUROC in points of tuning images against synthetic outliers made of them; the gate saw no others. 50 is "
    "blind, below it outliers seem more familiar than images.",
    "norms-by-class": "Norms of training images by class, smallest first: 5 % to 95 % quantile, middle half, median.",
    "norms-by-set": "The same of each set.",
    "collapse": "Epoch by epoch: how far features have collapsed to their class means, 0 being full collapse.",
}


# What a phone has room for: beside labels at the left, beside the numbers of an axis, and beside nothing.
LABELLED_WIDTH = 150
_NARROW = {"distributions": 260, **dict.fromkeys(SQUARE, 210)}


def subtitle(gate: Gate, evaluation: Evaluation | None = None) -> str:
    """What was judged, and by what."""
    said = f"{gate.network_name}, {len(gate.classes)} classes, score {gate.score.name}"
    if evaluation is None:
        return said
    sets = len(evaluation.sets)
    unknown = "" if not sets else f" and {sets} set{'s' * (sets > 1)} of unknown ones"
    return f"{said}, on {evaluation.images['id']} known images{unknown}"


def promise_of_evaluation(gate: Gate, evaluation: Evaluation) -> dict[str, Any]:
    """What the gate promised and what happened."""
    figures = [_promised(gate)]
    outcome = evaluation.outcome
    if outcome is not None:
        note = f"of {evaluation.images['id']} known images rejected"
        if outcome.band is not None:
            low, high = outcome.band
            where = "within" if low <= outcome.realised <= high else "outside"
            note += f", {where} the 99 % band {share(low)} to {share(high)}"
        figures.append({"name": "Happened", "value": share(outcome.realised), "note": note})
    if evaluation.accuracy is not None:
        after = None if outcome is None else outcome.accuracy_accepted
        note = "of the predicted classes" + ("" if after is None else f"; {share(after)} among the accepted")
        figures.append({"name": "Accuracy", "value": share(evaluation.accuracy), "note": note})
    else:
        figures.append({"name": "Accuracy", "value": "–", "note": "the known images have no labels"})
    for name, rejected in {} if outcome is None else outcome.rejected.items():
        found = evaluation.metrics.get(gate.score.name, {}).get(name)
        auroc = "" if found is None else f"; AUROC {auroc_text(found)}"
        note = f"of {evaluation.images[name]} unknown images rejected{auroc}"
        figures.append({"name": name, "value": share(rejected), "note": note})
    lines = [_terms(gate), *shared_lines(evaluation.shared)]
    return {"title": "What the gate promised, and what happened", "figures": figures, "lines": lines}


def promise_of_screening(gate: Gate, summary: Summary) -> dict[str, Any]:
    """The rule of the run, and what it did."""
    rule = f"at a false-alarm rate of {share(gate.calibration.alpha)}"
    if summary.false_discovery_rate is not None:
        rule = f"at a false-discovery rate of {share(summary.false_discovery_rate)}: where p ≤ {summary.cut:.4g}"
    figures = [
        _promised(gate),
        {"name": "Images", "value": summary.images, "note": "screened"},
        {"name": "Rejected", "value": summary.rejected, "note": rule},
        {"name": "Accepted", "value": summary.accepted, "note": ""},
        {"name": "Unreadable", "value": summary.unreadable, "note": "have an error instead of a score"},
    ]
    return {"title": "What the gate promises, and what it did", "figures": figures, "lines": [_terms(gate)]}


def slider(found: Levels, sets: Sequence[ScoredSet]) -> dict[str, Any]:
    """The slider where the gate has put it."""
    start, rows = found.start, []
    for part in sets:
        rejected = int(found.rejected[part.name][start])
        right = found.right.get(part.name)
        accepted = len(part) - rejected
        rows.append(
            {
                "name": part.name,
                "kind": part.kind,
                "images": len(part),
                "rejected": rejected,
                "share": share(rejected / len(part)) if len(part) else "–",
                "right": "–" if right is None or not accepted else share(int(right[start]) / accepted),
            }
        )
    p_value = float(found.p_values[start])
    threshold = None if found.thresholds is None else float(found.thresholds[start])
    below = "" if threshold is None or not np.isfinite(threshold) else f", a score below {threshold:.6g}"
    return {
        "positions": len(found.p_values),
        "start": start,
        "start_p": p_value,
        "promised": share(float(found.promised[start])),
        "cut": f"Rejected: p ≤ {p_value:.4g}{below}." if start else "Nothing is rejected.",
        "rows": rows,
    }


def slider_data(found: Levels, sets: Sequence[ScoredSet]) -> dict[str, Any]:
    """What the page's script moves, as JSON values."""
    thresholds = None
    if found.thresholds is not None:
        thresholds = [value if np.isfinite(value) else None for value in found.thresholds.tolist()]
    return {
        "start": found.start,
        "p_values": found.p_values.tolist(),
        "promised": found.promised.tolist(),
        "thresholds": thresholds,
        "sets": [
            {
                "images": len(part),
                "rejected": found.rejected[part.name].tolist(),
                "right": found.right[part.name].tolist() if part.name in found.right else None,
            }
            for part in sets
        ],
    }


def drawn(name: str, chart: Chart, said: str, domain: tuple[float, float] | None = None) -> dict[str, Any]:
    """A chart for wide pages and one for narrow ones.

    Args:
        name: of the chart.
        chart: draws it at a width.
        said: what a screen reader says instead.
        domain: values at both ends of the horizontal axis, where the slider's line is to follow.
    """
    drawings = []
    wide = SQUARE_WIDTH if name in SQUARE else WIDE_WIDTH
    for size, width in (("wide", wide), ("narrow", _NARROW.get(name, LABELLED_WIDTH))):
        picture = drawing.svg(chart(width))
        place: dict[str, Any] = {}
        if domain is not None:
            origin, outer = drawing.placed(picture)
            place = {"origin": origin, "inner": width, "outer": outer, "domain": domain}
        drawings.append({"size": size, "svg": picture, **place})
    return {"drawings": drawings, "said": said, "caption": _CAPTIONS[name]}


def distributions(
    charts: Mapping[str, Chart], domain: tuple[float, float], sets: Sequence[ScoredSet]
) -> dict[str, Any]:
    """The histograms."""
    said = "; ".join(
        f"{part.name}: median score {np.median(part.verdicts.score):.4g}, half between "
        f"{np.quantile(part.verdicts.score, 0.25):.4g} and {np.quantile(part.verdicts.score, 0.75):.4g}"
        for part in sets
        if len(part)
    )
    return drawn("distributions", charts["distributions"], f"Histograms of scores. {said}", domain)


def curves(charts: Mapping[str, Chart], evaluation: Evaluation, score: str) -> list[dict[str, Any]]:
    """ROC and risk-coverage curves."""
    found = []
    if "roc" in charts:
        aurocs = "; ".join(
            f"{name}: area {points(part.auroc)} points" for name, part in evaluation.metrics.get(score, {}).items()
        )
        found.append(drawn("roc", charts["roc"], f"ROC curves. {aurocs}"))
    if "risk-coverage" in charts:
        wrong = evaluation.aurc_wrong.get(score)
        said = "" if wrong is None else f" Wrong predictions alone: area {100 * wrong:.2f} points"
        found.append(drawn("risk-coverage", charts["risk-coverage"], f"Risk-coverage curves.{said}"))
    return found


def comparison(charts: Mapping[str, Chart], evaluation: Evaluation) -> dict[str, Any] | None:
    """Every score on every set."""
    if "scores" not in charts:
        return None
    means, grouped = best_first(evaluation), is_grouped(evaluation)
    rows = []
    for score in evaluation.ranking:
        cells = [auroc_text(part) for part in row(evaluation, score)]
        own = score == evaluation.gate_score
        fprs = [points(evaluation.means[score][group].fpr_at_id_tpr95) for group in means]
        rows.append({"own": own, "cells": [score + (" (gate)" if own else ""), *cells, *fprs]})
    fpr = f"{DEFINITIONS['fpr_at_id_tpr95']}; mean of the sets"
    fpr_columns = [f"FPR {group}" if grouped else "fpr_at_id_tpr95" for group in means]
    lines = [f"AUROC: {DEFINITIONS['auroc']}."]
    if grouped:
        of = "; ".join(in_words(group, evaluation.groups[group]) for group in means)
        lines += [f"FPR (fpr_at_id_tpr95): {fpr} of each group.", f"Groups: {of}."]
    else:
        lines.append(f"fpr_at_id_tpr95: {fpr}.")
    best = [next(iter(found)) + (f" on {group}" if grouped else "") for group, found in means.items()]
    lines += [f"{name} was left out: {reason}" for name, reason in evaluation.refused.items()]
    said = f"AUROC by score; the best is {', '.join(best)}. The table below has all figures."
    return {
        **drawn("scores", charts["scores"], said),
        "table": {
            "caption": f"AUROC in points with 95 % intervals, best mean{' of all sets' if grouped else ''} first",
            "columns": ["score", *columns(evaluation), *fpr_columns],
            "rows": rows,
        },
        "lines": lines,
    }


def probes(charts: Mapping[str, Chart], gate: Gate) -> dict[str, Any]:
    """What synthetic outliers say of the gate's score."""
    report, own = gate.probes, gate.score.name
    if report is None:
        return {
            "lines": ["Not probed, for want of tuning images when the gate was made: what it would miss is not known."]
        }
    lines = list(report.warnings(own)) or [f"{own} is blind to no probe."]
    if report.trained_on:
        lines.append(f"Left out, since the network was trained on them: {', '.join(report.trained_on)}.")
    if report.uninformative and not report.too_few:
        lines.append(f"Left out, since no score tells them from tuning images: {', '.join(report.uninformative)}.")
    if "probes" not in charts:
        return {"lines": lines}
    families = list(report.families(report.ranking()[0]))
    rows = [
        {
            "own": score == own,
            "cells": [score, points(report.mean(score)), *(points(value) for value in report.families(score).values())],
        }
        for score in report.ranking()
    ]
    return {
        "lines": lines,
        **drawn("probes", charts["probes"], "AUROC by score and family of probes. The table below has all figures."),
        "table": {
            "caption": f"AUROC in points against {report.images} tuning images",
            "columns": ["score", "mean", *families],
            "rows": rows,
        },
    }


def geometry(
    charts: Mapping[str, Chart], gate: Gate, measured: Geometry | None, sets: Sequence[ScoredSet], *, sampled: bool
) -> dict[str, Any]:
    """In words and numbers, what features say of the norm; `sampled` where not all images of the sets were measured."""
    if measured is None:
        known = ", and the known images have no labels" if any(part.kind == "known" for part in sets) else ""
        return {"lines": [f"Not known: the gate keeps no training features{known}."], "charts": []}
    lines = explain(measured, gate.classes)
    if sampled:
        lines.append("Sets are measured on up to 2,000 of their images each, evenly chosen.")
    parts = [
        drawn(name, charts[name], f"{_CAPTIONS[name]} The words above say what stands out.")
        for name in ("norms-by-class", "norms-by-set", "collapse")
        if name in charts
    ]
    raw, directions = measured.raw, measured.directions
    rows = [
        ("NC1, spread within classes over that between them", raw.within_between, directions.within_between),
        ("NC2, inequality of the class means' lengths", raw.means.equinorm, directions.means.equinorm),
        (
            "NC2, mean distance of their angles from the simplex",
            raw.means.widest_angle,
            directions.means.widest_angle,
        ),
        ("distance to the simplex", raw.means.simplex_distance, directions.means.simplex_distance),
        ("NC3, distance of the head from the class means", raw.self_duality, directions.self_duality),
        (
            "NC4, disagreement with the nearest class mean",
            raw.nearest_mean_disagreement,
            directions.nearest_mean_disagreement,
        ),
    ]
    table = {
        "caption": "Neural collapse of the labelled features; 0 is full collapse",
        "columns": ["measure", "raw features", "directions"],
        "rows": [
            {"own": False, "cells": [name, *("–" if value is None else f"{value:.3g}" for value in values)]}
            for name, *values in rows
        ],
    }
    return {"lines": lines, "charts": parts, "table": table}


def images(sets: Sequence[ScoredSet], galleries: Mapping[str, Gallery], found: Levels) -> list[dict[str, Any]]:
    """Lists of images a set: those that follow the slider first."""
    sections = []
    for number, part in enumerate(sets):
        gallery = galleries[part.name]
        kind = "accepted" if part.kind == "unknown" else "rejected"
        title = {"known": "False alarms", "unknown": "Missed: accepted all the same", "screened": "Rejected"}[part.kind]
        level = found.p_values[found.start]
        rejected = int(found.rejected[part.name][found.start])
        count = rejected if kind == "rejected" else len(part) - rejected
        shown = sum((card.p_value <= level) == (kind == "rejected") for card in gallery.spread)
        follow = gallery.spread if kind == "rejected" else gallery.spread[::-1]
        sections.append(
            {
                "number": number,
                "name": part.name,
                "lists": [
                    {"title": title, "follow": kind, "count": f"{shown} of {count} shown", "cards": follow},
                    {"title": "Least familiar", "follow": None, "cards": gallery.least},
                    {"title": "Most familiar", "follow": None, "cards": gallery.most},
                ],
            }
        )
    return sections


def unreadable(sets: Sequence[ScoredSet]) -> list[dict[str, Any]]:
    """What could not be read."""
    return [
        {"name": part.name, "count": part.unreadable, "first": part.errors, "more": part.unreadable - len(part.errors)}
        for part in sets
        if part.unreadable
    ]


def facts(gate: Gate) -> list[tuple[str, str]]:
    """What the gate is."""
    calibration = gate.calibration
    names = ", ".join(gate.classes[:20]) + (", …" if len(gate.classes) > 20 else "")
    thresholds = calibration.thresholds
    return [
        ("network", gate.network_name),
        ("input", gate.preprocessing.in_words),
        ("classes", f"{len(gate.classes)}: {names}"),
        ("score", described(gate.score)),
        (
            "threshold",
            f"one a predicted class, from {thresholds.min():.4g} to {thresholds.max():.4g}"
            if calibration.by_class
            else f"{thresholds[0]:.6g}",
        ),
        ("calibration", f"{calibration.n} images"),
    ]


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.2f} %"


def _promised(gate: Gate) -> dict[str, Any]:
    calibration = gate.calibration
    note = f"of known images rejected, on average over calibration sets ({calibration.n} images)"
    return {"name": "Promised", "value": share(calibration.expected_false_alarm_rate), "note": note}


def _terms(gate: Gate) -> str:
    by_class = " within each predicted class" if gate.calibration.by_class else ""
    return (
        f"The promise holds{by_class} if new known images come like the calibration images. Pictures of one person, "
        "burst or scene are clustered, and it is then nominal. It says nothing of unknown images: what of those is "
        "rejected depends on the score."
    )
