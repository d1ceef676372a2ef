"""The slider's counts: exact at every position, whatever images are shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normgate.calibration import Calibration
from normgate.report.levels import FINE, MOST, levels
from normgate.report.scored import ScoredSet
from normgate.verdicts import Verdicts


def scored(calibration: Calibration, scores: np.ndarray, predicted: np.ndarray, name: str = "set") -> ScoredSet:
    count = len(scores)
    verdicts = Verdicts(
        id=[str(i) for i in range(count)],
        label=[f"class {i}" for i in predicted],
        probability=np.ones(count),
        score=scores,
        p_value=calibration.p_values(scores, predicted if calibration.by_class else None),
        accepted=calibration.accepts(scores, predicted if calibration.by_class else None),
        error=[None] * count,
    )
    return ScoredSet(name, "known", verdicts, true=tuple("class 0" for _ in range(count)))


@settings(deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.sampled_from([20, 99, 100, 101, 999, 2000]),
    alpha=st.sampled_from([0.05, 0.1, 0.29]),
    digits=st.sampled_from([1, 8]),
    by_class=st.booleans(),
)
def test_counts_are_those_of_the_p_values_and_of_the_thresholds(
    seed: int, n: int, alpha: float, digits: int, by_class: bool
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 if by_class and n > 40 else None
    names = None if labels is None else ("class 0", "class 1")
    calibration = Calibration(rng.normal(size=n).round(digits), alpha, labels, names)
    scores, predicted = rng.normal(-0.5, 2, 300).round(digits), rng.integers(0, 2, 300)
    part = scored(calibration, scores, predicted)
    found = levels(calibration, [part])
    assert found.p_values[0] == 0
    assert len(found.p_values) <= MOST + 1
    assert (np.diff(found.p_values) > 0).all()
    right = np.asarray(part.verdicts.label) == "class 0"
    for position, p_value in enumerate(found.p_values):
        rejected = part.verdicts.p_value <= p_value
        assert found.rejected["set"][position] == rejected.sum()
        assert found.right["set"][position] == (right & ~rejected).sum()
        if found.thresholds is not None:
            assert found.rejected["set"][position] == (scores < found.thresholds[position]).sum()
    # Where the gate has put it, the counts are those of its own verdicts.
    assert found.rejected["set"][found.start] == (~part.verdicts.accepted).sum()
    assert found.promised[found.start] == pytest.approx(calibration.expected_false_alarm_rate, abs=1e-12)
    assert (found.thresholds is None) == (labels is not None)


def test_many_levels_are_thinned_but_the_low_ones_and_the_own_are_there() -> None:
    calibration = Calibration(np.random.default_rng(0).normal(size=5000), 0.3)
    found = levels(calibration, [])
    assert len(found.p_values) <= MOST + 1
    np.testing.assert_array_equal(found.p_values[:FINE], np.arange(FINE) / 5001)
    assert found.p_values[found.start] == 1500 / 5001
    assert found.p_values[-1] == 5000 / 5001


def test_a_run_with_its_own_cut_starts_there() -> None:
    calibration = Calibration(np.arange(99.0), 0.05)
    assert levels(calibration, [], cut=0.0).start == 0
    assert levels(calibration, [], cut=0.13).p_values[levels(calibration, [], cut=0.13).start] == 0.13
