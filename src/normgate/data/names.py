"""Names of files as text that can be written anywhere."""

from __future__ import annotations

import os


def utf8_name(path: str | os.PathLike[str]) -> str:
    r"""A path in valid UTF-8: bytes that are not become `\xff` and the like."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """One line that a terminal or a chart shows and does not obey: no escape codes or line breaks."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
