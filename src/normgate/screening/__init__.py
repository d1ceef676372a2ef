"""Screening: a gate and a stream of images in, a table of verdicts out, in constant memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.screening.running import Engine, check_engine, screen
    from normgate.screening.summary import ScreeningError, Shift, Summary
    from normgate.screening.tables import SCHEMA, rejected_ids, verdict_table

__all__ = [
    "SCHEMA",
    "Engine",
    "ScreeningError",
    "Shift",
    "Summary",
    "check_engine",
    "rejected_ids",
    "screen",
    "verdict_table",
]

_MODULES = {
    "SCHEMA": "tables",
    "Engine": "running",
    "ScreeningError": "summary",
    "Shift": "summary",
    "Summary": "summary",
    "check_engine": "running",
    "rejected_ids": "tables",
    "screen": "running",
    "verdict_table": "tables",
}

__getattr__, __dir__ = late_names(__name__, _MODULES)
