"""Errors that a user can mend: each message names what is wrong and what to do about it."""

from __future__ import annotations


class NormgateError(Exception):
    """Input or usage that stops the job; the message names the fix (exit code 2 on the command line)."""


class NormgateWarning(UserWarning):
    """What does not stop the job, and that a user must know (a line on standard error of the command line)."""


class ProbeWarning(NormgateWarning):
    """Probes say that the score of a gate would miss outliers of some kind, or there are none to say it."""


class UnreadableWarning(NormgateWarning):
    """Images that cannot be read or judged were left out (exit code 1 on the command line)."""


class ToldError(NormgateError):
    """What another process of the same run has told already, so that this one is silent."""

    def __init__(self) -> None:
        super().__init__("another process of this run failed, and has said why")
