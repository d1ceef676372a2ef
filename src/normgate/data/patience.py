"""What goes wrong with files elsewhere: tried again where that may help, and told without secrets."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, TypeVar

from normgate.data.names import printable
from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

PAUSES = (0.25, 1.0)
"""Seconds before the second and the third try."""

_LASTING = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ImportError, NotImplementedError, TypeError, ValueError, NormgateError),
)
_PASSING_STATUS = frozenset({408, 425, 429})
_LONGEST = 300
_USER = re.compile(r"(?<=//)[^/\s]*@")
_QUERY = re.compile(r"(https?://[^\s'\"?#]*)[?#][^\s'\"]+|\?[^\s'\"]*=[^\s'\"]*")


def patiently(action: Callable[[], Result]) -> Result:
    """Do something that needs a network; up to twice more where the failure may pass."""
    for pause in PAUSES:
        try:
            return action()
        except Exception as error:
            if _is_lasting(error):
                raise
        time.sleep(pause)
    return action()


def reason(error: BaseException) -> str:
    """Why something failed, in one line that anyone may see: no passwords and signatures out of addresses."""
    error = _cause(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    if isinstance(error, PermissionError):
        return "access is denied"
    if (status := _status(error)) is not None:
        return f"the server answered {status}"
    return printable(shown(str(error).strip() or type(error).__name__))[:_LONGEST]


def shown(text: str) -> str:
    """Text without the users, passwords and queries of the addresses in it."""
    return _QUERY.sub(r"\1?…", _USER.sub("", text))


def _cause(error: BaseException) -> BaseException:
    """What an error stands for: fsspec says of every failed request that there is no such file."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    if cause is not None and (isinstance(cause, OSError) or _status(cause) not in (None, 404)):
        return cause
    return error


def _is_lasting(error: BaseException) -> bool:
    error = _cause(error)
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _PASSING_STATUS
    return isinstance(error, _LASTING)


def _status(error: BaseException) -> int | None:
    """What a web server answered: aiohttp has it in one place, the clients of Hugging Face in another."""
    status = getattr(error, "status", None)
    if not isinstance(status, int):
        status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
