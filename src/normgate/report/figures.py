"""The charts of an evaluation or a screening run by name, and as files for papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from normgate.collapse import Geometry, geometry, norm_correlations
from normgate.collapse.confounders import image_statistics
from normgate.collapse.norms import norms_of
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.loading import load_batches
from normgate.files import whole_file, whole_folder
from normgate.gate.geometry import gate_geometry
from normgate.report import charts
from normgate.report.checks import FORMATS, OF_GATES, SQUARE, check_gate_figure, check_installed, foreign
from normgate.report.errors import ReportError
from normgate.report.scored import of_evaluation, unlike

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    import altair as alt

    from normgate.data.sources import Record
    from normgate.evaluation import Evaluation, MeanMetrics
    from normgate.features import Features
    from normgate.gate import Gate
    from normgate.report.scored import ScoredSet

    Chart: TypeAlias = Callable[[int], alt.TopLevelMixin]

PAPER_WIDTH, PAPER_SQUARE = 420, 260
WIDE_WIDTH, SQUARE_WIDTH = 620, 300
SAMPLE = 2000
"""Images of a set, evenly over it, that geometry is measured on."""
STATISTICS_SAMPLE = 500
"""Known images whose contrast and texture are measured."""
MOST_CLASSES = 30
MOST_SCORES = 15


def save_figures(
    gate: Gate,
    evaluation: Evaluation,
    folder: str | os.PathLike[str],
    *,
    formats: Sequence[str] = FORMATS,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write every chart of an evaluation as files, from the definitions that reports are made of.

    Args:
        gate: what was evaluated.
        evaluation: with its features kept.
        folder: where to; it appears whole or not at all.
        formats: of `FORMATS`.
        overwrite: replace a folder of figures that exists.

    Returns:
        The names of the files.

    Raises:
        ReportError: a library is missing, that is not the gate or no single evaluation, no features were kept, or there
            is no such format.
        OutputError: the folder exists and `overwrite` is not set, holds something else, or cannot be written.
    """
    check_installed()
    from normgate.report.drawing import file

    if unknown := [suffix for suffix in formats if suffix not in FORMATS]:
        raise ReportError(f"figures are written as {' or '.join(FORMATS)}, not {unknown[0]}")
    sets = of_evaluation(gate, evaluation)
    measured = measured_geometry(gate, evaluation.features or {})
    found = {
        **score_charts(gate, sets),
        **curve_charts(gate, evaluation, sets),
        **comparison_charts(evaluation),
        **probe_charts(gate),
        **({} if measured is None else geometry_charts(gate, measured, sets)),
        **collapse_charts({"training": gate}),
    }
    written = []
    with whole_folder(Path(folder), foreign=foreign, overwrite=overwrite) as work:
        for name, chart in found.items():
            drawn = chart(PAPER_SQUARE if name in SQUARE else PAPER_WIDTH)
            for suffix in formats:
                (work / f"{name}{suffix}").write_bytes(file(drawn, suffix))
                written.append(f"{name}{suffix}")
    return tuple(written)


def gate_figure(
    chart: str, gates: Mapping[str, Gate], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a chart of what gates tell of themselves.

    Args:
        chart: of `OF_GATES`: `collapse`, the neural collapse of each epoch of a training that logged it, several gates
            side by side; `probes`; or `norms-by-class`.
        gates: by the name that they are to have in the chart.
        path: `.svg` or `.pdf`; it appears whole or not at all.
        overwrite: replace a file that exists.

    Raises:
        ReportError: as of `check_gate_figure`, or a gate does not know what is to be drawn.
        OutputError: the file exists and `overwrite` is not set, or cannot be written.
    """
    if not isinstance(gates, Mapping):
        raise ReportError(f"gates= names its gates, as in {{'mine': gate}}, and is no {type(gates).__name__}")
    check_gate_figure(chart, len(gates), path, overwrite=overwrite)
    from normgate.report.drawing import file

    gate = next(iter(gates.values()))
    measured = measured_geometry(gate, {}) if chart == "norms-by-class" else None
    found = {
        **collapse_charts(gates),
        **probe_charts(gate),
        **({} if measured is None else geometry_charts(gate, measured, ())),
    }
    if chart not in found:
        raise ReportError(f"{', '.join(gates)}: {OF_GATES[chart]}")
    with whole_file(Path(path), overwrite=overwrite) as partial:
        partial.write_bytes(file(found[chart](PAPER_WIDTH), Path(path).suffix.lower()))


def collapse_charts(gates: Mapping[str, Gate]) -> dict[str, Chart]:
    """`collapse`, where every gate's training has logged it."""
    logs = {name: gate.provenance.get("log") or [] for name, gate in gates.items()}
    if not logs or not all(log and COLLAPSE.keys() <= log[-1].keys() for log in logs.values()):
        return {}
    return {"collapse": lambda width: charts.collapse(logs, COLLAPSE, width=width)}


COLLAPSE = {
    "nc1_u": "NC1 of directions",
    "nc1_z": "NC1 of raw features",
    "nc2_simplex_u": "distance to the simplex",
    "nc3_u": "NC3, head to class means",
    "norm_variation": "variation of norms",
}


def palette(sets: Sequence[ScoredSet]) -> dict[str, str]:
    """A colour a set."""
    return charts.colours(
        [part.name for part in sets if part.kind == "known"], [part.name for part in sets if part.kind != "known"]
    )


def score_domain(gate: Gate, sets: Sequence[ScoredSet]) -> tuple[float, float]:
    """From where to where scores are drawn; known are the calibration images, which every gate has."""
    values = {part.name: part.verdicts.score for part in sets}
    return charts.score_domain(gate.calibration.scores, values.values())


def score_charts(gate: Gate, sets: Sequence[ScoredSet]) -> dict[str, Chart]:
    """`distributions`, where calibration images stand for known ones if there are no others."""
    values = {part.name: part.verdicts.score for part in sets}
    colour = palette(sets)
    if not any(part.kind == "known" for part in sets):
        name = unlike("calibration images", values)
        values, colour = {name: gate.calibration.scores, **values}, {name: charts.KNOWN, **colour}
    domain = score_domain(gate, sets)
    threshold = None if gate.calibration.by_class else float(gate.calibration.thresholds[0])
    return {
        "distributions": lambda width: charts.distributions(
            values, domain, colour, score=gate.score.name, threshold=threshold, width=width
        )
    }


def curve_charts(gate: Gate, evaluation: Evaluation, sets: Sequence[ScoredSet]) -> dict[str, Chart]:
    """`roc` and `risk-coverage`, where there is something to draw."""
    unknown = {part.name: part.verdicts.score for part in sets if part.kind == "unknown"}
    known = next(part for part in sets if part.kind == "known")
    colour = palette(sets)
    found: dict[str, Chart] = {}
    if unknown and evaluation.outcome is not None:
        outcome = evaluation.outcome
        points = {name: (outcome.realised, outcome.rejected[name]) for name in unknown}
        found["roc"] = lambda width: charts.roc(known.verdicts.score, unknown, colour, points=points, width=width)
    curves, alone = {}, unlike("wrong predictions alone", unknown)
    if evaluation.wrong is not None:
        only = evaluation.risk_coverage(gate.score.name, "wrong")
        curves[alone] = (only.coverage, only.risk)
    for name in unknown:
        both = evaluation.risk_coverage(gate.score.name, "outliers" if evaluation.wrong is None else "both", name)
        curves[name] = (both.coverage, both.risk)
    if curves:
        shades = {**colour, alone: charts.KNOWN}
        found["risk-coverage"] = lambda width: charts.risk_coverage(curves, shades, width=width)
    return found


def comparison_charts(evaluation: Evaluation) -> dict[str, Chart]:
    """`scores`: the AUROC of each as the mean over the sets, a panel a group of them."""
    means, own = best_first(evaluation), evaluation.gate_score
    if not means:
        return {}
    if is_grouped(evaluation):
        panels = [(in_words(group, evaluation.groups[group]), found) for group, found in means.items()]
        return {"scores": lambda width: charts.scores_by_group(panels, own, width=width)}
    (found,) = means.values()
    return {"scores": lambda width: charts.scores(found, own, title="AUROC in points, mean of sets", width=width)}


def is_grouped(evaluation: Evaluation) -> bool:
    """Whether its groups of sets were named, and are not simply all sets."""
    return evaluation.groups != {"mean": evaluation.sets}


def best_first(evaluation: Evaluation) -> dict[str, dict[str, MeanMetrics]]:
    """By group of sets, the means of each score, best first; a group may have another order than all sets have."""

    def of(group: str) -> dict[str, MeanMetrics]:
        means = {score: evaluation.means[score][group] for score in evaluation.ranking}
        return dict(sorted(means.items(), key=lambda item: item[1].auroc, reverse=True))

    return {group: of(group) for group in evaluation.groups} if evaluation.means else {}


def in_words(group: str, names: Sequence[str]) -> str:
    """What a group's figures are of."""
    return f"{group}: {'mean of ' if len(names) > 1 else ''}{', '.join(names)}"


def probe_charts(gate: Gate) -> dict[str, Chart]:
    """`probes`, where the gate has been probed and a probe says something."""
    report, own = gate.probes, gate.score.name
    if report is None or not report.informative:
        return {}
    ranking = report.ranking()
    shown = list(ranking[:MOST_SCORES])
    shown += [name for name in dict.fromkeys([own, "norm"]) if name in ranking and name not in shown]
    values = {name: report.families(name) for name in shown}
    return {"probes": lambda width: charts.probes(values, own, width=width)}


def geometry_charts(gate: Gate, measured: Geometry, sets: Sequence[ScoredSet]) -> dict[str, Chart]:
    """`norms-by-class` and `norms-by-set`."""
    by_class = {
        name: value for name, value in zip(gate.classes, measured.norms_by_class, strict=True) if value is not None
    }
    lowest_first = sorted(by_class, key=lambda name: by_class[name].quantile(0.5))[:MOST_CLASSES]
    shown = {name: by_class[name] for name in lowest_first}
    few = f", the {len(shown)} smallest of {len(by_class)} classes" if len(shown) < len(by_class) else ""
    taken = {part.name for part in sets}
    known = next((part.name for part in sets if part.kind == "known"), "id")
    names = {"train": unlike("training images", taken), "id": known}
    by_set = {names.get(name, name): value for name, value in measured.norms.items()}
    colour = palette(sets)
    return {
        "norms-by-class": lambda width: charts.norms(shown, {}, title=f"norm of training images{few}", width=width),
        "norms-by-set": lambda width: charts.norms(by_set, colour, title="norm", width=width),
    }


def measured_geometry(
    gate: Gate,
    features: Mapping[str, Features],
    known: Iterable[Record] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Geometry | None:
    """Geometry of a gate's training features beside samples of other sets; None where nothing has labels.

    Args:
        gate: whose kept training features are measured; a lean gate's `id` features stand in, if they have labels.
        features: of an evaluation's sets; empty for none, and then probes stand for unknown images.
        known: the images of the set `id`, whose contrast and texture are measured; None leaves that out.
        max_pixels: larger images are left out.
    """
    if not features.keys() - {"id"}:
        found = gate_geometry(gate)
        if found is not None or not features:
            return found
    sampled = {name: part.evenly(SAMPLE) for name, part in features.items()}
    own = sampled.pop("id")
    labelled = gate.kept.get("train", own)
    if labelled.labels is None or labelled.labels.min() == labelled.labels.max():
        return None
    others = {unlike(name, {"train", "id", *(sampled.keys() - {name})}): part for name, part in sampled.items()}
    found = geometry(labelled, id=own, ood=others)
    if known is None:
        return found
    wanted = own.evenly(STATISTICS_SAMPLE)
    places = {name: row for row, name in enumerate(wanted.ids)}
    records = [record for record in known if record.id in places]
    batches = list(load_batches(records, gate.extractor.preprocessing, max_pixels=max_pixels, digests=True))
    rows = [places[record.id] for batch in batches for record in batch.decoded]
    if not rows:
        return found
    pixels = np.concatenate([batch.pixels for batch in batches])
    if wanted.digests is not None:  # names in memory are no more than numbers
        read = (one for batch in batches for one in batch.digests)
        same = np.array([one == wanted.digests[row] for row, one in zip(rows, read, strict=True)])
        rows, pixels = [row for row, is_same in zip(rows, same, strict=True) if is_same], pixels[same]
        if not rows:
            return found
    norms = norms_of(wanted.select(rows))
    return dataclasses.replace(found, correlations=norm_correlations(norms, image_statistics(pixels)))
