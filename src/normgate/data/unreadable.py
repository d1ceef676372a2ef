"""Images that no gate can be made with, since they cannot be read or judged: refused, or left out and said."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from normgate.errors import NormgateError, UnreadableWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

LISTED = 10
"""Images that a message names; it counts the others."""


class UnreadableError(NormgateError):
    """There are images that cannot be read or judged."""


def check_readable(name: str, errors: Sequence[tuple[str, str]], *, skip: bool) -> None:
    """Refuse images that cannot be read or judged, or warn that they are left out.

    Args:
        name: of the set.
        errors: `(id, message)` of each such image.
        skip: whether they may be left out.

    Raises:
        UnreadableError: there are some, and they may not.
    """
    if not errors:
        return
    lines = [f"  {image}: {message}" for image, message in errors[:LISTED]]
    if len(errors) > LISTED:
        lines.append(f"  … and {len(errors) - LISTED} more")
    said = f"{len(errors)} {name} image{'s' * (len(errors) != 1)} cannot be used"
    if not skip:
        lines = [
            f"{said}; mend or remove what is listed, or go on without (--skip-unreadable, skip_unreadable=True):",
            *lines,
        ]
        raise UnreadableError("\n".join(lines))
    warnings.warn("\n".join([f"{said}, and the gate is made without:", *lines]), UnreadableWarning, stacklevel=3)
