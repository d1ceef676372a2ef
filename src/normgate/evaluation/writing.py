"""Results as files: JSON with everything, tidy CSV, and tables in Markdown and LaTeX."""

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
from normgate.evaluation.scoring import IMAGE_COLUMNS
from normgate.evaluation.words import auroc_text, columns, points, row, spread_text, summary_lines
from normgate.files import whole_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from normgate.evaluation.seeds import SeedSummary, Spread


def save(
    results: Evaluation | SeedSummary,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write results in the format that the suffix names; see `Evaluation.save`. JSON can have more entries."""
    target = Path(path)
    write = writer(target)
    written = _json(results, more) if target.suffix.lower() == ".json" else write(results)
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
    by_column: dict[str, list[Any]] = {name: [] for name in IMAGE_COLUMNS}
    for name, ids in evaluation.ids.items():
        wrong = evaluation.wrong if name == "id" else None
        by_column["set"] += [name.encode("utf-8", "backslashreplace").decode()] * len(ids)  # a name may not be UTF-8
        by_column["id"] += ids
        by_column["wrong"] += [None] * len(ids) if wrong is None else wrong.tolist()
    schema = pa.schema({"set": pa.string(), "id": pa.string(), "wrong": pa.bool_()})
    table = pa.table(by_column, schema=schema)
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
    writers = {".json": _json, ".csv": _csv, ".md": _markdown, ".tex": _latex}
    if path.suffix.lower() not in writers:
        raise EvaluationError(f"{path} does not say in what format; name the results .json, .csv, .md or .tex")
    return writers[path.suffix.lower()]


def rows(results: Evaluation | SeedSummary) -> list[dict[str, Any]]:
    """Tidy rows: one a score and set (or mean), for seeds one a score, set and metric."""
    return _set_rows(results) if isinstance(results, Evaluation) else _seed_rows(results)


def markdown_table(results: Evaluation | SeedSummary, metric: str) -> str:
    """See `Evaluation.table`."""
    head, *body = _cells(results, metric)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _latex_table(results: Evaluation | SeedSummary, metric: str) -> str:
    head, *body = ([cell.translate(_LATEX) for cell in line] for line in _cells(results, metric))
    # After \\ and \midrule, a bracket or a star would be taken for an argument of theirs.
    lines = ["{}" + " & ".join(" ".join(cell.splitlines()) for cell in line) + r" \\" for line in (head, *body)]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"])


def _cells(results: Evaluation | SeedSummary, metric: str) -> list[list[str]]:
    """A head, and a row a score with a column a set or mean; one column for the metric of the ID images alone."""
    if metric not in DEFINITIONS:
        raise EvaluationError(f"there is no metric {metric!r}; choose from: {', '.join(DEFINITIONS)}")
    names = ["id"] if metric == "aurc_wrong" else columns(results)
    lines = [["score", *names]]
    for score in results.ranking:
        if metric == "aurc_wrong":
            figures = [_text(results.aurc_wrong.get(score))]
        elif isinstance(results, Evaluation):
            found = row(results, score)
            figures = [auroc_text(part) if metric == "auroc" else points(getattr(part, metric)) for part in found]
        else:
            figures = [spread_text(part.get(metric)) for part in row(results, score)]
        lines.append([score + (" (gate)" if score == results.gate_score else ""), *figures])
    return lines


def _text(value: float | Spread | None) -> str:
    return points(value) if value is None or isinstance(value, float) else spread_text(value)


def _escaped(cell: str) -> str:
    """What Markdown shows as this text in a table, whatever a set is called."""
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").splitlines())


_LATEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "–": "--",
        "−": "$-$",
    }
)


def _json(results: Evaluation | SeedSummary, more: Mapping[str, Any] | None = None) -> str:
    return json.dumps({**results.to_dict(), **(more or {})}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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
    for metric in _shown(results):
        parts += [f"## {metric}", f"In points{_how(results, metric)}: {DEFINITIONS[metric]}.", results.table(metric)]
    return "\n\n".join(parts) + "\n"


def _latex(results: Evaluation | SeedSummary) -> str:
    if not results.sets:
        raise EvaluationError("a .tex has a table a metric, and there is no OoD set; name the results .json")
    parts = [r"% \usepackage{booktabs}"]
    for metric in _shown(results):
        said = f"{metric} in points{_how(results, metric)}: {DEFINITIONS[metric]}.".translate(_LATEX)
        caption = rf"\caption{{{said}}}"
        parts += ["\n".join([r"\begin{table}", r"\centering", caption, _latex_table(results, metric), r"\end{table}"])]
    return "\n\n".join(parts) + "\n"


def _shown(results: Evaluation | SeedSummary) -> list[str]:
    """Metrics that there are tables of."""
    labelled = ("aurc_wrong", "aurc_both")
    return [metric for metric in DEFINITIONS if results.sets and (metric not in labelled or results.aurc_wrong)]


def _how(results: Evaluation | SeedSummary, metric: str) -> str:
    if not isinstance(results, Evaluation):
        return ", mean (smallest–largest)"
    return " with 95 % intervals" if metric == "auroc" else ""


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
    wrong = {score: {"id": {"aurc_wrong": spread}} for score, spread in summary.aurc_wrong.items()}
    return [
        {"score": score, "set": name, "kind": kind, "metric": metric, **vars(spread)}
        for score in summary.metrics
        for kind, parts in (
            ("set", summary.metrics[score] | wrong.get(score, {})),
            ("mean", summary.means[score]),
        )
        for name, by_metric in parts.items()
        for metric, spread in by_metric.items()
    ]
