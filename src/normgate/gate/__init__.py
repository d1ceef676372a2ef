"""The gate: calibrate, call, save, load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.gate.choosing import AUTO
    from normgate.gate.errors import GateError
    from normgate.gate.folder import GateFolderError
    from normgate.gate.gate import Gate
    from normgate.verdicts import Verdict, Verdicts

__all__ = ["AUTO", "Gate", "GateError", "GateFolderError", "Verdict", "Verdicts"]

_MODULES = {
    "AUTO": "choosing",
    "Gate": "gate",
    "GateError": "errors",
    "GateFolderError": "folder",
    "Verdict": ".verdicts",
    "Verdicts": ".verdicts",
}

__getattr__, __dir__ = late_names(__name__, _MODULES)
