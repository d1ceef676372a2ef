"""Images in two sets: found in the order of the sets, counted, and kept by the earlier set alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normgate.errors import NormgateWarning
from normgate.gate.duplicates import ORDER, DuplicateError, check, repeated, warn_of_copies

SETS = st.dictionaries(st.sampled_from(ORDER), st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), max_size=6))


def test_the_earlier_set_keeps_the_image_whatever_the_order_of_the_mapping() -> None:
    digests = {"calibration": [b"x", b"c", b"t"], "train": [b"x", b"y"], "tuning": [b"t", b"y", b"u"]}
    assert repeated(digests) == {"train": [], "tuning": [1], "calibration": [0, 2]}


def test_an_image_twice_in_one_set_stays() -> None:
    assert repeated({"train": [b"x", b"x"], "calibration": [b"c", b"c"]}) == {"train": [], "calibration": []}
    assert repeated({"train": [b"x"], "calibration": [b"x", b"c", b"x"]})["calibration"] == [0, 2]


def test_known_sets_count_as_earlier_unless_they_are_replaced() -> None:
    known = {"train": [b"a"], "calibration": [b"c"]}
    assert repeated({"train": [b"c", b"n"]}, known) == {"train": [0]}
    assert repeated({"train": [b"a", b"n"]}, known) == {"train": []}  # its own former images
    assert repeated({"train": [b"c"], "calibration": [b"c"]}, known) == {"train": [], "calibration": [0]}
    assert repeated({"tuning": [b"a", b"b", b"c"]}, known) == {"tuning": [0, 2]}
    assert repeated({}, known) == {}


def test_shared_images_are_counted_for_each_two_sets() -> None:
    digests = {"calibration": [b"x", b"t", b"c"], "train": [b"x", b"x", b"y"], "tuning": [b"t", b"y", b"x"]}
    with pytest.raises(
        DuplicateError,
        match=r"2 in train and tuning, 1 in train and calibration, 2 in tuning and calibration; .*--drop-duplicates",
    ):
        check(digests)
    with pytest.raises(DuplicateError, match=r"promise: 1 in tuning and calibration; remove"):
        check({"tuning": [b"a"], "calibration": [b"a", b"b"]})


def test_copies_among_calibration_images_are_pointed_out(recwarn: pytest.WarningsRecorder) -> None:
    warn_of_copies([bytes([i]) for i in range(100)] + [b"\0"])
    warn_of_copies([])
    assert not recwarn
    with pytest.warns(NormgateWarning, match=r"180 of the 200 calibration images .* no more than that of 20\. Keep"):
        warn_of_copies([bytes([i % 20]) for i in range(200)])


def test_disjoint_sets_are_fine() -> None:
    check({})
    check({"train": [b"a", b"a"], "tuning": [], "calibration": [b"b"]})


@given(SETS, SETS)
def test_what_is_left_is_shared_by_no_two_sets_and_no_more_is_dropped(
    digests: dict[str, list[bytes]], known: dict[str, list[bytes]]
) -> None:
    staying = {name: own for name, own in known.items() if name not in digests}
    rows = repeated(digests, known)
    left = {name: [digest for row, digest in enumerate(own) if row not in rows[name]] for name, own in digests.items()}
    for name, own in left.items():
        others = [digest for other, theirs in {**staying, **left}.items() if other != name for digest in theirs]
        assert not set(own) & set(others)
    before = {digest for own in staying.values() for digest in own}
    for name, own in digests.items():
        earlier = before.union(*(digests.get(other, ()) for other in ORDER[: ORDER.index(name)]))
        if name != "train":  # what the network was trained on it was, whatever comes after
            earlier |= {*known.get("train", ())}
        assert [row for row, digest in enumerate(own) if digest in earlier] == rows[name]
