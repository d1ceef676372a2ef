"""What can be wrong with a report."""

from __future__ import annotations

from normgate.errors import NormgateError


class ReportError(NormgateError):
    """A report or figure cannot be made, or not as asked."""
