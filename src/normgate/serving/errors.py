"""What can keep a server from starting, and what keeps it from serving one request."""

from __future__ import annotations

from normgate.errors import NormgateError
from normgate.lazily import missing

NEEDED = {"starlette": "starlette", "uvicorn": "uvicorn", "httptools": "httptools"}
NEEDED |= {"prometheus_client": "prometheus-client", "python_multipart": "python-multipart"}


class ServingError(NormgateError):
    """A server cannot start, or cannot take over a new gate."""


class Refused(Exception):  # noqa: N818 (an answer, not a defect)
    """A request is not served.

    Attributes:
        status: of HTTP.
        message: what is wrong, and what to do about it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check_installed() -> None:
    """Refuse to go on without the libraries of the server.

    Raises:
        ServingError: some are missing.
    """
    if absent := missing(*NEEDED):
        packages = ", ".join(NEEDED[name] for name in absent)
        raise ServingError(f"the server needs {packages}: pip install 'normgate[serve]'")
