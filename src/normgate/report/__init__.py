"""Reports that people open: one HTML file of an evaluation or of a screening run, and the same charts for papers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.report.checks import FORMATS, check_figures, check_gate_figure, check_report
    from normgate.report.errors import ReportError
    from normgate.report.figures import gate_figure, save_figures
    from normgate.report.gallery import check_neighbours
    from normgate.report.writing import evaluation_report, screening_report

__all__ = [
    "FORMATS",
    "ReportError",
    "check_figures",
    "check_gate_figure",
    "check_neighbours",
    "check_report",
    "evaluation_report",
    "gate_figure",
    "save_figures",
    "screening_report",
]

_MODULES = {
    "FORMATS": "checks",
    "ReportError": "errors",
    "check_figures": "checks",
    "check_gate_figure": "checks",
    "check_neighbours": "gallery",
    "check_report": "checks",
    "evaluation_report": "writing",
    "gate_figure": "figures",
    "save_figures": "figures",
    "screening_report": "writing",
}


def _check(name: str) -> None:
    if _MODULES[name] == "figures":
        importlib.import_module("normgate.report.checks").check_installed()


__getattr__, __dir__ = late_names(__name__, _MODULES, check=_check)
