"""Fetching: images from elsewhere come in many at once and ahead of whoever decodes them, in bounded memory."""

from __future__ import annotations

import collections
import concurrent.futures
from typing import TYPE_CHECKING

from normgate.data.decoding import Fetchable, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from normgate.data.decoding import Payload
    from normgate.data.sources import Record

FETCHES = 32
"""Images that are on their way at once: what takes long is the answer, not the work."""


def fetchers() -> concurrent.futures.ThreadPoolExecutor:
    """Threads that wait for images; none is started before there is one to fetch."""
    return concurrent.futures.ThreadPoolExecutor(FETCHES, thread_name_prefix="normgate-fetch")


def fetched(
    records: Iterable[Record], pool: concurrent.futures.Executor, ahead: int = FETCHES
) -> Iterator[tuple[Record, Payload]]:
    """Records in their order with what `decode` takes, in place of a `Fetchable` its bytes or its error.

    Args:
        records: a stream.
        pool: does the fetching.
        ahead: at most so many images are fetched before they are asked for.
    """
    pending: collections.deque[tuple[Record, concurrent.futures.Future[Payload] | None]] = collections.deque()
    try:
        for record in records:
            payload = record.payload
            pending.append((record, pool.submit(_fetch, payload) if isinstance(payload, Fetchable) else None))
            while pending and (len(pending) >= ahead or pending[0][1] is None):
                yield _taken(*pending.popleft())
        while pending:
            yield _taken(*pending.popleft())
    finally:
        for _, future in pending:
            if future is not None:
                future.cancel()


def _taken(record: Record, future: concurrent.futures.Future[Payload] | None) -> tuple[Record, Payload]:
    return record, record.payload if future is None else future.result()


def _fetch(payload: Fetchable) -> Payload:
    try:
        return payload.fetch()
    except ImageError as error:
        return error
