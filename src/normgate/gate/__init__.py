"""The gate: calibrate, call, save, load."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normgate.gate.choosing import AUTO
    from normgate.gate.errors import GateError
    from normgate.gate.folder import GateFolderError
    from normgate.gate.gate import Gate
    from normgate.verdicts import Verdict, Verdicts

__all__ = ["AUTO", "Gate", "GateError", "GateFolderError", "Verdict", "Verdicts"]

_MODULES = {
    "AUTO": "gate.choosing",
    "Gate": "gate.gate",
    "GateError": "gate.errors",
    "GateFolderError": "gate.folder",
    "Verdict": "verdicts",
    "Verdicts": "verdicts",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"normgate.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'normgate.gate' has no attribute {name!r}")
