from __future__ import annotations

import threading

import numpy as np
import pytest

from normgate.data.decoding import Fetchable, ImageError, decode
from normgate.data.fetching import FETCHES, fetched, fetchers
from normgate.data.loading import load_batches
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record


class Elsewhere(Fetchable):
    """An image that is told when to come."""

    def __init__(self, content: bytes | Exception, gate: threading.Barrier | None = None) -> None:
        self.content = content
        self.gate = gate
        self.fetches = 0

    def fetch(self) -> bytes:
        self.fetches += 1
        if self.gate is not None:
            self.gate.wait(timeout=60)
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def records(payloads) -> list[Record]:
    return [Record(str(i), payload) for i, payload in enumerate(payloads)]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("normgate-")]


def test_images_come_in_their_order_with_their_errors():
    given = records([Elsewhere(b"0"), b"1", Elsewhere(ImageError("gone")), "3.png", Elsewhere(b"4")])
    with fetchers() as pool:
        found = list(fetched(given, pool, 2))
    assert [record for record, _ in found] == given
    assert [payload for _, payload in found if not isinstance(payload, ImageError)] == [b"0", b"1", "3.png", b"4"]
    assert str(found[2][1]) == "gone"


def test_defects_travel():
    with fetchers() as pool, pytest.raises(ZeroDivisionError):
        list(fetched(records([Elsewhere(ZeroDivisionError())]), pool))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_as_many_are_on_their_way_at_once_as_there_are_fetches(workers, encode, noise):
    """Each image waits until so many are asked for: fewer at once would wait for ever."""
    at_once = FETCHES // max(1, workers) * max(1, workers)
    gate = threading.Barrier(at_once)
    png = encode(noise(4, 4, 3))
    given = records([Elsewhere(png, gate) for _ in range(at_once)])
    size = at_once // max(1, workers)
    batches = list(load_batches(given, Preprocessing((4, 4)), batch_size=size, workers=workers))
    assert sum(int(batch.readable.sum()) for batch in batches) == at_once
    assert all(record.payload.fetches == 1 for record in given)


def test_no_more_are_ahead_than_asked():
    given = records([Elsewhere(b"") for _ in range(40)])
    with fetchers() as pool:
        stream = fetched(given, pool, 8)
        next(stream)
        stream.close()
    assert sum(record.payload.fetches for record in given) <= 8


def test_nothing_is_delayed_by_what_is_here():
    taken = []

    def stream():
        for i in range(5):
            taken.append(i)
            yield Record(str(i), b"")

    with fetchers() as pool:
        images = fetched(stream(), pool)
        next(images)
        assert taken == [0]
        assert threads() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_records_and_the_errors(workers, encode, noise):
    image = noise(4, 4, 3)
    given = records([Elsewhere(encode(image)), Elsewhere(ImageError("gone")), Elsewhere(b"junk"), image])
    (batch,) = load_batches(given, Preprocessing((4, 4)), workers=workers, digests=True)
    assert batch.records == tuple(given)
    assert batch.readable.tolist() == [True, False, False, True]
    assert batch.errors[1] == "gone"
    assert "not an image" in str(batch.errors[2])
    assert np.array_equal(batch.pixels, np.stack([image, image]))
    assert threads() == []


def test_whoever_stops_does_not_wait_for_all_images(encode, noise):
    given = records([Elsewhere(encode(noise(4, 4, 3))) for _ in range(10_000)])
    batches = load_batches(given, Preprocessing((4, 4)), batch_size=1000, workers=2)
    next(batches)
    batches.close()
    assert threads() == []
    assert sum(record.payload.fetches for record in given) < 9_000


def test_decoding_fetches(encode, noise):
    assert decode(Elsewhere(encode(noise(4, 5, 3)))).size == (5, 4)
    with pytest.raises(ImageError, match="gone"):
        decode(Elsewhere(ImageError("gone")))
