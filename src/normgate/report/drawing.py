"""Charts drawn without a browser: as SVG inside a page, and as SVG or PDF files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import vl_convert

from normgate.data.names import printable
from normgate.report.charts import GRID, INK, MUTED

if TYPE_CHECKING:
    import altair as alt

_THEME: dict[str, Any] = {
    "background": None,
    "font": "Helvetica, Arial, sans-serif",
    "axis": {
        "labelColor": MUTED,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "titlePadding": 10,  # browsers may have a wider font than the one that was measured
        "gridColor": GRID,
        "domainColor": MUTED,
        "tickColor": MUTED,
    },
    "legend": {"labelColor": INK, "titleColor": INK, "labelLimit": 260},
    "title": {"color": INK},
    "view": {"stroke": None},
}
# The page's own colours, light or dark, in the place of those of paper.
_INKS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)"}
_PADDING = 5
"""Around a drawing, as Vega has it."""
_ORIGIN = re.compile(r'<g [^>]*transform="translate\((\d+(?:\.\d+)?),')
_WIDTH = re.compile(r'<svg [^>]*?width="(\d+(?:\.\d+)?)"')


def specification(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The themed Vega-Lite specification."""
    found = _printable(chart.to_dict())
    return {**found, "config": {**found.get("config", {}), **_THEME}}


def _printable(value: Any) -> Any:
    """The same with every text printable: vl-convert ends the whole process on a control character."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: _printable(part) for key, part in value.items()}
    return [_printable(part) for part in value] if isinstance(value, list) else value


def svg(chart: alt.TopLevelMixin) -> str:
    """A drawing for a page: takes on its colours, and is hidden from screen readers, for which there is a table."""
    drawn = str(vl_convert.vegalite_to_svg(specification(chart)))
    for colour, own in _INKS.items():
        drawn = drawn.replace(f'"{colour}"', f'"{own}"')
    return drawn.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def placed(drawn: str) -> tuple[float, float]:
    """Where the plot of a drawing begins, and the width of the drawing, in pixels."""
    origin, width = _ORIGIN.search(drawn), _WIDTH.search(drawn)
    assert origin is not None  # vl-convert writes both into every drawing
    assert width is not None
    return float(origin[1]), float(width[1])


def file(chart: alt.TopLevelMixin, suffix: str) -> bytes:
    """A drawing for a paper, with a white ground.

    Args:
        chart: what to draw.
        suffix: `.svg` or `.pdf`.
    """
    found = {**specification(chart), "background": "white"}
    if suffix == ".pdf":
        return bytes(vl_convert.vegalite_to_pdf(found))  # it holds the font that was measured
    # An SVG names its fonts, and what a viewer has in the place of Arial is up to a fifth wider: labels at the left
    # would grow beyond the edge.
    origin, _ = placed(str(vl_convert.vegalite_to_svg(found)))
    padding = {"left": _PADDING + origin / 5, **dict.fromkeys(("top", "right", "bottom"), _PADDING)}
    return str(vl_convert.vegalite_to_svg({**found, "padding": padding})).encode("utf-8")
