"""Packages that import what they offer when it is asked for, and libraries that may not be there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def late_names(
    package: str, modules: Mapping[str, str], *, check: Callable[[str], None] = lambda _: None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        modules: the module of each name that it offers, relative to the package; another dot leads a level up.
        check: told the name before its module is imported; raises where a library is missing.
    """

    def get(name: str) -> Any:
        if name in modules:
            check(name)
            return getattr(importlib.import_module(f".{modules[name]}", package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names


def missing(*libraries: str) -> list[str]:
    """Those of some libraries that are not installed, without importing any."""
    return [name for name in libraries if importlib.util.find_spec(name) is None]
