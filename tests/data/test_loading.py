"""Batches of pixels: the same whoever decodes them, in order, and never many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normgate.data.decoding import digest
from normgate.data.loading import LoadingError, PixelBatch, batched, count, load_batches, use_batches
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record, Records

SIDE = 6
UNREADABLE = (3, 8, 9, 10)
PREPROCESSING = Preprocessing((SIDE, SIDE))


@pytest.fixture
def images(noise: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [noise(SIDE, SIDE, 3, seed=i) for i in range(11)]


@pytest.fixture
def records(images: list[np.ndarray], encode: Callable[..., bytes]) -> Records:
    """Arrays and files in turn; those of `UNREADABLE` are neither."""
    payloads: list[Any] = [encode(image) if i % 2 else image for i, image in enumerate(images)]
    for i, bad in zip(UNREADABLE, (b"no image", b"", images[9].astype(float), encode(images[10])[:99]), strict=True):
        payloads[i] = bad
    return Records([Record(f"i{i}", payload) for i, payload in enumerate(payloads)])


def loaded(records: Any, workers: int, **options: Any) -> list[PixelBatch]:
    return list(load_batches(records, PREPROCESSING, **{"batch_size": 4, "workers": workers, **options}))


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("normgate-decode")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_the_records_in_their_order(workers: int, images: list[np.ndarray], records: Records) -> None:
    batches = loaded(records, workers, digests=True)
    assert [len(batch.records) for batch in batches] == [4, 4, 3]
    assert [record for batch in batches for record in batch.records] == list(records)
    errors = [error for batch in batches for error in batch.errors]
    assert tuple(i for i, error in enumerate(errors) if error is not None) == UNREADABLE
    for i, message in zip(UNREADABLE, ("not an image", "empty", "float64", ""), strict=True):
        assert message in str(errors[i])
    assert np.array_equal(np.concatenate([batch.readable for batch in batches]), [error is None for error in errors])
    fine = [image for image, error in zip(images, errors, strict=True) if error is None]
    assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), np.stack(fine))
    assert [one for batch in batches for one in batch.digests] == [digest(Image.fromarray(image)) for image in fine]
    assert batches[2].pixels.shape == (0, SIDE, SIDE, 3)  # nothing to read in it
    assert batches[2].pixels.dtype == np.uint8


def test_pixels_are_resized_and_digests_are_not(noise: Callable[..., np.ndarray]) -> None:
    image = noise(2 * SIDE, 3 * SIDE, 3)
    (batch,) = loaded([Record("large", image)], 0, digests=True)
    assert np.array_equal(batch.pixels[0], PREPROCESSING.resized(Image.fromarray(image)))
    assert batch.digests == (digest(Image.fromarray(image)),)
    assert loaded([Record("large", image)], 0)[0].digests == ()


@pytest.mark.parametrize("size", [1, 2, 11, 100])
def test_the_size_of_batches_changes_no_image(size: int, records: Records) -> None:
    expected = np.concatenate([batch.pixels for batch in loaded(records, 0)])
    assert np.array_equal(np.concatenate([batch.pixels for batch in loaded(records, 2, batch_size=size)]), expected)


def test_larger_images_than_allowed_are_errors(records: Records) -> None:
    (batch,) = loaded(records[:3], 1, max_pixels=SIDE * SIDE - 1)
    assert not batch.readable.any()
    assert loaded(records[:3], 1, max_pixels=SIDE * SIDE)[0].readable.all()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_no_more_than_a_batch_a_worker_is_ahead(workers: int, images: list[np.ndarray]) -> None:
    taken = 0

    def endless() -> Iterator[Record]:
        nonlocal taken
        while True:
            taken += 1
            yield Record(f"i{taken}", images[0])

    batches = load_batches(endless(), PREPROCESSING, batch_size=2, workers=workers)
    assert taken == 0  # nothing is read before anything is asked for
    for given in range(1, 9):
        assert len(next(batches).records) == 2
        assert 2 * given <= taken <= 2 * (given + workers)
    batches.close()
    assert decoding_threads() == []


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("good", [0, 2, 9])
def test_an_exception_of_the_source_travels(good: int, workers: int, images: list[np.ndarray]) -> None:
    def failing() -> Iterator[Record]:
        for i in range(good):
            yield Record(f"i{i}", images[i])
        raise RuntimeError("the disk went away")

    with pytest.raises(RuntimeError, match="the disk went away"):
        loaded(failing(), workers)
    assert decoding_threads() == []


def test_a_defect_while_decoding_travels(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("normgate.data.loading.decode", broken)
    for workers in (0, 2):
        with pytest.raises(ZeroDivisionError, match="a defect"):
            loaded(records, workers)
    assert decoding_threads() == []


def test_batches_are_used_where_they_were_decoded_and_told_in_order(records: Records) -> None:
    meeting = threading.Barrier(2, timeout=60)

    def use(batch: PixelBatch) -> tuple[str, str]:
        meeting.wait()  # two threads use a batch at the same time, or this fails
        return batch.records[0].id, threading.current_thread().name

    batches = batched(list(records)[:10], 1)
    found = list(use_batches(batches, PREPROCESSING, use, workers=2))
    assert [name for name, _ in found] == [f"i{i}" for i in range(10)]
    assert {name for _, name in found} == {"normgate-decode_0", "normgate-decode_1"}


def test_threads_are_gone_when_whoever_consumes_stops(records: Records) -> None:
    batches = load_batches(records, PREPROCESSING, batch_size=1, workers=3)
    next(batches)
    assert 1 <= len(decoding_threads()) <= 3
    with pytest.raises(KeyboardInterrupt):
        batches.throw(KeyboardInterrupt)
    assert decoding_threads() == []
    loaded(records, 3)
    assert decoding_threads() == []


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"workers": -1}])
def test_numbers_that_make_no_sense(options: dict[str, int], records: Records) -> None:
    with pytest.raises(LoadingError, match="is a whole number of at least"):
        loaded(records, **{"workers": 0, **options})


def test_no_record_is_no_batch() -> None:
    for workers in (0, 2):
        assert loaded([], workers) == []


def test_count_where_it_is_known(records: Records) -> None:
    class Stream:
        def __len__(self) -> int:
            raise TypeError("only running through would tell")

    assert count(records) == 11
    assert count(Stream()) is None
