"""The queue: what is judged together, how much it holds, and that everything taken in is answered."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normgate.data.loading import PixelBatch, load_batches
from normgate.data.sources import Record
from normgate.serving import batching
from normgate.serving.batching import BATCH, Batcher
from normgate.serving.errors import Refused
from normgate.verdicts import Verdicts
from samples import PREPROCESSING


class Judge:
    """Scores an image by its first byte; waits at the gate while it is shut."""

    preprocessing = PREPROCESSING
    beside: Judge | None = None

    def __init__(self) -> None:
        self.neighbours = None
        self.sizes: list[int] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()

    @property
    def judge(self) -> Judge:
        return self

    def judge_batch(self, batch: PixelBatch) -> Verdicts:
        self.entered.set()
        assert self.open.wait(30)
        self.sizes.append(len(batch.records))
        first = batch.pixels[:, 0, 0, 0].astype(float)
        said = ["thirteen" if value == 13 else None for value in first]
        if (first == 99).any():
            raise MemoryError
        own = Verdicts([""] * len(first), ["cat"] * len(first), first, first, first, first > 0, said)
        return own.among([record.id for record in batch.records], batch.errors)


def image(value: int, name: str = "") -> Record:
    return Record(name or str(value), np.full((8, 8, 3), value, np.uint8))


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    found = Batcher(room=40, max_pixels=100, told=lambda *_: None, batch=32, decoders=2, judges=2)
    yield found
    found.close()


def scores(futures: list[Any]) -> list[float]:
    return [answer.verdict.score for future in futures for answer in future.result(30)]


def shut(judge: Judge, batcher: Batcher) -> list[Any]:
    """Keeps the judge busy with one image until it is opened."""
    judge.open.clear()
    first = batcher.submit(judge, [image(1)])
    assert judge.entered.wait(30)
    return first


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def ready(batcher: Batcher, images: int) -> None:
    """Wait until so many images are decoded and wait for a judge."""
    until(lambda: batcher._waiting >= images)


def test_answers_come_in_order_whatever_the_split(batcher: Batcher) -> None:
    judge = Judge()
    values = list(range(20, 57))
    assert scores(batcher.submit(judge, [image(value) for value in values])) == values
    assert batcher.held == 0
    assert batcher.submit(judge, []) == []


def test_what_waits_is_judged_together_up_to_a_batch(batcher: Batcher) -> None:
    judge = Judge()
    first = shut(judge, batcher)
    futures = [batcher.submit(judge, [image(2)]) for _ in range(39)]
    ready(batcher, 39)
    judge.open.set()
    assert scores(first) == [1]
    assert [scores(future) for future in futures] == [[2]] * 39
    assert judge.sizes == [1, 32, 7]


def test_another_judge_takes_what_waits_where_the_gate_can_be_asked_by_many(batcher: Batcher) -> None:
    judge = Judge()
    judge.beside = Judge()
    first = shut(judge, batcher)
    few = [batcher.submit(judge, [image(2)]) for _ in range(15)]
    ready(batcher, 15)
    assert batcher._judging == 1  # they are too few
    few.append(batcher.submit(judge, [image(3)]))
    assert [scores(future) for future in few] == [[2]] * 15 + [[3]]
    assert not first[0].done()
    judge.open.set()
    assert scores(first) == [1]
    assert (judge.sizes, judge.beside.sizes) == ([1], [16])
    assert scores(batcher.submit(judge, [image(4)])) == [4]
    assert judge.sizes == [1, 1]  # alone again, and by all cores


def test_what_one_judge_leaves_wakes_another() -> None:
    batcher = Batcher(room=100, max_pixels=100, told=lambda *_: None, batch=32, decoders=1, judges=3)
    judge = Judge()
    judge.beside = Judge()
    judge.beside.open.clear()
    first = shut(judge, batcher)
    rest = [*batcher.submit(judge, [image(2)] * 15), *batcher.submit(judge, [image(3)] * 16)]
    until(lambda: batcher._judging == 3)
    judge.beside.open.set()
    judge.open.set()
    assert scores(first + rest) == [1] + [2] * 15 + [3] * 16
    batcher.close()


def test_judges_leave_each_other_a_share() -> None:
    batcher = Batcher(room=100, max_pixels=100, told=lambda *_: None, batch=32, decoders=2, judges=2)
    judge = Judge()
    judge.beside = Judge()
    judge.beside.open.clear()
    futures = [*shut(judge, batcher), *batcher.submit(judge, [image(2)] * 16)]
    assert judge.beside.entered.wait(30)
    futures += [future for _ in range(32) for future in batcher.submit(judge, [image(3)])]
    ready(batcher, 32)
    judge.beside.open.set()
    assert scores(futures[1:]) == [2] * 16 + [3] * 32
    assert judge.beside.sizes == [16, 16, 16]
    judge.open.set()
    assert scores(futures[:1]) == [1]
    batcher.close()


def test_a_gate_that_takes_one_batch_at_a_time_is_given_one(batcher: Batcher) -> None:
    judge = Judge()
    first = shut(judge, batcher)
    rest = [batcher.submit(judge, [image(2)]) for _ in range(30)]
    ready(batcher, 30)
    assert batcher._judging == 1
    judge.open.set()
    assert [scores(future) for future in [first, *rest]] == [[1], *[[2]] * 30]
    assert judge.sizes == [1, 30]


def test_batches_are_told_one_at_a_time() -> None:
    telling, second = threading.Lock(), threading.Event()

    def told(_: Any, verdicts: Any, __: float) -> None:
        assert telling.acquire(blocking=False), "two tell at a time"
        if len(verdicts) == 1:
            second.wait(0.2)  # long enough for another to come in between, if it could
        else:
            second.set()
        telling.release()

    batcher = Batcher(room=40, max_pixels=100, told=told, batch=32, decoders=2, judges=2)
    judge = Judge()
    judge.beside = Judge()
    judge.beside.open.clear()
    futures = [*shut(judge, batcher), *batcher.submit(judge, [image(2)] * 16)]
    assert judge.beside.entered.wait(30)
    judge.open.set()
    judge.beside.open.set()
    assert scores(futures) == [1] + [2] * 16
    batcher.close()


def test_gates_do_not_mix(batcher: Batcher) -> None:
    old, new = Judge(), Judge()
    first = shut(old, batcher)
    futures = [batcher.submit(judge, [image(3)]) for judge in (old, new, old)]
    ready(batcher, 3)
    old.open.set()
    assert scores(first) == [1]
    assert [scores(future) for future in futures] == [[3]] * 3
    assert (sum(old.sizes), new.sizes) == (3, [1])


def test_room_is_for_whole_requests_and_comes_back(batcher: Batcher) -> None:
    judge = Judge()
    first = shut(judge, batcher)
    waiting = batcher.submit(judge, [image(2)] * 39)
    with pytest.raises(Refused, match="full") as refused:
        batcher.submit(judge, [image(2)])
    assert (refused.value.status, batcher.held) == (429, 40)
    judge.open.set()
    assert len(scores(first + waiting)) == 40
    assert scores(batcher.submit(judge, [image(2)] * 40)) == [2] * 40


def test_what_is_cancelled_is_not_judged_and_gives_its_room_back(batcher: Batcher) -> None:
    judge = Judge()
    first = shut(judge, batcher)
    (cancelled,) = batcher.submit(judge, [image(5)] * 3)
    kept = batcher.submit(judge, [image(6)])
    assert cancelled.cancel()
    judge.open.set()
    assert scores(first + kept) == [1, 6]
    with pytest.raises(CancelledError):
        cancelled.result(0)
    batcher.close()
    assert (sum(judge.sizes), batcher.held) == (2, 0)


def test_an_image_that_cannot_be_judged_does_not_cost_the_others_theirs(batcher: Batcher) -> None:
    (future,) = batcher.submit(Judge(), [image(7), image(13), Record("broken", b"no image"), image(8)])
    answers = [answer.verdict for answer in future.result(30)]
    assert [verdict.error for verdict in answers[:2]] == [None, "thirteen"]
    assert "not an image" in str(answers[2].error)
    assert [verdict.id for verdict in answers] == ["7", "13", "broken", "8"]
    assert (answers[0].score, answers[3].score) == (7, 8)


def test_a_defect_is_told_and_the_next_batch_goes_on(batcher: Batcher, caplog: pytest.LogCaptureFixture) -> None:
    judge = Judge()
    (future,) = batcher.submit(judge, [image(99)])
    with pytest.raises(MemoryError):
        future.result(30)
    assert scores(batcher.submit(judge, [image(4)])) == [4]
    assert "could not be judged" in caplog.text


def test_a_defect_in_decoding_is_told_and_the_next_batch_goes_on(
    batcher: Batcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(batching, "load_batches", broken)
        with pytest.raises(ZeroDivisionError):
            scores(batcher.submit(Judge(), [image(1)]))
    assert scores(batcher.submit(Judge(), [image(4)])) == [4]
    assert "could not be decoded" in caplog.text


def test_large_images_are_errors(batcher: Batcher) -> None:
    (future,) = batcher.submit(Judge(), [Record("large", np.zeros((11, 10, 3), np.uint8))])
    assert "more than the limit of 100" in str(future.result(30)[0].verdict.error)


class Body:
    """Who holds a body."""

    def __init__(self) -> None:
        self.holders, self.free = 0, threading.Event()

    def hold(self) -> None:
        self.holders += 1

    def release(self) -> None:
        self.holders -= 1
        if not self.holders:
            self.free.set()


def zeros(side: int) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint16)).save(encoded, "PNG")
    return encoded.getvalue()


def test_large_images_are_decoded_by_one_thread_and_the_others_go_on(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, threads, go_on = Judge(), set(), threading.Event()
    monkeypatch.setattr(batching, "LARGE", 60)

    def decoded(records: Any, *rest: Any, **options: Any) -> Any:
        name = threading.current_thread().name
        for batch in load_batches(records, *rest, **options):
            if "large" in name:
                assert go_on.wait(30)
            threads.add((name.rpartition("_")[0], batch.records[0].id))
            yield batch

    monkeypatch.setattr(batching, "load_batches", decoded)
    large = [batcher.submit(judge, [Record("large", zeros(8))]) for _ in range(5)]
    small = batcher.submit(judge, [Record("small", zeros(7))])
    assert scores(small) == [0]
    go_on.set()
    assert [scores(future) for future in large] == [[0]] * 5
    assert threads == {("normgate-decode-large", "large"), ("normgate-decode", "small")}


def test_images_that_nobody_waits_for_are_not_decoded_and_their_bytes_are_held_until_then(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, decoded, first, go_on = Body(), [], threading.Event(), threading.Event()

    def slow(records: Any, *rest: Any, **options: Any) -> Any:
        for batch in load_batches(records, *rest, **options):
            decoded.append(batch)
            first.set()
            assert go_on.wait(30)
            yield batch

    monkeypatch.setattr(batching, "load_batches", slow)
    (future,) = batcher.submit(Judge(), [image(1)] * 16, body=body)
    assert first.wait(30)
    assert future.cancel()
    assert body.holders == 1
    go_on.set()
    assert body.free.wait(30)
    assert (len(decoded), batcher.held) == (1, 0)


def test_batches_grow_with_the_load_and_nothing_waits_for_one_to_fill() -> None:
    judge, held = Judge(), []
    batcher = Batcher(room=1000, max_pixels=100, told=lambda *_: None, holds=held.append, decoders=2)
    try:
        for _ in range(3):  # the judge is free: each is judged alone
            assert scores(batcher.submit(judge, [image(1)])) == [1]
        judge.entered.clear()
        futures = shut(judge, batcher)
        for _ in range(300):
            futures += batcher.submit(judge, [image(2)])
        while len(batcher._ready) < 300:
            threading.Event().wait(0.001)
        judge.open.set()
        assert len(scores(futures)) == 301
    finally:
        batcher.close()
    assert judge.sizes == [1, 1, 1, 1, BATCH, BATCH, 300 - 2 * BATCH]
    assert (max(held), held[-1]) == (301, 0)


def test_closing_answers_what_is_in(batcher: Batcher) -> None:
    judge = Judge()
    first = shut(judge, batcher)
    waiting = batcher.submit(judge, [image(2)] * 10)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closed:
        threading.Event().wait(0.001)
    with pytest.raises(Refused, match="shutting down") as refused:
        batcher.submit(judge, [image(2)])
    assert refused.value.status == 503
    judge.open.set()
    closing.join(30)
    assert scores(first + waiting) == [1, *[2] * 10]
