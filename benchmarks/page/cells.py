"""How figures stand in a table of the page."""

from __future__ import annotations

import collections
import math
from typing import TYPE_CHECKING

from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Iterable


def table(head: list[str], rows: list[list[str]]) -> str:
    """As Markdown; numbers stand on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def known(head: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns in which nothing is known."""
    columns = [number for number in range(len(head)) if any(row[number] != "–" for row in rows)]
    head, *rows = ([row[number] for number in columns] for row in (head, *rows))
    return head, rows


def mean(values: list[float]) -> float:
    """The plain mean."""
    return sum(values) / len(values)


def points(value: float) -> str:
    """A share in points."""
    return f"{100 * value:.1f}"


def spread(values: list[float]) -> str:
    """The mean, and the smallest and the largest."""
    if not values:
        return "–"
    if len(values) == 1:
        return points(values[0])
    return f"{points(mean(values))} ({points(min(values))}–{points(max(values))})"


def plain(values: list[float | None]) -> str:
    """The mean of what is known, as a number."""
    known = [value for value in values if value is not None]
    return f"{mean(known):.3g}" if known else "–"


def counted(values: Iterable[str]) -> str:
    """Names, and how often each is there, the most frequent first."""
    found = collections.Counter(values).most_common()
    return ", ".join(name if len(found) == 1 or count == 1 else f"{name} ({count}×)" for name, count in found)


def interval(values: list[float]) -> str:
    """The mean of differences, with Student's 95 % interval where there are two or more."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{100 * values[0]:+.1f}"
    return with_reach(mean(values), reach(values))


def with_reach(middle: float, half: float) -> str:
    """A difference, and half the width of its interval."""
    return f"{100 * middle:+.1f} ({100 * (middle - half):+.1f} to {100 * (middle + half):+.1f})"


def reach(values: list[float]) -> float:
    """Half the width of Student's 95 % interval; that of a single value has no end."""
    if len(values) < 2:
        return math.inf
    middle = mean(values)
    error = math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1) / len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * error
