"""Every chart, defined once, in Altair: for the page in the browser and as SVG or PDF for a paper.

Each function takes plain values and the width of its plot in pixels, and gives a chart without a theme; see `drawing`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from normgate.data.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from normgate.collapse import NormStatistics
    from normgate.metrics import OodMetrics

KNOWN = "#1f77d0"
UNKNOWN = ("#d9541e", "#2f9e62", "#a24bc4", "#c48a00", "#0f93a8", "#d0417f", "#6b8f00", "#8a6d5a")
BINS = 60
CURVE_POINTS = 200
NARROW = 270
"""Below this width a plot has fewer labels."""
LEAST_PANEL, PANEL_GAP = 200, 30
"""Width of a panel beside another, and what lies between them: labels may have a wider font than was measured."""
LARGEST_SPAN = 3.0
"""How many widths of the known scores beyond them scores are drawn one by one; the rest is in the end bars."""


def colours(known: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """A colour a set: the same in every chart."""
    return {**dict.fromkeys(known, KNOWN), **dict(zip(others, itertools.cycle(UNKNOWN), strict=False))}


def score_domain(known: NDArray[np.float64], sets: Iterable[NDArray[np.float64]]) -> tuple[float, float]:
    """From where to where scores are drawn, so that outliers far out do not squeeze everything else.

    Args:
        known: (n,) scores of known images.
        sets: scores of all sets that are drawn.
    """
    finite = [values[np.isfinite(values)] for values in (known, *sets)]
    reference = finite[0] if len(finite[0]) else np.zeros(1)
    low, high = np.quantile(reference, [0.02, 0.98])
    reach = LARGEST_SPAN * ((high - low) or abs(high) or 1.0)
    smallest, largest = np.quantile(np.concatenate([reference, *finite]), [0.002, 0.998])
    margin = 0.02 * (high - low)
    return float(min(max(smallest, low - reach), low) - margin), float(max(min(largest, high + reach), high) + margin)


def distributions(
    scores: Mapping[str, NDArray[np.float64]],
    domain: tuple[float, float],
    palette: Mapping[str, str],
    *,
    score: str,
    threshold: float | None,
    width: int,
) -> alt.TopLevelMixin:
    """A histogram of each set, one above the other on one axis, as shares of the set.

    Args:
        scores: (N,) by set.
        domain: from where to where; the outermost bars hold what lies beyond.
        palette: a colour a set.
        score: its name.
        threshold: from where on images are accepted; None where there is no single one.
        width: of the plot.
    """
    edges = np.linspace(*domain, BINS + 1)
    labels = _labels(scores)
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    rows = []
    for number, (name, values) in enumerate(scores.items()):
        counts = np.histogram(np.clip(values, *domain), edges)[0]
        bars = [
            {"from": float(left), "to": float(right), "share": count / max(1, len(values))}
            for left, right, count in zip(edges, edges[1:], counts.tolist(), strict=False)
            if count
        ]
        last = number == len(scores) - 1
        axis = alt.Axis(title=f"{score} (larger = more familiar)", tickCount=width // 90) if last else None
        bar = (
            alt.Chart(_data(bars))
            .mark_bar(color=palette[name], binSpacing=0.5)
            .encode(
                x=alt.X("from:Q", bin="binned", scale=scale, axis=axis),
                x2="to:Q",
                y=alt.Y("share:Q", axis=None),
            )
        )
        layers = [bar]
        if threshold is not None and domain[0] <= threshold <= domain[1]:
            rule = alt.Chart(_data([{"from": threshold}])).mark_rule(strokeDash=[4, 3], color=INK)
            layers.append(rule.encode(x=alt.X("from:Q", scale=scale, axis=axis)))
        title = alt.Title(labels[name], anchor="start", fontSize=12, fontWeight="normal", offset=2)
        rows.append(alt.layer(*layers).properties(width=width, height=56, title=title))
    return alt.vconcat(*rows, spacing=6)


def roc(
    known: NDArray[np.float64],
    unknown: Mapping[str, NDArray[np.float64]],
    palette: Mapping[str, str],
    *,
    points: Mapping[str, tuple[float, float]],
    width: int,
) -> alt.TopLevelMixin:
    """The share of unknown images that a threshold rejects against the share of known ones.

    Args:
        known: (m,) scores.
        unknown: (n,) scores by set.
        palette: a colour a set.
        points: by set, the shares of known and of unknown images that the gate rejects.
        width: of the plot, and its height.
    """
    labels = _labels(unknown)
    rows = [
        {"set": labels[name], "x": x, "y": y}
        for name, values in unknown.items()
        for x, y in _thinned(*_rejected_shares(known, values))
    ]
    marks = [{"set": labels[name], "x": x, "y": y} for name, (x, y) in points.items()]
    encodings: dict[str, Any] = {
        "x": alt.X("x:Q", title="share of known images rejected", scale=alt.Scale(domain=[0, 1])),
        "y": alt.Y("y:Q", title="share of unknown images rejected", scale=alt.Scale(domain=[0, 1])),
        "color": _colour(list(unknown), palette, width),
    }
    diagonal = alt.Chart(_data([{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(color=GRID, strokeWidth=1)
    lines = alt.Chart(_data(rows)).mark_line(strokeWidth=1.8)
    dots = alt.Chart(_data(marks)).mark_point(filled=True, size=60)
    return alt.layer(
        diagonal.encode(x="x:Q", y="y:Q"), lines.encode(**encodings, order="x:Q"), dots.encode(**encodings)
    ).properties(width=width, height=width)


def risk_coverage(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], palette: Mapping[str, str], *, width: int
) -> alt.TopLevelMixin:
    """The share of accepted answers that are errors, against the share of answers that are accepted.

    Args:
        curves: coverage and risk, by name.
        palette: a colour a name.
        width: of the plot, and its height.
    """
    labels = _labels(curves)
    rows = [
        {"set": labels[name], "x": x, "y": y}
        for name, (coverage, risk) in curves.items()
        for x, y in _thinned(coverage, risk)
    ]
    lines = alt.Chart(_data(rows), width=width, height=width).mark_line(strokeWidth=1.8)
    found: alt.TopLevelMixin = lines.encode(
        x=alt.X("x:Q", title="share of images accepted", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("y:Q", title="share of accepted answers that are errors"),
        color=_colour(list(curves), palette, width),
        order="x:Q",
    )
    return found


def scores(
    metrics: Mapping[str, OodMetrics | Any], own: str | None, *, title: str, width: int, room: int | None = None
) -> alt.TopLevelMixin:
    """AUROC of each score with its 95 % interval, in points, best first.

    Args:
        metrics: by score, what has `auroc`, `auroc_low` and `auroc_high`.
        own: the gate's score, which is marked.
        title: of the axis.
        width: of the plot.
        room: of the labels; None for what a plot of this width has.
    """
    rows = [
        {
            "score": name + (" ◂ gate" if name == own else ""),
            "auroc": 100 * found.auroc,
            "low": 100 * found.auroc_low,
            "high": 100 * found.auroc_high,
            "own": name == own,
        }
        for name, found in metrics.items()
    ]
    base = alt.Chart(_data(rows)).encode(
        y=alt.Y("score:N", sort=None, title=None, axis=alt.Axis(labelLimit=room or _label_room(width))),
        color=alt.Color("own:N", scale=alt.Scale(domain=[True, False], range=[UNKNOWN[0], KNOWN]), legend=None),
    )
    x = alt.X("low:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=max(3, width // 60)))
    interval = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q")
    dot = base.mark_point(filled=True, size=50, opacity=1).encode(x="auroc:Q")
    return alt.layer(interval, dot).properties(width=width, height=alt.Step(16))


def scores_by_group(
    groups: Sequence[tuple[str, Mapping[str, OodMetrics | Any]]], own: str | None, *, width: int
) -> alt.TopLevelMixin:
    """A panel of `scores` a group of sets, two beside each other where there is room.

    Args:
        groups: what stands above a panel, and its metrics by score, best first.
        own: the gate's score, which is marked.
        width: of a plot that had the room to itself.
    """
    beside, room = width >= NARROW, _label_room(width)
    inner = max(LEAST_PANEL, (width - room - PANEL_GAP) // 2) if beside else width
    panels: list[Any] = []
    for said, metrics in groups:
        title = alt.Title(_labels([said])[said], anchor="start", fontSize=12, fontWeight="normal", limit=room + inner)
        panel = scores(metrics, own, title="AUROC in points", width=inner, room=room)
        panels.append(panel.properties(title=title))
    return alt.concat(*panels, columns=2 if beside else 1, spacing=PANEL_GAP)


def probes(auroc: Mapping[str, Mapping[str, float]], own: str, *, width: int) -> alt.TopLevelMixin:
    """AUROC of each score, the best first, against each family of probes, in points.

    Args:
        auroc: `auroc[score][family]`.
        own: the gate's score, which is marked.
        width: of the plot.
    """
    rows = [
        {"score": name + (" ◂ gate" if name == own else ""), "family": family, "auroc": 100 * value}
        for name, families in auroc.items()
        for family, value in families.items()
    ]
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("family:N", sort=None, title=None, axis=alt.Axis(orient="top", labelAngle=-45, labelLimit=120)),
        y=alt.Y("score:N", sort=None, title=None, axis=alt.Axis(labelLimit=_label_room(width))),
    )
    scale = alt.Scale(domain=[0, 50, 100], range=[UNKNOWN[0], "#f4f1ea", KNOWN], interpolate="rgb")
    cells = base.mark_rect().encode(color=alt.Color("auroc:Q", scale=scale, legend=None))
    layers: list[Any] = [cells]
    if width >= NARROW:
        pale = "datum.auroc > 20 && datum.auroc < 85"
        colour = alt.condition(pale, alt.value("#000000"), alt.value("#ffffff"))
        layers.append(base.mark_text(fontSize=10).encode(text=alt.Text("auroc:Q", format=".0f"), color=colour))
    return alt.layer(*layers).properties(width=width, height=alt.Step(18))


def norms(
    spreads: Mapping[str, NormStatistics], palette: Mapping[str, str], *, title: str, width: int
) -> alt.TopLevelMixin:
    """Norms by class or set: from the 5 % to the 95 % quantile, the middle half, and the median.

    Args:
        spreads: by name, in the order shown.
        palette: a colour a name; others are those of known images.
        title: of the axis.
        width: of the plot.
    """
    labels = _labels(spreads, width)
    rows = [
        {
            "name": labels[name],
            "colour": palette.get(name, KNOWN),
            **{f"q{round(100 * q)}": found.quantile(q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        }
        for name, found in spreads.items()
    ]
    base = alt.Chart(_data(rows)).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=_label_room(width))),
        color=alt.Color("colour:N", scale=None),
    )
    x = alt.X("q5:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=width // 60))
    return alt.layer(
        base.mark_rule(strokeWidth=1).encode(x=x, x2="q95:Q"),
        base.mark_bar(size=8, opacity=0.6).encode(x="q25:Q", x2="q75:Q"),
        base.mark_tick(size=14, thickness=2).encode(x="q50:Q"),
    ).properties(width=width, height=alt.Step(18))


def collapse(
    logs: Mapping[str, Sequence[Mapping[str, float]]], measures: Mapping[str, str], *, width: int
) -> alt.TopLevelMixin:
    """Measures of a training's epochs, run beside run.

    Args:
        logs: by run, a row an epoch.
        measures: what the columns of the rows mean, a panel each.
        width: of the plot.
    """
    palette = colours([next(iter(logs))], list(logs)[1:])
    panels, labels = [], _labels(logs)
    for column, said in measures.items():
        rows: list[dict[str, Any]] = [
            {"run": labels[run], "epoch": row["epoch"], "value": row[column]}
            for run, log in logs.items()
            for row in log
            if row.get(column) is not None
        ]
        epochs = {row["epoch"] for row in rows}
        # No more ticks than epochs from end to end, or there would be halves, which Vega's tickMinStep lets through.
        ticks = max(1, min(width // 40, int(max(epochs) - min(epochs)))) if epochs else 1
        panels.append(
            alt.Chart(_data(rows))
            .mark_line(strokeWidth=1.8)
            .encode(
                x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickCount=ticks, format="d")),
                y=alt.Y("value:Q", title=said),
                color=_colour(list(logs), palette, width, "run"),
            )
            .properties(width=width, height=width // 3)
        )
    return alt.vconcat(*panels)


INK, MUTED, GRID = "#1b1f24", "#59636e", "#d8dee4"
"""Text and axes; the page puts its own in their place, dark or light."""


def _data(rows: list[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=rows)


def _labels(names: Iterable[str], width: int | None = None) -> dict[str, str]:
    """Names that a chart has room for, each another: a long one loses its middle.

    A label ends with a space, so that none is a word that Vega itself looks up, such as `constructor`.

    Args:
        names: all of them.
        width: of a plot beside which they stand; None for legends and titles.
    """
    most = 40 if width is None else _label_room(width) // 7
    found: dict[str, str] = {}
    for name in names:
        short = printable(name)
        short = short if len(short) <= most else f"{short[: most // 2]}…{short[-(most // 2 - 1) :]}"
        label, number = f"{short} ", 2
        while label in found.values():
            label, number = f"{short} ({number}) ", number + 1
        found[name] = label
    return found


def _label_room(width: int) -> int:
    return 160 if width >= NARROW else 110


def _colour(names: Iterable[str], palette: Mapping[str, str], width: int, field: str = "set") -> alt.Color:
    labels = _labels(names)
    scale = alt.Scale(domain=list(labels.values()), range=[palette[name] for name in labels])
    legend = alt.Legend(orient="bottom", direction="vertical", title=None, columns=2 if width >= NARROW else 1)
    return alt.Color(f"{field}:N", scale=scale, legend=legend)


def _rejected_shares(
    known: NDArray[np.float64], unknown: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of both sets that lie below each threshold, from none to all."""
    thresholds = np.unique(np.concatenate([known, unknown]))
    below = [np.searchsorted(np.sort(values), thresholds) / len(values) for values in (known, unknown)]
    return np.append(below[0], 1.0), np.append(below[1], 1.0)


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[tuple[float, float]]:
    """At most `CURVE_POINTS` points of a curve, evenly along its length."""
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS)).clip(0, len(x) - 1))
    return list(zip(x[kept].tolist(), y[kept].tolist(), strict=True))
