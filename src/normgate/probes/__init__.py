"""Probes: synthetic outliers made from ID images alone, and what they say about a score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.probes.images import PROBES, make
    from normgate.probes.report import ProbeError, ProbeReport, probe, seen

__all__ = ["PROBES", "ProbeError", "ProbeReport", "make", "probe", "seen"]

_MODULES = {
    "PROBES": "images",
    "make": "images",
    "ProbeError": "report",
    "ProbeReport": "report",
    "probe": "report",
    "seen": "report",
}

__getattr__, __dir__ = late_names(__name__, _MODULES)
