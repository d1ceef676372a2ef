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

    Args:
        ids: of all images that have been judged.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        digests = np.frombuffer(b"".join(map(_digest, ids)), dtype=f"S{_BYTES}")
        self._digests, self._left = np.unique(digests, return_counts=True)

    def remaining(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records that are not among them, in their order; each id is used up as often as it is here."""
        for record in records:
            if not (len(self._digests) and self._take(record.id)):
                yield record

    def _take(self, name: str) -> bool:
        wanted = np.bytes_(_digest(name))
        place = int(np.searchsorted(self._digests, wanted))
        if place == len(self._digests) or self._digests[place] != wanted or self._left[place] == 0:
            return False
        self._left[place] -= 1
        return True


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=_BYTES).digest()
