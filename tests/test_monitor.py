"""The shift alarm: p-values and martingale as by hand, false alarms as promised, a stream that stops and goes on."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as distributions

from normgate import monitor
from normgate.calibration import CalibrationError
from normgate.monitor import BINS, MonitorError, ShiftAlarm

DRAWN = st.integers(0, 10**6)


def started(seed: int = 0, n: int = 100, delta: float = 0.05) -> ShiftAlarm:
    rng = np.random.default_rng(seed)
    return ShiftAlarm.start(rng.normal(size=n), rng.normal(size=n), delta=delta, seed=seed)


def p_by_hand(calibration: np.ndarray, edges: np.ndarray, stream: np.ndarray, ties: np.ndarray) -> list[float]:
    """Each score among everything before it, one by one."""
    seen = [sum(value >= edges) for value in calibration]
    found = []
    for value, tie in zip(stream, ties, strict=True):
        own = sum(value >= edges)
        lower, equal = sum(b < own for b in seen), sum(b == own for b in seen)
        found.append((lower + tie * (equal + 1)) / (len(seen) + 1))
        seen.append(own)
    return found


@settings(deadline=None, max_examples=25)
@given(seed=DRAWN, n=st.integers(1, 30), count=st.integers(1, 600), digits=st.integers(0, 3))
def test_p_values_and_martingale_are_those_by_hand(seed: int, n: int, count: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    calibration, tuning, stream = (rng.normal(size=size).round(digits) for size in (n, 40, count))
    alarm = ShiftAlarm.start(calibration, tuning, seed=seed)
    ties = np.random.Generator(np.random.PCG64(seed)).random(count)
    p = np.array(p_by_hand(calibration, alarm.edges, stream, ties))
    path = alarm.update(stream)
    # The martingale as a sum over all times at which a bet may be entered.
    bets = np.exp(monitor._log_bets(p))
    later = 1 / (1 + np.log1p(np.arange(count + 1) / 100))
    for t in {1, min(count, 7), count}:
        value = later[t]
        for s in range(t):
            value += (later[s] - later[s + 1]) * np.prod(bets[:, s:t], axis=1).mean()
        assert path[t - 1] == pytest.approx(math.log(value), abs=1e-8)
    assert alarm.seen == count
    assert alarm.counts.sum() == n + count
    assert alarm.log_martingale == pytest.approx(path[-1], abs=1e-10)


def test_every_bet_is_fair() -> None:
    count = len(monitor._log_bets(np.array([0.5])))
    for k in range(count):

        def bet(p: float, k: int = k) -> float:
            return float(np.exp(monitor._log_bets(np.array([p]))[k, 0]))

        # Of p^(ε−1), the end at 0 is integrated as it is in log p.
        low = integrate.quad(lambda y: bet(math.exp(y)) * math.exp(y), -400, math.log(0.1), limit=400)[0]
        high = integrate.quad(bet, 0.1, 1)[0]
        assert low + high == pytest.approx(1, abs=1e-6)


def test_p_values_are_uniform_and_independent_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for seed in range(1500):
        calibration, tuning, stream = (rng.normal(size=size).round(0) for size in (7, 50, 12))
        alarm = ShiftAlarm.start(calibration, tuning, seed=seed)
        pairs.append(alarm._p_values(stream))
    p = np.array(pairs)
    for column in (0, 1, 11):
        assert distributions.kstest(p[:, column], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(p.T)[np.triu_indices(12, 1)]).max() < 4.5 / math.sqrt(1500)


def test_false_alarms_are_as_rare_as_promised_whatever_the_length() -> None:
    delta, streams = 0.2, 400
    raised = 0
    for seed in range(streams):
        alarm = started(seed, n=50, delta=delta)
        alarm.update(np.random.default_rng(10_000 + seed).normal(size=1500))
        raised += alarm.raised is not None
    assert distributions.binomtest(raised, streams, delta, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(("share", "most"), [(0.05, 4000), (0.1, 1200), (0.5, 150)])
def test_a_shift_is_found_also_after_a_long_quiet_time(share: float, most: int) -> None:
    rng = np.random.default_rng(1)
    alarm = started(1, n=2000, delta=0.01)
    alarm.update(rng.normal(size=3000))
    assert alarm.raised is None
    odd = rng.random(most) < share
    alarm.update(np.where(odd, rng.normal(-3, 1, most), rng.normal(size=most)))
    assert alarm.raised is not None
    assert 3000 < alarm.raised <= 3000 + most


@settings(deadline=None, max_examples=20)
@given(seed=DRAWN, cuts=st.lists(st.integers(0, 700), max_size=5))
def test_in_parts_and_resumed_as_in_one(seed: int, cuts: list[int]) -> None:
    stream = np.random.default_rng(seed).normal(size=700).round(1)
    whole, parted = started(seed), started(seed)
    path = whole.update(stream)
    pieces = []
    for part in np.split(stream, sorted(cuts)):
        pieces.append(parted.update(part))
        parted = ShiftAlarm.from_dict(json.loads(json.dumps(parted.to_dict(), allow_nan=False)))
    np.testing.assert_allclose(np.concatenate(pieces), path, rtol=0, atol=1e-9)
    assert (parted.raised, parted.seen) == (whole.raised, whole.seen)
    np.testing.assert_array_equal(parted.counts, whole.counts)


def test_the_state_does_not_grow() -> None:
    alarm = started(n=9000)
    before = len(json.dumps(alarm.to_dict()))
    alarm.update(np.random.default_rng(0).normal(size=20_000))
    assert len(alarm.counts) <= BINS
    assert len(json.dumps(alarm.to_dict())) < 1.2 * before


def test_an_alarm_stays_raised() -> None:
    alarm = started()
    alarm.update(np.full(200, -9.0))
    first = alarm.raised
    assert first is not None
    alarm.update(np.random.default_rng(0).normal(size=2000))
    assert alarm.raised == first


def test_infinite_scores_have_a_place_and_nan_has_none() -> None:
    alarm = started()
    alarm.update([np.inf, -np.inf])
    before = alarm.to_dict()
    with pytest.raises(CalibrationError, match="1 of 2 scores are NaN"):
        alarm.update([0.0, np.nan])
    assert alarm.to_dict() == before
    assert alarm.update([]).shape == (0,)
    constant = ShiftAlarm.start([1.0] * 5, [1.0] * 5)
    assert np.isfinite(constant.update([1.0] * 50)).all()
    ShiftAlarm.start([1.0, 2.0], [np.inf, np.inf]).update([1.0])


@pytest.mark.parametrize("delta", [0, 1, -0.1, "x", None])
def test_the_chance_of_a_false_alarm_is_a_share(delta: object) -> None:
    with pytest.raises(CalibrationError, match="the chance of a false alarm is a share"):
        ShiftAlarm.start([1.0], [1.0], delta=delta)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"edges": [1, 0]},
        {"edges": ["x"]},
        {"counts": [1]},
        {"counts": None},
        {"delta": 2},
        {"seen": -1},
        {"seen": 10**9},
        {"log_bets": [0.0]},
        {"generator": {}},
        {"generator": {"bit_generator": "MT19937"}},
    ],
)
def test_a_foreign_state_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(MonitorError, match="no state of a shift alarm"):
        ShiftAlarm.from_dict({**started().to_dict(), **change})
    with pytest.raises(MonitorError):
        ShiftAlarm.from_dict({key: value for key, value in started().to_dict().items() if key not in change})
