"""Reports as files: one HTML page that holds everything it shows."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normgate import __version__
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.sources import open_source
from normgate.files import whole_file
from normgate.progress import silent
from normgate.report.checks import check_report
from normgate.report.errors import ReportError
from normgate.report.scored import of_evaluation, of_table

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from normgate.collapse import Geometry
    from normgate.data.sources import Data, Source
    from normgate.evaluation import Evaluation
    from normgate.gate import Gate
    from normgate.progress import Progress
    from normgate.report.figures import Chart
    from normgate.report.scored import ScoredSet
    from normgate.screening import Summary

PRIVATE = "It shows training images, on request: share it as you would share these."


def evaluation_report(
    gate: Gate,
    evaluation: Evaluation,
    images: Mapping[str, Data],
    path: str | os.PathLike[str],
    *,
    neighbours: Data | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    overwrite: bool = False,
    progress: Progress = silent,
) -> None:
    """Write what an evaluation found as a page.

    Args:
        gate: what was evaluated.
        evaluation: with its features kept (`keep_features`).
        images: by set what was evaluated, the known ones under `id`; a sample of them is read again and shown.
        path: of the page, `.html`; it appears whole or not at all.
        neighbours: the images that the gate was trained on, of which those near to a shown image are then shown, too;
            None shows none, since they are private until someone says otherwise.
        max_pixels: larger images are not shown.
        overwrite: replace a file that exists.
        progress: told how far it is.

    Raises:
        ReportError: a library is missing, that is not the gate or no single evaluation, features were not kept, or a
            set's images are missing.
        NeighbourError: `neighbours` are not the images that the gate was trained on.
        OutputError: the file exists and `overwrite` is not set, or cannot be written.
    """
    check_report(path, overwrite=overwrite)
    from normgate.report import figures, sections

    sets = of_evaluation(gate, evaluation)
    if missing := [name for name in evaluation.images if name not in images]:
        raise ReportError(f"the images of {', '.join(missing)} are needed for the report")
    sources = {
        part.name: open_source(images[name], labelled=False) for name, part in zip(evaluation.images, sets, strict=True)
    }
    assert evaluation.features is not None  # of_evaluation has looked
    measured = figures.measured_geometry(gate, evaluation.features, sources[sets[0].name], max_pixels)
    sampled = (
        measured is not None
        and "id" in measured.norms  # or what the gate keeps was measured, for want of unknown sets
        and any(len(part) > figures.SAMPLE for part in evaluation.features.values())
    )
    charts = {
        **figures.curve_charts(gate, evaluation, sets),
        **figures.comparison_charts(evaluation),
    }
    page = {
        "title": "normgate evaluation",
        "subtitle": sections.subtitle(gate, evaluation),
        "promise": sections.promise_of_evaluation(gate, evaluation),
        "curves": sections.curves(charts, evaluation, gate.score.name),
        "comparison": sections.comparison(charts, evaluation),
    }
    _write(
        Path(path),
        page,
        gate,
        sets,
        sources,
        measured,
        neighbours,
        sampled=sampled,
        max_pixels=max_pixels,
        overwrite=overwrite,
        progress=progress,
    )


def screening_report(
    gate: Gate,
    verdicts: str | os.PathLike[str],
    images: Data,
    summary: Summary,
    path: str | os.PathLike[str],
    *,
    neighbours: Data | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    overwrite: bool = False,
    progress: Progress = silent,
) -> None:
    """Write what a screening run found as a page.

    Args:
        gate: that judged.
        verdicts: the table that the run has written.
        images: what was screened; a sample of it is read again and shown.
        summary: of the run.
        path: of the page, `.html`; it appears whole or not at all.
        neighbours: see `evaluation_report`.
        max_pixels: larger images are not shown.
        overwrite: replace a file that exists.
        progress: told how far it is.

    Raises:
        ReportError: a library is missing.
        NeighbourError: `neighbours` are not the images that the gate was trained on.
        OutputError: the file exists and `overwrite` is not set, or cannot be written.
    """
    check_report(path, overwrite=overwrite)
    from normgate.report import figures, sections

    screened = of_table(Path(verdicts))
    page = {
        "title": "normgate screening",
        "subtitle": sections.subtitle(gate),
        "promise": sections.promise_of_screening(gate, summary),
    }
    _write(
        Path(path),
        page,
        gate,
        [screened],
        {screened.name: open_source(images, labelled=False)},
        figures.measured_geometry(gate, {}),
        neighbours,
        cut=summary.cut,
        max_pixels=max_pixels,
        overwrite=overwrite,
        progress=progress,
    )


def _write(
    path: Path,
    page: dict[str, Any],
    gate: Gate,
    sets: Sequence[ScoredSet],
    sources: Mapping[str, Source],
    measured: Geometry | None,
    neighbours: Data | None,
    *,
    cut: float | None = None,
    sampled: bool = False,
    max_pixels: int,
    overwrite: bool,
    progress: Progress,
) -> None:
    from normgate.report import figures, sections
    from normgate.report.gallery import galleries
    from normgate.report.levels import levels

    steps = 4
    progress("report", 0, steps)
    found = levels(gate.calibration, sets, cut)
    train = None if neighbours is None else open_source(neighbours, labelled=False)
    shown = galleries(gate, sets, sources, train, max_pixels)
    progress("report", 1, steps)
    charts: dict[str, Chart] = {**figures.score_charts(gate, sets), **figures.probe_charts(gate)}
    charts |= figures.collapse_charts({"training": gate})
    if measured is not None:
        charts |= figures.geometry_charts(gate, measured, sets)
    parts = {
        **page,
        "slider": sections.slider(found, sets),
        "distributions": sections.distributions(charts, figures.score_domain(gate, sets), sets),
        "probes": sections.probes(charts, gate),
        "geometry": sections.geometry(charts, gate, measured, sets, sampled=sampled),
        "images": sections.images(sets, shown, found),
        "unreadable": sections.unreadable(sets),
        "facts": sections.facts(gate),
        "neighbours": neighbours is not None,
        "private": PRIVATE if neighbours is not None else None,
    }
    progress("report", 2, steps)
    text = _rendered(parts, sections.slider_data(found, sets))
    progress("report", 3, steps)
    with whole_file(path, overwrite=overwrite) as partial:
        # A name from the command line may not be UTF-8.
        partial.write_bytes(text.encode("utf-8", errors="backslashreplace"))
    progress("report", steps, steps)


_SECTIONS = {
    "promise": "Promise",
    "threshold": "Threshold",
    "scores": "Scores of the images",
    "comparison": "Scores compared",
    "probes": "Probes",
    "geometry": "Geometry",
    "images": "Images",
    "gate": "The gate",
}


def _rendered(parts: dict[str, Any], data: dict[str, Any]) -> str:
    import jinja2

    folder = importlib.resources.files("normgate.report") / "page"
    template, style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html.j2", "page.css", "page.js")
    )
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined
    )
    # What is allowed: pictures that are in the file, and the page's own style and script by their digests.
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    left_out = () if parts.get("comparison") else ("comparison",)
    return environment.from_string(template).render(
        **parts,
        policy=policy,
        style=style,
        script=script,
        # A name may hold "</script>": no letter of markup is left in the JSON.
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        version=__version__,
        sections=[item for item in _SECTIONS.items() if item[0] not in left_out],
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
