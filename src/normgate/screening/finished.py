"""Which images an earlier run has judged already, whatever has come to the source or gone from it since."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from normgate.data.sources import Record

_BYTES = 16


class Finished:
    """A multiset of ids in 24 bytes each: an id that was judged twice was listed twice.

    Attributes:
        unseen: how many of them the records that were run through did not hold.

    Args:
        ids: of all images that have been judged.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        digests = bytearray()
        for name in ids:
            digests += _digest(name)
        self._digests, self._counts = np.unique(np.frombuffer(digests, f"S{_BYTES}"), return_counts=True)
        self.unseen = 0

    def remaining(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records that are not among them, in their order; each id is used up as often as it is here."""
        left = self._counts.copy()
        for record in records:
            place = self._place(record.id)
            if place is not None and left[place]:
                left[place] -= 1
            else:
                yield record
        self.unseen = int(left.sum())

    def count_remaining(self, records: Iterable[Record]) -> int:
        """How many records are not among them."""
        return sum(1 for _ in self.remaining(records))

    def _place(self, name: str) -> int | None:
        wanted = np.bytes_(_digest(name))
        place = int(np.searchsorted(self._digests, wanted)) if len(self._digests) else 0
        return place if place < len(self._digests) and self._digests[place] == wanted else None


def _digest(name: str) -> bytes:
    # NumPy drops zeros at the end of a string, so that none may stand there.
    return hashlib.blake2b(name.encode(), digest_size=_BYTES - 1).digest() + b"."
