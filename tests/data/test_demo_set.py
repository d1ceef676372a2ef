from __future__ import annotations

import itertools
from importlib import resources

import pytest

from normgate.data import decode, demo_set
from normgate.data.demo import DEMO_SPLITS
from normgate.data.sources import SourceError

SIGNS = tuple(f"sign {i}" for i in (0, 1, 2, 3, 4, 5, 7, 8))


@pytest.mark.parametrize(
    ("split", "rows", "classes"),
    [
        ("train", 982, SIGNS),
        ("calibration", 322, SIGNS),
        ("test", 347, SIGNS),
        ("near", 170, ("sign 6", "sign 9")),
        ("far-satellite", 300, None),
        ("far-waste", 300, ("cardboard", "glass", "metal", "paper", "plastic", "trash")),
    ],
)
def test_splits(split, rows, classes):
    source = demo_set(split)
    assert len(source) == rows
    assert classes is None or source.classes == classes
    records = list(source)
    assert len({record.id for record in records}) == rows
    for record in records[::50]:
        assert decode(record.payload).size == (64, 64)


def test_no_person_is_in_two_splits():
    people = [{record.group for record in demo_set(split)} for split in ("train", "calibration", "test")]
    assert all(None not in group for group in people)
    assert not any(a & b for a, b in itertools.combinations(people, 2))


def test_there_is_no_other_split():
    with pytest.raises(SourceError, match="no split 'val'; choose from: train, calibration"):
        demo_set("val")
    assert len(DEMO_SPLITS) == 6


def test_the_licences_come_with_the_images():
    text = (resources.files("normgate.data.demo") / "LICENSES.md").read_text(encoding="utf-8")
    for name in ("Sign Language Digits", "Apache-2.0", "EuroSAT", "Copernicus", "TrashNet", "MIT"):
        assert name in text
