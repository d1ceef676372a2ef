"""Results as files: JSON with everything, tidy CSV, and tables in Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normgate.evaluation.disjoint import shared_lines
from normgate.evaluation.figures import DEFINITIONS
from normgate.evaluation.results import Evaluation, EvaluationError
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
from normgate.files import whole_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from normgate.evaluation.comparison import Against
    from normgate.evaluation.seeds import SeedSummary, Spread


def save(
    results: Evaluation | SeedSummary,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    against: Against | None = None,
) -> None:
    """Write results in the format that the suffix names; see `Evaluation.save`. A .csv has no room for `against`."""
    target = Path(path)
    write = writer(target)
    if not results.sets:
        check_without_ood(target)
    written = write(results, against)
    with whole_file(target, overwrite=overwrite) as partial:
        # A name from the command line may not be UTF-8.
        partial.write_bytes(written.encode("utf-8", errors="backslashreplace"))


def writer(path: Path) -> Callable[[Evaluation | SeedSummary, Against | None], str]:
    """What makes the text of a file, by its suffix.

    Raises:
        EvaluationError: no format has that suffix.
    """
    writers = {".json": _json, ".csv": _csv, ".md": _markdown, ".tex": _latex}
    if path.suffix.lower() not in writers:
        raise EvaluationError(f"{path} does not say in what format; name the results .json, .csv, .md or .tex")
    return writers[path.suffix.lower()]


def check_without_ood(path: Path) -> None:
    """Refuse a format that has nothing to say where there are no OoD sets.

    Raises:
        EvaluationError: as said.
    """
    what = {".csv": "a row a score and OoD set", ".tex": "a table a metric"}.get(path.suffix.lower())
    if what is not None:
        raise EvaluationError(f"a {path.suffix} has {what}, and there is no OoD set; name the results .json")


def rows(results: Evaluation | SeedSummary) -> list[dict[str, Any]]:
    """Tidy rows: one a score and set (or mean), for seeds one a score, set and metric."""
    return _set_rows(results) if isinstance(results, Evaluation) else _seed_rows(results)


def markdown_table(results: Evaluation | SeedSummary, metric: str) -> str:
    """See `Evaluation.table`."""
    return _markdown_table(_cells(results, metric))


def _markdown_table(cells: list[list[str]]) -> str:
    head, *body = cells
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _latex_table(cells: list[list[str]]) -> str:
    head, *body = ([cell.translate(_LATEX) for cell in line] for line in cells)
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


def _against_cells(results: Evaluation | SeedSummary, against: Against) -> list[list[str]]:
    """A head, and a row a comparison with a column a set or mean."""
    lines = [["score", *columns(results)]]
    for found in against.comparisons:
        label = against.label(found) + (" (gate)" if against.is_own(found) else "")
        lines.append(
            [label, *(difference_text(part, interval=True).rstrip() for part in comparison_row(results, found))]
        )
    return lines


def _against_said(results: Evaluation | SeedSummary, against: Against) -> str:
    over = "" if isinstance(results, Evaluation) else " over seeds"
    return f"AUROC in points, less that of {against.less}, with 95 % intervals{over}; * where they leave out 0"


def _text(value: float | Spread | None) -> str:
    return points(value) if value is None or isinstance(value, float) else spread_text(value)


def _escaped(cell: str) -> str:
    """What Markdown shows as this text in a table, whatever a set is called."""
    entities = cell.replace("&", "&amp;").replace("<", "&lt;")
    # An underscore within a word, as in norm_gain, is one anyway.
    return " ".join(re.sub(r"[\\|*`~\[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", entities).splitlines())


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


def as_dict(results: Evaluation | SeedSummary, against: Against | None) -> dict[str, Any]:
    """Plain JSON values of all that was found."""
    return {**results.to_dict(), **({} if against is None else {"against": against.to_dict()})}


def _json(results: Evaluation | SeedSummary, against: Against | None) -> str:
    return json.dumps(as_dict(results, against), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(results: Evaluation | SeedSummary, _: Against | None) -> str:
    found = rows(results)
    text = io.StringIO()
    table = csv.DictWriter(text, list(found[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(found)
    return text.getvalue()


def _markdown(results: Evaluation | SeedSummary, against: Against | None) -> str:
    lines = summary_lines(results)
    if isinstance(results, Evaluation):
        lines += shared_lines(results.shared)
    evaluations = [results] if isinstance(results, Evaluation) else results.evaluations
    if errors := [error for evaluation in evaluations for error in evaluation.errors]:
        name, image, message = errors[0]
        lines.append(f"{left_out_line(errors)}, such as {image} of {name}: {message}")
    parts = ["# Evaluation", "\n".join(f"- {_escaped(line)}" for line in lines)]
    for metric in _shown(results):
        parts += [f"## {metric}", f"In points{_how(results, metric)}: {DEFINITIONS[metric]}.", results.table(metric)]
    if against is not None:
        parts += [
            "## Comparison",
            f"{_escaped(_against_said(results, against))}.",
            _markdown_table(_against_cells(results, against)),
        ]
    return "\n\n".join(parts) + "\n"


def _latex(results: Evaluation | SeedSummary, against: Against | None) -> str:
    parts = [r"% \usepackage{booktabs}"]
    tables = [
        (f"{metric} in points{_how(results, metric)}: {DEFINITIONS[metric]}.", _cells(results, metric))
        for metric in _shown(results)
    ]
    if against is not None:
        tables.append((f"{_against_said(results, against)}.", _against_cells(results, against)))
    for said, cells in tables:
        caption = rf"\caption{{{' '.join(said.translate(_LATEX).splitlines())}}}"
        parts += ["\n".join([r"\begin{table}", r"\centering", caption, _latex_table(cells), r"\end{table}"])]
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
