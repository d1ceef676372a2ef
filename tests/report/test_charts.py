"""Charts: they hold the numbers they are given, and draw whatever names they are given."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy import integrate

from normgate import metrics
from normgate.collapse.norms import NormStatistics
from normgate.report import charts, drawing

HOSTILE = "</script><script>alert(1)</script>\"'&\x1b[31m" + "x" * 100
RNG = np.random.default_rng(0)
SCORES = {"known": RNG.normal(5, 1, 400), HOSTILE: RNG.normal(0, 3, 300)}
PALETTE = charts.colours(["known"], [HOSTILE, "wrong"])
SPREAD = NormStatistics(9, 1.0, 0.5, 0.5, (0.1, 0.2, 0.5, 1.0, 1.5, 1.8, 2.0))


def points(chart: Any) -> list[dict[str, Any]]:
    """Every row of data in a chart."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def ticks_of(svg: str, title: str) -> list[str]:
    """The labels of the axis that has this title."""
    labels = svg[svg.index(f"X-axis titled '{title}'") :].split("role-axis-label")[1].split("role-axis-domain")[0]
    return re.findall(r"<text[^>]*>([^<]*)</text>", labels)


def every() -> dict[str, Any]:
    domain = charts.score_domain(SCORES["known"], SCORES.values())
    found = type("Found", (), {"auroc": 0.9, "auroc_low": 0.8, "auroc_high": 0.95})
    rows = [{"epoch": epoch, "nc1": 1 / epoch} for epoch in range(1, 5)]
    return {
        "distributions": charts.distributions(SCORES, domain, PALETTE, score="norm", threshold=3.0, width=300),
        "roc": charts.roc(
            SCORES["known"], {HOSTILE: SCORES[HOSTILE]}, PALETTE, points={HOSTILE: (0.05, 0.9)}, width=200
        ),
        "risk": charts.risk_coverage({HOSTILE: (np.array([0.5, 1]), np.array([0.1, 0.2]))}, PALETTE, width=200),
        "scores": charts.scores({HOSTILE: found, "norm": found}, "norm", title="AUROC", width=200),
        "scores_by_group": charts.scores_by_group(
            [(HOSTILE, {"norm": found}), ("far", {HOSTILE: found})], "norm", width=300
        ),
        "probes": charts.probes({HOSTILE: {"noise": 0.4}, "norm": {"noise": 0.9}}, "norm", width=300),
        "norms": charts.norms({HOSTILE: SPREAD, "known": SPREAD}, PALETTE, title="norm", width=200),
        "collapse": charts.collapse({HOSTILE: rows, "plain": rows}, {"nc1": "NC1"}, width=200),
    }


@pytest.mark.parametrize("name", sorted(every()))
def test_hostile_names_are_text(name: str) -> None:
    drawn = drawing.svg(every()[name])
    assert "<script" not in drawn.lower()
    assert "\x1b" not in drawn
    assert drawn.startswith('<svg aria-hidden="true"')
    assert not re.search(r"\bon[a-z]+=|javascript:|https?://(?!www\.w3\.org)", drawn)
    assert "style=" not in drawn  # the page's policy forbids styles of their own


@pytest.mark.parametrize("name", sorted(every()))
@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<svg")])
def test_files_for_papers(name: str, suffix: str, start: bytes) -> None:
    assert drawing.file(every()[name], suffix).startswith(start)


def test_bars_hold_every_image() -> None:
    domain = charts.score_domain(SCORES["known"], SCORES.values())
    wild = {"known": SCORES["known"], "far": np.array([-1e9, 1e9, 5.0, -np.inf])}
    colour = charts.colours(["known"], ["far"])
    chart = charts.distributions(wild, domain, colour, score="norm", threshold=None, width=300)
    rows = points(chart)
    assert sum(row["share"] for row in rows) == pytest.approx(2)
    assert min(row["from"] for row in rows) == domain[0]
    assert max(row["to"] for row in rows) == domain[1]


def test_outliers_far_out_do_not_squeeze_the_known_images() -> None:
    low, high = charts.score_domain(SCORES["known"], [np.array([-1e9, 1e9])])
    spread = np.ptp(SCORES["known"])
    assert high - low < 8 * spread
    assert low < SCORES["known"].min() + 0.5 * spread
    assert np.isfinite(charts.score_domain(np.zeros(5), [])).all()


def test_the_area_under_the_drawn_curve_is_the_auroc() -> None:
    unknown = SCORES[HOSTILE]
    chart = charts.roc(SCORES["known"], {"far": unknown}, {"far": "red"}, points={}, width=200)
    rows = [row for row in points(chart) if "set" in row]
    x, y = (np.array([row[key] for row in rows]) for key in "xy")
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert integrate.trapezoid(y, x) == pytest.approx(metrics.auroc(SCORES["known"], unknown), abs=0.005)
    assert len(rows) <= charts.CURVE_POINTS


def test_where_the_plot_lies_is_where_its_bars_are() -> None:
    """The slider's line is placed by these numbers."""
    domain = (0.0, 60.0)
    chart = charts.distributions(
        {"a": np.array([30.5])}, domain, {"a": "#123456"}, score="norm", threshold=None, width=240
    )
    drawn = drawing.svg(chart)
    origin, width = drawing.placed(drawn)
    path = re.search(r'd="M([\d.]+),[^"]*" fill="#123456"', drawn)
    assert path is not None
    assert float(path[1]) == pytest.approx(240 * 30 / 60, abs=1)
    assert 0 <= origin < 20
    assert width >= 240 + origin


def test_labels_are_each_another_and_no_word_of_the_chart_library() -> None:
    runs = [f"gates/experiments-of-{years}/with-normalisation" for years in ("2026", "2026-and-2027")]
    long = [*runs, "a" * 90, "a" * 91]
    labels = charts._labels([*long, "constructor", "b"])
    assert len(set(labels.values())) == 6
    assert all(label.endswith(" ") and len(label) <= 46 for label in labels.values())
    assert labels["b"] == "b "
    # A number only where a label is taken, and then one that is free.
    assert charts._labels(["svhn test", "svhn"])["svhn"] == "svhn "
    assert len(set(charts._labels(["a (2)", " (2)", "a", "a ", "caf\udce9", "caf\udce8"]).values())) == 6


@pytest.mark.parametrize("epochs", [range(1, 2), range(1, 3), range(1, 5), range(19, 21), range(3, 40), range(1, 301)])
@pytest.mark.parametrize("width", [150, 420, 620])
def test_epochs_are_whole(epochs: range, width: int) -> None:
    """Also where only the last epochs have the measure."""
    early = [{"epoch": epoch} for epoch in range(1, epochs.start)]
    rows = early + [{"epoch": epoch, "nc1": 1 / epoch} for epoch in epochs]
    ticks = ticks_of(drawing.svg(charts.collapse({"a": rows}, {"nc1": "NC1"}, width=width)), "epoch")
    assert len(set(ticks)) == len(ticks)
    assert set(map(str, epochs)) == set(ticks) or len(ticks) >= 2
    if len(epochs) < 4:
        assert ticks == [str(epoch) for epoch in epochs]


def test_labels_at_the_left_of_a_file_have_room_for_a_wider_font() -> None:
    """A page lets them grow beyond the drawing instead, and a PDF holds its font."""
    origins = {}
    for name in ("norm", "relative_mahalanobis_raw"):
        chart = charts.probes({name: {"noise": 0.4}}, "other", width=300)
        origins[name] = [drawing.placed(svg)[0] for svg in (drawing.svg(chart), drawing.file(chart, ".svg").decode())]
    assert origins["relative_mahalanobis_raw"][1] >= 1.15 * origins["relative_mahalanobis_raw"][0]
    assert origins["norm"][1] - origins["norm"][0] < 15


def test_infinite_scores_end_the_curve_at_the_corner() -> None:
    x, y = charts._rejected_shares(np.array([1.0, np.inf]), np.array([0.0, 2.0]))
    assert (x[-1], y[-1]) == (1, 1)
