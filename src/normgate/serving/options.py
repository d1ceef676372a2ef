"""How a gate is served."""

from __future__ import annotations

import dataclasses
import math
import os
import string
from typing import TYPE_CHECKING

from normgate.serving.errors import ServingError

if TYPE_CHECKING:
    from pathlib import Path

    from normgate.judging import Runtime

TOKEN_VARIABLE = "NORMGATE_TOKEN"  # noqa: S105 (a name)
SHORTEST_TOKEN = 16
BODIES = 8
"""Largest bodies that are in memory at a time, all requests together."""
MOST_NEIGHBOURS = 8
"""Nearest training images of an image that can be asked for."""
_LETTERS = frozenset(string.ascii_letters + string.digits + "-._~+/=")


@dataclasses.dataclass(frozen=True)
class Options:
    """Limits and additions of a server.

    Attributes:
        runtime: see `normgate.judging.choose_judge`.
        device: where PyTorch computes; by default a GPU if there is one.
        max_bytes: of the body of a request.
        max_pixels: of an image.
        max_images: of a request.
        queue: images that are taken in and not yet answered, all requests together.
        timeout: seconds from the head of a request to its answer.
        token: that requests must bear; None asks for none.
        shift_delta: the chance, at most, of a false shift alarm; None watches for no shift.
        shift_state: file from which the shift alarm goes on, and where it is kept on the way and when the server stops.
        neighbours: the images that the gate was trained on, if visitors may see those that are nearest to theirs.
        image_column: of `neighbours` in Parquet.

    Raises:
        ServingError: a limit makes no sense; the message names it.
    """

    runtime: Runtime = "auto"
    device: str | None = None
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_images: int = 128
    queue: int = 512
    timeout: float = 30.0
    token: str | None = dataclasses.field(default=None, repr=False)
    shift_delta: float | None = None
    shift_state: Path | None = None
    neighbours: str | None = None
    image_column: str = "image"

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_images", "queue"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ServingError(f"{name} is a whole number of at least 1, not {value!r}")
        if self.queue < self.max_images:
            raise ServingError(
                f"a request may hold {self.max_images} images and the queue {self.queue}; "
                "make --queue larger or --max-images smaller"
            )
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ServingError(f"timeout is a number of seconds above 0, not {self.timeout}")
        if self.token is not None:
            _check_token(self.token)
        if self.shift_delta is not None and not 0 < self.shift_delta < 1:
            raise ServingError(f"shift_delta, the chance of a false alarm, is between 0 and 1, not {self.shift_delta}")
        if self.shift_state is not None and self.shift_delta is None:
            raise ServingError("a state of the shift alarm is kept only with an alarm: pass --shift-alarm DELTA")


def read_token(path: Path | None) -> str | None:
    """The token in a file, else in the variable NORMGATE_TOKEN, else None; a command line is seen by everyone.

    Raises:
        ServingError: the file cannot be read, or what should hold a token is empty.
    """
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE)
        if token == "":
            raise ServingError(f"{TOKEN_VARIABLE} is set and empty; unset it to ask for no token, or put a token in it")
        return token
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ServingError(f"the token in {path} cannot be read: {error}") from error
    if not token:
        raise ServingError(f"{path} is empty; put a token in it")
    return token


def _check_token(token: str) -> None:
    if len(token) < SHORTEST_TOKEN or not _LETTERS.issuperset(token):
        raise ServingError(
            f"a token has at least {SHORTEST_TOKEN} letters, digits or -._~+/=; make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
