"""What can go wrong with a gate."""

from __future__ import annotations

from normgate.errors import NormgateError


class GateError(NormgateError):
    """A gate cannot be made, or cannot do what is asked of it."""
