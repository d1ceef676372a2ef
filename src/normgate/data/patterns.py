"""Patterns of names: `photos/2024-*/**/*.jpg`, `shards/train-{000..012}.tar`."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import re
from typing import TYPE_CHECKING

from normgate.data.sources import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_QUERY = re.compile(r"\?(?=[^/?&=]+=)")
_MOST_ALTERNATIVES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What may follow below a folder.

    `*`, `?` and `[…]` stand for what they do in a shell, within one name; `**` for any number of folders, and at the
    end for anything below. Case counts.

    Attributes:
        rests: alternatives, each a tuple of what is left to match: names of folders, then the name of a file.
    """

    rests: frozenset[tuple[str, ...]]

    def inside(self, folder: str) -> Pattern | None:
        """The pattern of what may follow in a folder of this name; None where nothing may."""
        rests = frozenset(left for rest in self.rests for left in _after(rest, folder) if left)
        return Pattern(rests) if rests else None

    def matches(self, file: str) -> bool:
        """Whether a file of this name, right here, is meant."""
        return any(_ends(rest, file) for rest in self.rests)


def has_wildcard(text: str, wildcards: str = "*?[") -> bool:
    """Whether `*`, `?` or `[` is in a text."""
    return any(letter in text for letter in wildcards)


def is_pattern(text: str, wildcards: str = "*?[") -> bool:
    """Whether it holds wildcards, or braces with alternatives."""
    return has_wildcard(text, wildcards) or any(_choices(found[1]) for found in _BRACES.finditer(text))


def split(text: str, wildcards: str = "*?[") -> tuple[str, list[str]]:
    """The longest folder without a wildcard, and what may follow below it: the braces' alternatives, in order.

    Raises:
        SourceError: there are more alternatives than can be meant.
    """
    found = [text.find(letter) for letter in wildcards if letter in text]
    found += [match.start() for match in _BRACES.finditer(text) if _choices(match[1])]
    end = text.rfind("/", 0, min(found)) + 1
    alternatives = list(itertools.islice(_expanded(text[end:]), _MOST_ALTERNATIVES + 1))
    if len(alternatives) > _MOST_ALTERNATIVES:
        raise SourceError(f"{text} stands for more than {_MOST_ALTERNATIVES:,} names; use * instead")
    return text[:end], list(dict.fromkeys(alternatives))


def compiled(alternatives: list[str]) -> Pattern:
    """A pattern of alternatives."""
    return Pattern(frozenset(tuple(part for part in text.split("/") if part) for text in alternatives))


def split_query(text: str) -> tuple[str, str]:
    """`file.parquet?split=train` in two; other question marks belong to the name."""
    found = _QUERY.search(text)
    return (text[: found.start()], text[found.end() :]) if found else (text, "")


def _after(rest: tuple[str, ...], folder: str) -> Iterator[tuple[str, ...]]:
    if rest[0] == "**":
        yield rest
        if len(rest) > 1:
            yield from _after(rest[1:], folder)
    elif fnmatch.fnmatchcase(folder, rest[0]):
        yield rest[1:]


def _ends(rest: tuple[str, ...], file: str) -> bool:
    if rest[0] == "**":
        return len(rest) == 1 or _ends(rest[1:], file)
    return len(rest) == 1 and fnmatch.fnmatchcase(file, rest[0])


def _expanded(text: str) -> Iterator[str]:
    """The innermost braces with alternatives first, the leftmost varying slowest."""
    found = next((match for match in _BRACES.finditer(text) if _choices(match[1])), None)
    if found is None:
        yield text
        return
    for choice in _choices(found[1]):
        yield from _expanded(text[: found.start()] + choice + text[found.end() :])


def _choices(inside: str) -> Iterator[str] | list[str]:
    if limits := _RANGE.fullmatch(inside):
        first, last = limits.groups()
        padded = any(len(limit) > 1 and limit.startswith("0") for limit in (first, last))
        width = max(len(first), len(last)) if padded else 0
        step = 1 if int(first) <= int(last) else -1
        return (str(number).zfill(width) for number in range(int(first), int(last) + step, step))
    return inside.split(",") if "," in inside else []
