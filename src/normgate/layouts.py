"""Figures in columns, as many as a terminal has room for."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from normgate.data.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 3
"""Between the columns of a table."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of figures, a cell a score."""

    name: str
    cells: list[str]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Columns that may be shown, whose names are broken into lines of at least `least` characters."""

    columns: list[Column]
    least: int

    @property
    def widths(self) -> list[int]:
        """Of the columns."""
        return [max([*map(len, part.cells), min(cell_len(printable(part.name)), self.least)]) for part in self.columns]


def fitting(layouts: Sequence[Layout], labels: Sequence[str], room: int) -> Layout:
    """The first that fits beside the labels into so many characters, the last if none does."""
    left = room - _label_width(labels, room)
    return next((layout for layout in layouts if sum(layout.widths) + GAP * len(layout.widths) <= left), layouts[-1])


def figures(layout: Layout, labels: Sequence[str], bold: Sequence[bool], room: int) -> Table:
    """A table of a row a score, of which some are bold."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    width = _label_width(labels, room)
    table.add_column("score", min_width=width, max_width=width, overflow="fold")
    for part, size in zip(layout.columns, layout.widths, strict=True):
        table.add_column(wrapped(part.name, size), justify="right")
    for number, label in enumerate(labels):
        cells = [part.cells[number] for part in layout.columns]
        table.add_row(Text(printable(label)), *cells, style="bold" if bold[number] else None)
    return table


def _label_width(labels: Sequence[str], room: int) -> int:
    return min(max([len("score"), *(cell_len(printable(label)) for label in labels)]), room // 2)


def wrapped(name: str, width: int) -> Text:
    """The name of a set as it is, and not as markup; broken before its number, if need be: cifar, 100."""
    text = printable(name)
    if cell_len(text) > width:
        text = re.sub(r"(?<=[^\W\d])(?=\d+\b)", " ", text)
    wide = cell_len(text) > len(text)  # as Chinese letters are, of two cells each
    return Text("\n".join(textwrap.wrap(text, max(1, width // 2) if wide else width)))
