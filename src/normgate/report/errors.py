"""What can be wrong with a report."""

from __future__ import annotations

import importlib.util

from normgate.errors import NormgateError

NEEDED = ("altair", "jinja2", "vl_convert")


class ReportError(NormgateError):
    """A report cannot be made, or not as asked."""


def installed() -> bool:
    """Whether the libraries that draw and fill the page are there."""
    return not _missing()


def check_installed() -> None:
    """Say what to install, before anything that takes long.

    Raises:
        ReportError: a library that draws or fills the page is missing.
    """
    if missing := _missing():
        raise ReportError(f"reports and figures need {', '.join(missing)}: pip install 'normgate[report]'")


def _missing() -> list[str]:
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]
