"""A gate as a server: an ASGI application, run by uvicorn or on Ray Serve."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from normgate.lazily import late_names

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


def _check(name: str) -> None:
    if name != "ServingError":
        importlib.import_module("normgate.serving.errors").check_installed()


__getattr__, __dir__ = late_names(__name__, _MODULES, check=_check)
