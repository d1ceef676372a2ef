"""Errors that a user can mend: each message names what is wrong and what to do about it."""

from __future__ import annotations


class NormgateError(Exception):
    """Input or usage that stops the job; the message names the fix (exit code 2 on the command line)."""


class ProbeWarning(UserWarning):
    """Probes say that the score of a gate would miss outliers of some kind."""
