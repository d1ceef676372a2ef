"""Probes: synthetic outliers made from ID images alone, and what they say about a score."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"normgate.probes.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'normgate.probes' has no attribute {name!r}")
