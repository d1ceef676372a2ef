"""Results as files: JSON with everything, tidy CSV, and Markdown to read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.evaluation.disjoint import shared_lines
from normgate.evaluation.figures import DEFINITIONS
from normgate.evaluation.results import Evaluation, EvaluationError
from normgate.files import whole_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from normgate.evaluation.seeds import SeedSummary, Spread


def save(results: Evaluation | SeedSummary, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write results in the format that the suffix names; see `Evaluation.save`."""
    target = Path(path)
    written = writer(target)(results)
    with whole_file(target, overwrite=overwrite) as partial:
        # A name from the command line may not be UTF-8.
        partial.write_bytes(written.encode("utf-8", errors="backslashreplace"))


def save_images(evaluation: Evaluation, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write the score of each image; see `Evaluation.save_images`."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    target = Path(path)
    check_image_table(target)
    columns: dict[str, list[Any]] = {"set": [], "id": [], "wrong": []}
    for name, ids in evaluation.ids.items():
        wrong = evaluation.wrong if name == "id" else None
        columns["set"] += [name.encode("utf-8", "backslashreplace").decode()] * len(ids)  # a name may not be UTF-8
        columns["id"] += ids
        columns["wrong"] += [None] * len(ids) if wrong is None else wrong.tolist()
    schema = pa.schema({"set": pa.string(), "id": pa.string(), "wrong": pa.bool_()})
    table = pa.table(columns, schema=schema)
    for score, by_set in evaluation.values.items():
        values = np.concatenate([by_set[name] for name in evaluation.ids])
        table = table.append_column(score, pa.array(values, pa.float64()))
    with whole_file(target, overwrite=overwrite) as partial:
        if target.suffix.lower() == ".csv":
            arrow_csv.write_csv(table, partial)
        else:
            parquet.write_table(table, partial, compression="zstd")


def check_image_table(path: Path) -> None:
    """Refuse a table of images in a format that is not written.

    Raises:
        EvaluationError: as said.
    """
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise EvaluationError(f"{path} does not say in what format; name the images' scores .parquet or .csv")


def writer(path: Path) -> Callable[[Evaluation | SeedSummary], str]:
    """What makes the text of a file, by its suffix.

    Raises:
        EvaluationError: no format has that suffix.
    """
    writers = {".json": _json, ".csv": _csv, ".md": _markdown}
    if path.suffix.lower() not in writers:
        raise EvaluationError(f"{path} does not say in what format; name the results .json, .csv or .md")
    return writers[path.suffix.lower()]


def rows(results: Evaluation | SeedSummary) -> list[dict[str, Any]]:
    """Tidy rows: one a score and set (or mean), for seeds one a score, set and metric."""
    return _set_rows(results) if isinstance(results, Evaluation) else _seed_rows(results)


def markdown_table(evaluation: Evaluation, metric: str) -> str:
    """See `Evaluation.table`."""

    def cell(found: Any) -> str:
        interval = f" ({points(found.auroc_low)}–{points(found.auroc_high)})" if metric == "auroc" else ""
        return points(getattr(found, metric)) + interval

    return _table(evaluation, metric, cell, lambda score: points(evaluation.aurc_wrong.get(score)))


def seeds_table(summary: SeedSummary, metric: str) -> str:
    """See `SeedSummary.table`."""
    return _table(
        summary,
        metric,
        lambda found: spread_text(found.get(metric)),
        lambda score: spread_text(summary.aurc_wrong.get(score)),
    )


def spread_text(spread: Spread | None) -> str:
    """Mean (smallest–largest), in points."""
    return "" if spread is None else f"{points(spread.mean)} ({points(spread.min)}–{points(spread.max)})"


def points(value: float | None) -> str:
    """A share in points."""
    return "" if value is None else f"{100 * value:.1f}"


def _table(
    results: Evaluation | SeedSummary,
    metric: str,
    cell: Callable[[Any], str],
    id_cell: Callable[[str], str],
) -> str:
    """A row a score and a column a set or mean; one column for the metric that is of the ID images alone."""
    if metric not in DEFINITIONS:
        raise EvaluationError(f"there is no metric {metric!r}; choose from: {', '.join(DEFINITIONS)}")
    groups = shown_groups(results)
    columns = ["id"] if metric == "aurc_wrong" else [*results.sets, *map(mean_name, groups)]
    lines = [["score", *columns], ["---", *["---:"] * len(columns)]]
    for score in results.ranking:
        found = [*results.metrics[score].values(), *(results.means[score][group] for group in groups)]
        cells = [id_cell(score)] if metric == "aurc_wrong" else [cell(part) for part in found]
        lines.append([score + (" (gate)" if score == results.gate_score else ""), *cells])
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(cell: str) -> str:
    """What Markdown shows as this text in a table, whatever a set is called."""
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").splitlines())


def shown_groups(results: Evaluation | SeedSummary) -> tuple[str, ...]:
    """Groups whose mean is not simply the figure of one set."""
    return tuple(group for group, names in results.groups.items() if len(names) > 1)


def mean_name(group: str) -> str:
    """What the column of a group's mean is called."""
    return group if group == "mean" else f"mean {group}"


def _json(results: Evaluation | SeedSummary) -> str:
    return json.dumps(results.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(results: Evaluation | SeedSummary) -> str:
    found = rows(results)
    if not found:
        raise EvaluationError("a .csv has a row a score and OoD set, and there is no OoD set; name the results .json")
    text = io.StringIO()
    table = csv.DictWriter(text, list(found[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(found)
    return text.getvalue()


def _markdown(results: Evaluation | SeedSummary) -> str:
    lines = summary_lines(results)
    if isinstance(results, Evaluation):
        lines += shared_lines(results.shared)
    parts = ["# Evaluation", "\n".join(f"- {line}" for line in lines)]
    seeds = not isinstance(results, Evaluation)
    for metric, definition in DEFINITIONS.items():
        if not results.sets or (metric in ("aurc_wrong", "aurc_both") and not results.aurc_wrong):
            continue
        how = ", mean (smallest–largest)" if seeds else " with 95 % intervals" if metric == "auroc" else ""
        parts += [f"## {metric}", f"In points{how}: {definition}.", results.table(metric)]
    return "\n\n".join(parts) + "\n"


def summary_lines(results: Evaluation | SeedSummary) -> list[str]:
    """Accuracy, the promise and what happened, and what is left out, in words."""
    if not isinstance(results, Evaluation):
        return _seed_lines(results)
    lines = []
    if results.accuracy is not None:
        lines.append(f"accuracy {results.accuracy:.2%} on {results.images['id']} known images")
    else:
        lines.append("accuracy is not known: the known images have no labels")
    if (outcome := results.outcome) is not None:
        if outcome.accuracy_accepted is not None:
            lines.append(f"accuracy among the accepted {outcome.accuracy_accepted:.2%}")
        band = (
            ""
            if outcome.band is None
            else f" (99 % of such test sets: {outcome.band[0]:.2%} to {outcome.band[1]:.2%}, if images are independent)"
        )
        lines.append(f"false alarms: promised {outcome.promised:.2%}, happened {outcome.realised:.2%}{band}")
        lines += [f"rejected of {name}: {share:.2%}" for name, share in outcome.rejected.items()]
    by_reason: dict[str, list[str]] = {}
    for name, reason in results.refused.items():
        by_reason.setdefault(reason.removeprefix(f"{name} "), []).append(name)
    return lines + [f"left out: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _seed_lines(summary: SeedSummary) -> list[str]:
    lines = [f"{len(summary.evaluations)} gates; figures are mean (smallest–largest)"]
    for what, spread in (("accuracy", summary.accuracy), ("false alarms", summary.false_alarms)):
        if spread is not None:
            lines.append(f"{what} {spread_text(spread)} %")
    return lines + [f"rejected of {name}: {spread_text(spread)} %" for name, spread in summary.rejected.items()]


def _set_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    found = []
    for score in evaluation.metrics:
        difference = evaluation.differences.get(score)
        for kind, parts in (("set", evaluation.metrics[score]), ("mean", evaluation.means[score])):
            for name, part in parts.items():
                paired = None
                if difference is not None:
                    paired = (difference.sets if kind == "set" else difference.means)[name]
                found.append(
                    {"score": score, "gate": score == evaluation.gate_score, "set": name, "kind": kind}
                    | {"n_id": evaluation.images["id"], "n_ood": None}
                    | vars(part)
                    | {"aurc_wrong": evaluation.aurc_wrong.get(score)}
                    | {"auroc_minus_gate": None if paired is None else paired.difference}
                    | {"auroc_minus_gate_low": None if paired is None else paired.low}
                    | {"auroc_minus_gate_high": None if paired is None else paired.high}
                    | {"auroc_minus_gate_p": None if paired is None else paired.p_value}
                )
    return found


def _seed_rows(summary: SeedSummary) -> list[dict[str, Any]]:
    return [
        {"score": score, "set": name, "kind": kind, "metric": metric, **vars(spread)}
        for score in summary.metrics
        for kind, parts in (("set", summary.metrics[score]), ("mean", summary.means[score]))
        for name, by_metric in parts.items()
        for metric, spread in by_metric.items()
    ]
