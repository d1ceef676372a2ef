"""Images that an evaluation shares with the gate's sets, or its sets with each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from normgate import Gate, evaluate
from normgate.data.sources import Records
from normgate.errors import NormgateWarning
from normgate.evaluation.disjoint import shared_images, shared_lines
from samples import CLASSES, PREPROCESSING, random_records, small_network


@pytest.fixture
def gate() -> Gate:
    sets = {"train": random_records(60, 1), "tuning": random_records(30, 2), "calibration": random_records(40, 3)}
    return Gate.calibrate(small_network(), preprocessing=PREPROCESSING, score="energy", **sets)


def test_each_set_is_compared_with_those_of_the_gate_and_with_the_known_images() -> None:
    seen = {"train": [b"a", b"b"], "calibration": [b"c"]}
    sets = {"id": [b"a", b"c", b"c", b"x"], "far": [b"x", b"b"], "near": [b"y"]}
    found = shared_images(seen, sets)
    assert found == {"id": {"train": 1, "calibration": 2, "itself": 1}, "far": {"train": 1, "id": 1}}
    assert shared_lines(found)[1].startswith("id: 1 are copies of other images of the set")
    assert shared_images({}, {"id": [b"a"]}) == {}
    again = shared_images({}, {"id": [b"a"], "far": [b"x", b"x"], "near": [b"y", b"x"]})
    assert again == {"far": {"itself": 1}, "near": {"far": 1}}
    seen, sets = {"train": [b"t"]}, {"id": [b"a"], "train": [b"x", b"t"], "near": [b"y", b"x"]}
    shared = shared_images(seen, sets)
    assert shared == {"train": {"train": 1}, "near": {"train (OoD)": 1}}
    assert "a mean of such sets" in shared_lines(shared)[1]
    shared = shared_images({}, {"id": [b"a"], "itself": [b"x", b"y"], "near": [b"y", b"x"]})
    assert shared == {"near": {"itself (OoD)": 2}}


def test_unknown_images_of_two_sets_are_pointed_out(gate: Gate) -> None:
    sets = {"odd": random_records(10, 8), "odder": Records([*random_records(5, 7), *random_records(10, 8)[:3]])}
    with pytest.warns(NormgateWarning, match="odder: 3 are odd images, too; a mean of such sets counts them twice"):
        found = evaluate(gate, random_records(20, 9), sets, scores="energy")
    assert found.shared == {"odder": {"odd": 3}}


@pytest.mark.parametrize("cached", [False, True])
def test_images_that_are_not_new_are_counted_with_a_warning(gate: Gate, cached: bool, tmp_path: Path) -> None:
    known = Records([*random_records(20, 9), *random_records(60, 1)[:3], *random_records(40, 3)[:2]], CLASSES)
    sets = {"odd": Records([*random_records(10, 8), random_records(20, 9)[0]])}
    for _ in range(2):  # the second time from the cache
        with pytest.warns(NormgateWarning) as said:
            found = evaluate(gate, known, sets, scores="energy", cache=tmp_path / "cache" if cached else None)
        assert found.shared == {"id": {"train": 3, "calibration": 2}, "odd": {"id": 1}}
        assert [str(warning.message).split(",")[0] for warning in said] == [
            "id: 3 are train images and 2 are calibration images",
            "odd: 1 are id images",
        ]
    found.save(tmp_path / "found.md")
    assert "- id: 3 are train images" in (tmp_path / "found.md").read_text()
    assert json.loads(json.dumps(found.to_dict()))["shared"]["odd"] == {"id": 1}


def test_what_the_gate_has_seen_counts_beside_what_a_score_is_fitted_to(gate: Gate) -> None:
    with pytest.warns(NormgateWarning, match="id: 60 are train images"):
        evaluate(gate, random_records(60, 1), {}, train=random_records(30, 7), scores="energy")


def test_new_images_are_fine(gate: Gate, recwarn: pytest.WarningsRecorder) -> None:
    assert evaluate(gate, random_records(20, 9), {"odd": random_records(10, 8)}, scores="energy").shared == {}
    network, train = small_network(), random_records(60, 1)
    assert evaluate(network, random_records(20, 9), {}, train=train, preprocessing=PREPROCESSING).shared == {}
    assert not [warning for warning in recwarn if issubclass(warning.category, NormgateWarning)]
    with pytest.warns(NormgateWarning, match="id: 60 are train images"):
        evaluate(network, train, {}, train=train, preprocessing=PREPROCESSING)
