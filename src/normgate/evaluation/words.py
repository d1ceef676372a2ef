"""Results in words and short numbers, the same on screens, on pages and in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normgate.evaluation.results import Evaluation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normgate.evaluation.comparison import Comparison
    from normgate.evaluation.seeds import SeedSummary, Spread
    from normgate.metrics import AurocDifference


def spread_text(spread: Spread | None) -> str:
    """Mean (smallest–largest), in points."""
    return "" if spread is None else f"{points(spread.mean)} ({points(spread.min)}–{points(spread.max)})"


def auroc_text(found: Any) -> str:
    """The AUROC of a set or a mean with its interval, in points."""
    return f"{points(found.auroc)} ({points(found.auroc_low)}–{points(found.auroc_high)})"


def difference_text(part: AurocDifference, *, interval: bool) -> str:
    """A difference in points, with a star where its interval leaves out 0."""
    star = "*" if part.low > 0 or part.high < 0 else " "
    shown = f" ({100 * part.low:+.1f} to {100 * part.high:+.1f})" if interval else ""
    return f"{100 * part.difference:+.1f}{shown}{star}".replace("-", "−")


def points(value: float | None) -> str:
    """A share in points."""
    return "" if value is None else f"{100 * value:.1f}"


def shown_groups(results: Evaluation | SeedSummary) -> tuple[str, ...]:
    """Groups whose mean is not simply the figure of one set."""
    return tuple(group for group, names in results.groups.items() if len(names) > 1)


def mean_name(group: str) -> str:
    """What the column of a group's mean is called."""
    return group if group == "mean" else f"mean {group}"


def columns(results: Evaluation | SeedSummary) -> list[str]:
    """Names of the sets, and of those means that are shown."""
    return [*results.sets, *map(mean_name, shown_groups(results))]


def row(results: Evaluation | SeedSummary, score: str) -> list[Any]:
    """The figures of a score in the order of `columns`."""
    return [*results.metrics[score].values(), *(results.means[score][group] for group in shown_groups(results))]


def comparison_row(results: Evaluation | SeedSummary, found: Comparison) -> list[AurocDifference]:
    """The differences of a comparison in the order of `columns`."""
    return [*found.sets.values(), *(found.means[group] for group in shown_groups(results))]


def summary_lines(results: Evaluation | SeedSummary) -> list[str]:
    """Accuracy, the promise and what happened, and what is left out, in words."""
    if not isinstance(results, Evaluation):
        return _seed_lines(results)
    lines = []
    if results.accuracy is not None:
        lines.append(f"accuracy {results.accuracy:.2%} on {results.images['id']} known images")
    elif results.origins:
        lines.append("accuracy is not known: the tables do not say, or not alike, which predictions are wrong")
    elif not results.settings:
        lines.append("accuracy is not known: wrong= does not say which predictions are wrong")
    else:
        lines.append("accuracy is not known: the known images have no labels")
    if results.outcome is None:
        unknown = "".join(f", {results.images[name]} of {name}" for name in results.sets)
        lines.append(f"images: {results.images['id']} known{unknown}")
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
    return lines + _refused_lines(results.refused)


def left_out_line(errors: Sequence[tuple[str, str, str]]) -> str:
    """How many images there are no figures of."""
    return f"left out: {len(errors)} image{'s' * (len(errors) != 1)}"


def _refused_lines(refused: Mapping[str, str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason.removeprefix(f"{name} "), []).append(name)
    return [f"left out: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _seed_lines(summary: SeedSummary) -> list[str]:
    what = "evaluations" if all(evaluation.gate is None for evaluation in summary.evaluations) else "gates"
    lines = [f"{len(summary.evaluations)} {what}; figures are mean (smallest–largest)"]
    for what, spread in (("accuracy", summary.accuracy), ("false alarms", summary.false_alarms)):
        if spread is not None:
            lines.append(f"{what} {spread_text(spread)} %")
    lines += [f"rejected of {name}: {spread_text(spread)} %" for name, spread in summary.rejected.items()]
    if summary.left_out:
        lines.append(f"left out, since not every evaluation has them: {', '.join(summary.left_out)}")
    refused = summary.evaluations[0].refused
    return lines + _refused_lines({name: why for name, why in refused.items() if name not in summary.left_out})
