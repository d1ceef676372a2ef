"""What reports and figures need, said before anything that takes long; no library that draws is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from normgate.files import check_output, names_in
from normgate.lazily import missing
from normgate.report.errors import ReportError

if TYPE_CHECKING:
    import os

NEEDED = ("altair", "jinja2", "vl_convert")
FORMATS = (".svg", ".pdf")
SQUARE = ("roc", "risk-coverage")
NAMES = ("distributions", *SQUARE, "scores", "probes", "norms-by-class", "norms-by-set", "collapse")
"""Charts of an evaluation."""
OF_GATES = {
    "collapse": "the geometry of its epochs is not known; train it with --log-geometry",
    "probes": "it has not been probed; calibrate it with tuning images",
    "norms-by-class": "it keeps no training features (it is lean)",
}
"""Charts of gates alone, and what is wrong where one cannot be drawn."""


def installed() -> bool:
    """Whether the libraries that draw and fill the page are there."""
    return not missing(*NEEDED)


def check_installed() -> None:
    """Say what to install.

    Raises:
        ReportError: a library that draws or fills the page is missing.
    """
    if absent := missing(*NEEDED):
        raise ReportError(f"reports and figures need {', '.join(absent)}: pip install 'normgate[report]'")


def check_report(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Say what would keep a report from being written.

    Raises:
        ReportError: a library is missing, or the file has another suffix than .html.
        OutputError: the file exists and `overwrite` is not set, or cannot be written.
    """
    check_installed()
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ReportError(f"a report is a page: name it {Path(path).stem or 'report'}.html, not {Path(path).name}")
    check_output(Path(path), overwrite=overwrite)


def check_figures(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Say what would keep figures of an evaluation from being written.

    Raises:
        ReportError: a library is missing.
        OutputError: the folder exists and `overwrite` is not set, holds something else, or cannot be written.
    """
    check_installed()
    check_output(Path(folder), overwrite=overwrite, foreign=foreign)


def check_gate_figure(chart: str, gates: int, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Say what would keep a figure of gates from being written.

    Raises:
        ReportError: a library is missing, there is no such chart or format, or it is of one gate.
        OutputError: the file exists and `overwrite` is not set, or cannot be written.
    """
    check_installed()
    if chart not in OF_GATES:
        raise ReportError(f"{chart!r} is no chart of a gate alone; choose from: {', '.join(OF_GATES)}")
    if Path(path).suffix.lower() not in FORMATS:
        raise ReportError(f"a figure is written as {' or '.join(FORMATS)}; name it {Path(path).stem}.svg")
    if gates > 1 and chart != "collapse":
        raise ReportError(f"{chart} is of one gate, and there are {gates}; draw them one by one")
    check_output(Path(path), overwrite=overwrite)


def foreign(folder: Path) -> str | None:
    """The name of something in a folder that is no figure of ours; None where there is nothing else."""
    own = {f"{name}{suffix}" for name in NAMES for suffix in FORMATS}
    return next((name for name in names_in(folder) if name not in own), None)
