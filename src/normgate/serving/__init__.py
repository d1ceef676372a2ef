"""A gate as a server: an ASGI application, run by uvicorn or on Ray Serve."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normgate.serving.application import create_application
    from normgate.serving.errors import ServingError
    from normgate.serving.on_ray import ray_application
    from normgate.serving.options import Options, read_token
    from normgate.serving.running import run

__all__ = ["Options", "ServingError", "create_application", "ray_application", "read_token", "run"]

_MODULES = {
    "Options": "options",
    "ServingError": "errors",
    "create_application": "application",
    "ray_application": "on_ray",
    "read_token": "options",
    "run": "running",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        if name != "ServingError":
            importlib.import_module("normgate.serving.errors").check_installed()
        return getattr(importlib.import_module(f"normgate.serving.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'normgate.serving' has no attribute {name!r}")
