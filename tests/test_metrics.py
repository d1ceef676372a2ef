"""Metrics against brute-force counts, scikit-learn, and simulations of what the intervals promise."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from dataclasses import astuple
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from normgate.errors import NormgateError
from normgate.metrics import (
    MetricError,
    accuracy_among_accepted,
    aurc,
    auroc,
    auroc_interval,
    average_precision,
    fpr_at_id_tpr,
    fpr_at_ood_tpr,
    mean_auroc,
    ood_metrics,
    open_set_risk_coverage,
    paired_auroc_difference,
    paired_difference_over_seeds,
    paired_mean_difference,
    risk_coverage,
)
from normgate.metrics.intervals import bounded_limits, bounded_p_value, delong_variance

TIED = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)
FREE = st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=30)
SAMPLES = st.tuples(TIED, TIED) | st.tuples(FREE, FREE)


def brute_auroc(ids: Any, oods: Any) -> float:
    return sum((i > o) + 0.5 * (i == o) for i in ids for o in oods) / (len(ids) * len(oods))


def brute_fpr(ids: Any, oods: Any, tpr: float) -> tuple[float, float]:
    """Both meanings, by trying every threshold."""
    ids, oods = np.array(ids), np.array(oods)
    limits = np.unique(np.concatenate([ids, oods]))
    return (
        min((oods >= t).mean() for t in limits if (ids >= t).mean() >= tpr),
        min((ids <= t).mean() for t in limits if (oods <= t).mean() >= tpr),
    )


def labelled(ids: Any, oods: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores as scikit-learn wants them; ranks, as it refuses infinities."""
    scores = np.unique(np.concatenate([ids, oods]), return_inverse=True)[1]
    return np.repeat([1, 0], [len(ids), len(oods)]), scores


class TestRanking:
    @settings(deadline=None)
    @given(SAMPLES)
    def test_auroc_counts_pairs(self, samples: tuple[list[float], list[float]]) -> None:
        assert auroc(*samples) == pytest.approx(brute_auroc(*samples), abs=1e-15)

    @settings(deadline=None)
    @given(SAMPLES)
    def test_agrees_with_scikit_learn(self, samples: tuple[list[float], list[float]]) -> None:
        y, s = labelled(*samples)
        assert auroc(*samples) == pytest.approx(sklearn.metrics.roc_auc_score(y, s), abs=1e-12)
        found = sklearn.metrics.average_precision_score(y, s)
        assert average_precision(*samples, positive="id") == pytest.approx(found, abs=1e-12)
        found = sklearn.metrics.average_precision_score(1 - y, -s)
        assert average_precision(*samples, positive="ood") == pytest.approx(found, abs=1e-12)

    @settings(deadline=None)
    @given(SAMPLES, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
    def test_fpr_tries_every_threshold(self, samples: tuple[list[float], list[float]], tpr: float) -> None:
        assert (fpr_at_id_tpr(*samples, tpr), fpr_at_ood_tpr(*samples, tpr)) == brute_fpr(*samples, tpr)

    @settings(deadline=None)
    @given(SAMPLES, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
    def test_fpr_is_on_scikit_learns_curve(self, samples: tuple[list[float], list[float]], tpr: float) -> None:
        y, s = labelled(*samples)
        for found, truth, scores in ((fpr_at_id_tpr, y, s), (fpr_at_ood_tpr, 1 - y, -s)):
            fprs, tprs, _ = sklearn.metrics.roc_curve(truth, scores, drop_intermediate=False)
            assert found(*samples, tpr) == pytest.approx(fprs[tprs >= tpr][0], abs=1e-12)

    @pytest.mark.parametrize("levels", [10, 1000, None])
    def test_agrees_with_scikit_learn_on_many_images(self, levels: int | None) -> None:
        rng = np.random.default_rng(0)
        ids, oods = rng.normal(1, 1, 20_000).astype(np.float32), rng.normal(size=30_000).astype(np.float32)
        if levels is not None:
            ids, oods = np.round(ids * levels / 6), np.round(oods * levels / 6)
        truth, scores = np.repeat([1, 0], [len(ids), len(oods)]), np.concatenate([ids, oods])
        found = ood_metrics(ids, oods)
        assert found.auroc == pytest.approx(sklearn.metrics.roc_auc_score(truth, scores), abs=1e-12)
        assert found.ap_id == pytest.approx(sklearn.metrics.average_precision_score(truth, scores), abs=1e-12)
        assert found.ap_ood == pytest.approx(sklearn.metrics.average_precision_score(1 - truth, -scores), abs=1e-12)

    def test_the_two_meanings_differ(self) -> None:
        ids, oods = np.append(np.arange(1.0, 20), -9), np.append(np.arange(-18.0, 1), 9.5)
        assert fpr_at_id_tpr(ids, oods) == 1 / 20  # 19 of 20 ID images are at 1 or above
        assert fpr_at_ood_tpr(ids, oods) == 1 / 20
        assert fpr_at_id_tpr(ids, oods, 0.96) == 11 / 20
        assert fpr_at_ood_tpr(ids, oods, 0.96) == 10 / 20

    def test_95_of_100_is_95_percent(self) -> None:
        ids = np.append(np.ones(95), np.zeros(5))
        assert fpr_at_id_tpr(ids, np.full(10, 0.5)) == 0.0
        assert fpr_at_id_tpr(ids[1:], np.full(10, 0.5)) == 1.0

    @settings(deadline=None)
    @given(SAMPLES, st.randoms())
    def test_order_of_rows_changes_nothing(self, samples: tuple[list[float], list[float]], random: Any) -> None:
        shuffled = tuple(random.sample(values, len(values)) for values in samples)
        assert ood_metrics(*samples) == ood_metrics(*shuffled)

    @settings(deadline=None)
    @given(SAMPLES)
    def test_negate_and_swap(self, samples: tuple[list[float], list[float]]) -> None:
        ids, oods = (np.array(values) for values in samples)
        there, back = ood_metrics(ids, oods), ood_metrics(-oods, -ids)
        assert there.auroc == back.auroc
        assert (there.auroc_low, there.auroc_high) == pytest.approx((back.auroc_low, back.auroc_high), abs=1e-12)
        assert (there.ap_id, there.fpr_at_id_tpr95) == (back.ap_ood, back.fpr_at_ood_tpr95)
        assert (there.ap_ood, there.fpr_at_ood_tpr95) == (back.ap_id, back.fpr_at_id_tpr95)

    @settings(deadline=None)
    @given(SAMPLES)
    def test_one_sort_gives_what_the_functions_give(self, samples: tuple[list[float], list[float]]) -> None:
        estimate = auroc_interval(*samples)
        assert astuple(ood_metrics(*samples)) == (
            *estimate,
            average_precision(*samples, positive="id"),
            average_precision(*samples, positive="ood"),
            fpr_at_id_tpr(*samples),
            fpr_at_ood_tpr(*samples),
            *map(len, samples),
        )
        assert estimate.value == auroc(*samples)

    @pytest.mark.parametrize("value", [0.0, -3.5, math.inf, -math.inf])
    def test_constant_scores(self, value: float) -> None:
        metrics = ood_metrics([value] * 90, [value] * 10)
        assert metrics.auroc == 0.5
        assert (metrics.fpr_at_id_tpr95, metrics.fpr_at_ood_tpr95) == (1.0, 1.0)
        assert (metrics.ap_id, metrics.ap_ood) == pytest.approx((0.9, 0.1), abs=1e-15)
        assert metrics.auroc_low < 0.5 < metrics.auroc_high

    def test_zero_has_no_sign(self) -> None:
        assert auroc([0.0], [-0.0]) == 0.5

    def test_float32_float64_and_integers_are_one_number_line(self) -> None:
        assert auroc(np.float32([0.1]), np.float64([0.1])) == 1.0  # the float32 is 0.100000001…
        assert auroc([1, 2, 3], np.float32([2.0])) == 0.5
        assert auroc(np.float16([1.0, 3.0]), [2]) == 0.5

    def test_a_million_scores(self) -> None:
        rng = np.random.default_rng(0)
        ids, oods = rng.normal(1, 1, 500_000).astype(np.float32), rng.normal(size=500_000).astype(np.float32)
        metrics = ood_metrics(ids, oods)
        assert metrics.auroc == auroc(ids[::-1], oods)
        assert metrics.auroc == pytest.approx(scipy.stats.norm.cdf(2**-0.5), abs=0.002)
        assert metrics.auroc_low < metrics.auroc < metrics.auroc_high < metrics.auroc_low + 0.003


class TestErrors:
    @pytest.mark.parametrize(
        ("ids", "oods", "message"),
        [
            ([], [1.0], "id_scores is empty"),
            ([1.0], [], "ood_scores is empty"),
            ([1.0, math.nan], [1.0], "id_scores has 1 NaN among 2"),
            ([1.0], [math.nan] * 3, "ood_scores has 3 NaN among 3"),
            ([[1.0]], [1.0], r"id_scores is one score an image: pass a 1-D array, not one of shape \(1, 1\)"),
        ],
    )
    def test_says_which_array(self, ids: Any, oods: Any, message: str) -> None:
        for metric in (auroc, average_precision, fpr_at_id_tpr, fpr_at_ood_tpr, ood_metrics, auroc_interval):
            with pytest.raises(NormgateError, match=message):
                metric(ids, oods)

    def test_names_the_set_of_a_mean_and_the_score_of_a_pair(self) -> None:
        with pytest.raises(MetricError, match=r"ood_scores\['near'\] has 1 NaN"):
            mean_auroc([1.0], {"far": [0.0], "near": [math.nan]})
        with pytest.raises(MetricError, match="at least one OoD set"):
            mean_auroc([1.0], {})
        with pytest.raises(MetricError, match="ood_b is empty"):
            paired_auroc_difference([1.0], [0.0], [1.0], [])
        with pytest.raises(MetricError, match="the same images"):
            paired_auroc_difference([1.0], [0.0], [1.0, 2.0], [0.0])

    def test_refuses_impossible_arguments(self) -> None:
        with pytest.raises(MetricError, match="positive is 'id' or 'ood'"):
            average_precision([1.0], [0.0], positive="ID")  # type: ignore[arg-type]
        for positive in (None, ["id"], np.array(["id", "ood"])):
            with pytest.raises(MetricError, match="positive is 'id' or 'ood'"):
                average_precision([1.0], [0.0], positive=positive)  # type: ignore[arg-type]
        for tpr in (0.0, 95, math.nan, "0.95", None, [0.95], np.array([0.95]), 0.95j):
            for rate in (fpr_at_id_tpr, fpr_at_ood_tpr):
                with pytest.raises(MetricError, match="tpr, a true-positive rate"):
                    rate([1.0], [0.0], tpr)  # type: ignore[arg-type]
        for level in (0.0, 1.0, 95, 1 - 1e-16, 1e-17, math.nan, "a", None, [0.95]):
            for interval in (
                lambda level: ood_metrics([1.0], [0.0], level),
                lambda level: auroc_interval([1.0], [0.0], level),
                lambda level: mean_auroc([1.0], {"x": [0.0]}, level),
                lambda level: paired_auroc_difference([1.0], [0.0], [1.0], [0.0], level),
            ):
                with pytest.raises(MetricError, match="level, a confidence level"):
                    interval(level)

    def test_numbers_of_numpy_are_numbers(self) -> None:
        ids, oods = np.arange(20.0) + 5, np.arange(20.0)
        assert fpr_at_id_tpr(ids, oods, np.float32(0.5)) == fpr_at_id_tpr(ids, oods, 0.5)
        assert fpr_at_id_tpr(ids, oods, 1) == fpr_at_id_tpr(ids, oods, 1.0)
        assert auroc_interval(ids, oods, np.float64(0.9)) == auroc_interval(ids, oods, 0.9)

    @pytest.mark.parametrize("sets", [[[0.0], [1.0]], [], [0.0, 1.0], np.zeros(2), None, "ab"])
    def test_sets_have_names(self, sets: Any) -> None:
        with pytest.raises(MetricError, match="ood_scores holds the scores of OoD sets by name: pass a dict"):
            mean_auroc([1.0], sets)
        with pytest.raises(MetricError, match="ood_a holds the scores"):
            paired_mean_difference([1.0], sets, [1.0], {"x": [0.0]})
        with pytest.raises(MetricError, match="ood_b holds the scores"):
            paired_mean_difference([1.0], {"x": [0.0]}, [1.0], sets)

    def test_a_paired_mean_names_its_own_arguments(self) -> None:
        with pytest.raises(MetricError, match="id_b has 1 NaN"):
            paired_mean_difference([1.0], {"x": [0.0]}, [math.nan], {"x": [0.0]})
        with pytest.raises(MetricError, match=r"ood_a\['x'\] has 1 NaN"):
            paired_mean_difference([1.0], {"x": [math.nan]}, [1.0], {"x": [0.0]})
        with pytest.raises(MetricError, match="of the sets 1, score b of 2"):
            paired_mean_difference([1.0], {1: [0.0]}, [1.0], {2: [0.0]})  # type: ignore[dict-item]


class TestKindsOfNumbers:
    """What is not an array of floats is taken as it is or refused, and never changed."""

    def test_tensors_as_they_come_from_a_network(self) -> None:
        ids, oods = torch.tensor([1.0, 2.5, 3.0]), torch.tensor([0.5, 2.5])
        expected = ood_metrics(ids.numpy(), oods.numpy())
        assert ood_metrics(ids.requires_grad_(), oods.requires_grad_()) == expected
        for kind in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
            assert ood_metrics(ids.to(kind), oods.to(kind)) == expected
            assert paired_auroc_difference(ids.to(kind), oods.to(kind), ids, oods).difference == 0.0
        assert auroc(torch.tensor([1, 2, 3]), torch.tensor([2], dtype=torch.int8)) == 0.5
        weights = torch.tensor([1.0, 2.0, 1.0], requires_grad=True)
        assert aurc(ids, torch.tensor([True, False, False]), weights) == aurc(
            [1, 2.5, 3], [True, False, False], [1, 2, 1]
        )

    def test_bfloat16_is_exact(self) -> None:
        values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
        values = values[values.isfinite()]
        assert auroc(values, values.double()) == 0.5
        curve = risk_coverage(values, np.ones(len(values), dtype=bool))
        assert curve.thresholds.tolist() == sorted(set(values.tolist()), reverse=True)

    @pytest.mark.parametrize(
        ("scores", "message"),
        [
            ("ab", "ood_scores holds text: convert it"),
            (["1", "2"], "ood_scores holds text"),
            ([b"1"], "ood_scores holds text"),
            (np.array(["1", 2.0], dtype=object), "ood_scores holds a value of type str"),
            ([1.0, "2"], "ood_scores holds text"),
            ([[1.0], [1.0, 2.0]], "ood_scores is no array: pass a flat list"),
            ([torch.ones(1, requires_grad=True)[0]], "ood_scores is no array"),
            (torch.ones(2).to_sparse(), "ood_scores is no array: .* dense tensor"),
            ({"a": 1.0}, "ood_scores holds a value of type dict"),
            (3.0, "ood_scores is one score an image: pass a 1-D array, not a single value"),
            (None, "ood_scores is one score an image"),
            ([1 + 2j], "ood_scores holds complex numbers"),
            (torch.tensor([1 + 2j]), "ood_scores holds complex numbers"),
            (np.array([1j], dtype=object), "ood_scores holds a value of type complex"),
            (np.array(["2020-01-01"], dtype="M8[D]"), "ood_scores holds dates"),
            (np.array([1], dtype="m8[s]"), "ood_scores holds durations"),
            ([dt.datetime(2020, 1, 1)], "ood_scores holds a value of type datetime"),
            (np.zeros(1, dtype="i4,i4"), "ood_scores holds .*: pass one number an image"),
            ([2**53 + 1], r"ood_scores has integers beyond 2\*\*53"),
            ([1, -(2**53) - 1], r"ood_scores has integers beyond 2\*\*53"),
            (np.array([2**64 - 1], dtype=np.uint64), r"ood_scores has integers beyond 2\*\*53"),
            (np.array([-(2**63)]), r"ood_scores has integers beyond 2\*\*53"),
            ([10**30, 1], r"ood_scores has integers beyond 2\*\*53"),
            ([10**400, 1], r"ood_scores has integers beyond 2\*\*53"),
            (np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]), "ood_scores masks 1 of 3 values"),
        ],
    )
    @pytest.mark.filterwarnings("error")
    def test_what_would_be_changed_is_refused(self, scores: Any, message: str) -> None:
        for metric in (auroc, average_precision, fpr_at_id_tpr, fpr_at_ood_tpr, ood_metrics, auroc_interval):
            with pytest.raises(MetricError, match=message):
                metric([1.0], scores)

    def test_what_is_exact_is_taken(self) -> None:
        assert auroc([2**53], [2**53 - 1]) == 1.0
        assert auroc(np.array([-(2**53)]), np.array([1 - 2**53])) == 0.0
        assert auroc(np.uint64([2, 3]), np.int8([2])) == 0.75
        assert auroc([True, False], np.array([True])) == 0.25
        assert auroc(range(3), np.array([1, 0.5], dtype=object)) == auroc([0.0, 1, 2], [1, 0.5])
        assert auroc(np.ma.array([1.0, 2.0]), np.ma.array([1.0], mask=[0])) == 0.75
        one = np.longdouble(1)
        assert auroc([one + np.finfo(np.longdouble).eps], [one]) == 1.0

    def test_so_are_flags_and_weights(self) -> None:
        with pytest.raises(MetricError, match="wrong masks 1 of 2 values"):
            aurc([1.0, 2.0], np.ma.array([True, False], mask=[1, 0]))
        with pytest.raises(MetricError, match="wrong is no array"):
            aurc([1.0, 2.0], [[True], [True, False]])
        with pytest.raises(MetricError, match="weights holds complex numbers"):
            aurc([1.0, 2.0], [True, False], [1.0, 1j])
        with pytest.raises(MetricError, match="weights holds text"):
            aurc([1.0, 2.0], [True, False], ["a", "b"])
        with pytest.raises(MetricError, match="id_wrong is a 1-D array of bool"):
            open_set_risk_coverage([1.0], [2.0], "a")


def brute_placements(ids: np.ndarray, oods: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wins = (ids[:, None] > oods) + 0.5 * (ids[:, None] == oods)
    return wins.mean(1), wins.mean(0)


def brute_freedom(parts: list[tuple[np.ndarray, float]]) -> float:
    """Satterthwaite's degrees of freedom of Σ w² S/N, with the fourth moments of the values."""
    variance = sum(weight**2 * values.var(ddof=1) / len(values) for values, weight in parts)
    spread = 0.0
    for values, weight in parts:
        n, square = len(values), values.var(ddof=1)
        fourth = np.mean((values - values.mean()) ** 4)
        spread += weight**4 * (fourth - square**2 * (n - 3) / (n - 1)) / n**3
    return float(min(2 * variance**2 / spread, sum(len(values) for values, _ in parts) - len(parts)))


def brute_covariance(ids: np.ndarray, oods: np.ndarray) -> np.ndarray:
    """DeLong's covariance of several scores (rows) of the same images, as the paper has it, in O(mn)."""
    pairs = [brute_placements(i, o) for i, o in zip(ids, oods, strict=True)]
    v10, v01 = (np.atleast_2d(np.cov(np.stack(v))) for v in zip(*pairs, strict=True))
    return v10 / ids.shape[1] + v01 / oods.shape[1]


def score_low(auc: float, m: int, n: int, level: float) -> float:
    """The root of (A − θ)² = z² V(θ), with Hanley and McNeil's variance in their own terms, the larger of two."""
    z = NormalDist().inv_cdf((1 + level) / 2)

    def excess(theta: float) -> float:
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
        pairs = max(
            theta * (1 - theta) + (a - 1) * (q1 - theta**2) + (b - 1) * (q2 - theta**2) for a, b in ((m, n), (n, m))
        )
        return (auc - theta) ** 2 - z**2 * pairs / (m * n)

    return float(scipy.optimize.brentq(excess, 1e-9, auc - 1e-9))


def with_strays(rng: np.random.Generator, auc: float, m: int, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of that AUROC, but for a share of the smaller set that is like the other."""
    shift = math.sqrt(2) * NormalDist().inv_cdf(auc)
    ids, oods = rng.normal(shift, 1, m), rng.normal(size=n)
    (ids if m < n else oods)[rng.random(min(m, n)) < share] += -shift if m < n else shift
    return ids, oods


class TestInterval:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 60), st.sampled_from([1, 3, 100]))
    def test_variance_is_delongs(self, seed: int, m: int, n: int, levels: int) -> None:
        rng = np.random.default_rng(seed)
        ids, oods = np.round(rng.normal(1, 1, m) * levels), np.round(rng.normal(size=n) * levels)
        expected = float(brute_covariance(ids[None], oods[None])[0, 0])
        ones = np.ones(m, dtype=np.int64), np.ones(n, dtype=np.int64)
        assert delong_variance(*brute_placements(ids, oods), *ones).value == pytest.approx(expected, abs=1e-15)
        assert delong_variance(*brute_placements(ids, oods), *ones).known <= (min(m, n) >= 10)
        # On the logit scale it is symmetric, and as wide as that variance and Student's t make it; where that hangs
        # on few images, at least as wide.
        estimate = auroc_interval(ids, oods)
        freedom = delong_variance(*brute_placements(ids, oods), *ones).freedom
        assume(freedom >= 3)
        logit = scipy.special.logit(estimate)
        slope = estimate.value * (1 - estimate.value)
        reach = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(expected) / slope
        if freedom >= 5 * math.sqrt(max(m, n) / min(m, n)):
            assert logit[2] - logit[0] == pytest.approx(reach, rel=2e-3)
            assert logit[0] - logit[1] == pytest.approx(reach, rel=2e-3)
        else:
            assert min(logit[2] - logit[0], logit[0] - logit[1]) >= reach * 0.998
            assert estimate.low <= score_low(estimate.value, m, n, 0.95) + 1e-9

    def test_degrees_of_freedom_predict_the_spread_of_the_variance(self) -> None:
        rng = np.random.default_rng(0)
        values, freedoms = [], []
        for _ in range(1000):
            variance = delong_variance(
                *brute_placements(rng.normal(1, 1, 80), rng.normal(size=120)),
                np.ones(80, dtype=np.int64),
                np.ones(120, dtype=np.int64),
            )
            values.append(variance.value)
            freedoms.append(variance.freedom)
        assert np.median(freedoms) == pytest.approx(2 * np.mean(values) ** 2 / np.var(values), rel=0.4)

    def test_perfect_separation_is_not_certainty(self) -> None:
        estimate = auroc_interval(np.arange(50) + 100, np.arange(50))
        assert estimate.value == estimate.high == 1.0
        assert 0.9 < estimate.low < 1.0
        mirrored = auroc_interval(np.arange(50), np.arange(50) + 100)
        assert mirrored == pytest.approx((0.0, 0.0, 1 - estimate.low), abs=1e-15)

    @pytest.mark.parametrize(("m", "n"), [(50, 50), (10, 10), (10, 40), (300, 20)])
    @pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
    def test_separated_sets_get_the_score_interval(self, m: int, n: int, level: float) -> None:
        low = score_low(1.0, m, n, level)
        assert auroc_interval(np.ones(m), np.zeros(n), level) == pytest.approx((1.0, low, 1.0), abs=1e-9)

    def test_a_small_separated_set_proves_no_more_than_its_size(self) -> None:
        # 50 images that all rank below: up to 7.1 % (97.5 % limit) may be like the others, which costs half of that.
        for m, n in ((2000, 50), (50, 2000)):
            low = auroc_interval(np.ones(m), np.zeros(n)).low
            assert low == pytest.approx((1 + 0.025 ** (1 / 50)) / 2, abs=0.005)
        lows = [auroc_interval(np.ones(m), np.zeros(50)).low for m in (1, 10, 50, 200, 10_000)]
        assert lows == sorted(lows)

    def test_so_do_sets_with_a_single_stray(self) -> None:
        ids, oods = np.append(np.arange(49.0) + 100, -1), np.arange(50.0)
        assert auroc_interval(ids, oods).low == pytest.approx(score_low(0.98, 50, 50, 0.95), abs=1e-9)
        many_strays = np.append(ids, np.full(9, -2.0))
        firm = auroc_interval(many_strays, oods)
        assert firm.low != pytest.approx(score_low(firm.value, 59, 50, 0.95), abs=1e-2)

    @settings(deadline=None)
    @given(SAMPLES, st.sampled_from([0.5, 0.95, 0.999]))
    def test_is_a_proper_interval(self, samples: tuple[list[float], list[float]], level: float) -> None:
        value, low, high = auroc_interval(*samples, level)
        assert 0 <= low <= value <= high <= 1
        assert low < high
        assert low < value or value == 0
        assert high > value or value == 1

    @pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 400), (5, 400), (400, 9), (9, 9)])
    @pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
    def test_few_separated_images_get_the_binomial_limit(self, m: int, n: int, level: float) -> None:
        low = ((1 - level) / 2) ** (1 / min(m, n))  # Clopper and Pearson's
        assert auroc_interval(np.ones(m), np.zeros(n), level) == pytest.approx((1.0, low, 1.0), abs=1e-12)
        assert auroc_interval(np.zeros(m), np.ones(n), level) == pytest.approx((0.0, 0.0, 1 - low), abs=1e-12)

    @pytest.mark.parametrize("images", [1, 2, 3, 5, 9])
    @pytest.mark.parametrize("level", [0.5, 0.95])
    def test_the_limits_of_few_images_hold_for_every_binomial(self, images: int, level: float) -> None:
        # Of all values in [0, 1], zeros and ones are spread the most. Coverage is exact here, a sum of few terms.
        limits = [bounded_limits(hits / images, images, level) for hits in range(images + 1)]
        for share in np.linspace(0, 1, 501):
            inside = [hits for hits, (low, high) in enumerate(limits) if low <= share <= high]
            assert scipy.stats.binom.pmf(inside, images, share).sum() >= level

    @pytest.mark.parametrize("auc", [0.5, 0.8, 0.95])
    @pytest.mark.parametrize("n", [1, 2, 3, 5])
    def test_coverage_with_few_images(self, auc: float, n: int) -> None:
        rng = np.random.default_rng(0)
        shift = math.sqrt(2) * NormalDist().inv_cdf(auc)
        for swapped in (False, True):
            normal = two_kinds = 0
            for _ in range(200):
                ids, oods = rng.normal(shift, 1, 400), rng.normal(size=n)
                apart = np.where(rng.random(n) < auc, -99.0, 99.0)  # such outliers rank last or first of all
                pairs = [(-oods, -ids), (-apart, -ids)] if swapped else [(ids, oods), (ids, apart)]
                (_, low, high), (_, low_apart, high_apart) = (auroc_interval(*pair) for pair in pairs)
                normal += low <= auc <= high
                two_kinds += low_apart <= auc <= high_apart
            assert min(normal, two_kinds) >= 190

    @pytest.mark.parametrize(
        ("ids", "oods"), [([2.0], [1.0]), ([1.0], [1.0]), ([1.0], [0.0, 2.0]), ([0.0, 2.0], [1.0])]
    )
    def test_one_image_in_a_set_is_enough(self, ids: list[float], oods: list[float]) -> None:
        value, low, high = auroc_interval(ids, oods)
        assert value == brute_auroc(ids, oods)
        assert high - low > 0.7

    @pytest.mark.parametrize(("auc", "m", "n"), [(0.99, 100, 100), (0.9, 100, 100), (0.95, 60, 200), (0.7, 50, 50)])
    def test_coverage(self, auc: float, m: int, n: int) -> None:
        rng = np.random.default_rng(0)
        shift = math.sqrt(2) * NormalDist().inv_cdf(auc)
        intervals = [auroc_interval(rng.normal(shift, 1, m), rng.normal(size=n)) for _ in range(2000)]
        assert 0.93 <= np.mean([low <= auc <= high for _, low, high in intervals]) <= 0.975

    @pytest.mark.parametrize(
        ("auc", "m", "n", "share"),
        [
            (0.99, 2000, 20, 0.0),
            (0.99, 20, 2000, 0.0),
            (0.97, 2000, 20, 0.0),
            (0.9999, 2000, 20, 0.1),
            (0.9999, 2000, 50, 0.04),
            (0.9999, 50, 2000, 0.04),
        ],
    )
    def test_coverage_where_one_set_is_small(self, auc: float, m: int, n: int, share: float) -> None:
        rng = np.random.default_rng(0)
        truth = (1 - share) * auc + share / 2
        intervals = [auroc_interval(*with_strays(rng, auc, m, n, share)) for _ in range(1000)]
        assert np.mean([low <= truth <= high for _, low, high in intervals]) >= 0.93
        # Nor is it merely wide: half as wide as what a share of so few images has.
        assert np.median([high - low for _, low, high in intervals]) < 1 - 0.025 ** (1 / min(m, n))


class TestPairedDifference:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**6), st.integers(60, 90), st.integers(60, 90))
    def test_is_delongs_test(self, seed: int, m: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        ids, oods = rng.normal(0.7, 1, (2, m)), rng.normal(size=(2, n))
        ids[1] += ids[0]
        result = paired_auroc_difference(ids[0], oods[0], ids[1], oods[1])
        covariance = brute_covariance(ids, oods)
        error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        difference = brute_auroc(ids[0], oods[0]) - brute_auroc(ids[1], oods[1])
        pairs = [brute_placements(ids[score], oods[score]) for score in range(2)]
        freedom = brute_freedom([(pairs[0][0] - pairs[1][0], 1.0), (pairs[0][1] - pairs[1][1], 1.0)])
        assume(freedom > 5 * math.sqrt(max(m, n) / min(m, n)))
        reach = scipy.stats.t.ppf(0.975, freedom) * error
        assert result.difference == pytest.approx(difference, abs=1e-12)
        # At least as far as Student's, and hardly farther in the middle of the scale.
        assert max(difference - 1.3 * reach, -1) <= result.low <= difference - 0.997 * reach
        assert difference + 0.997 * reach <= result.high <= min(difference + 1.3 * reach, 1)
        least = 2 * scipy.stats.norm.sf(1.959964 * abs(difference) / (0.997 * reach))
        assert least - 1e-9 <= result.p_value <= 2 * scipy.stats.norm.sf(1.959964 * abs(difference) / (1.3 * reach))

    @pytest.mark.parametrize(
        ("m", "n", "auc_a", "auc_b", "rho"),
        [
            (1000, 20, 0.99, 0.97, 0.9),
            (50, 50, 0.995, 0.98, 0.7),
            (30, 30, 0.99, 0.97, 0.7),
            (20, 1000, 0.99, 0.987, 0.99),
            (1000, 10, 0.9, 0.9, 0.5),
            (100, 100, 0.95, 0.9, 0.9),
        ],
    )
    def test_coverage_where_one_set_is_small(self, m: int, n: int, auc_a: float, auc_b: float, rho: float) -> None:
        rng = np.random.default_rng(0)
        shifts = [math.sqrt(2) * NormalDist().inv_cdf(auc) for auc in (auc_a, auc_b)]

        def drawn(size: int) -> np.ndarray:
            shared, own = rng.normal(size=size), rng.normal(size=(2, size))
            return math.sqrt(rho) * shared + math.sqrt(1 - rho) * own

        hits = 0
        for _ in range(200):
            ids, oods = drawn(m), drawn(n)
            found = paired_auroc_difference(ids[0] + shifts[0], oods[0], ids[1] + shifts[1], oods[1])
            hits += found.low <= auc_a - auc_b <= found.high
        assert hits >= 184  # of 200; 190 are expected at 95 %

    def test_swapping_the_scores_swaps_the_signs(self) -> None:
        rng = np.random.default_rng(0)
        a, b = (rng.normal(1, 1, 30), rng.normal(size=20)), (rng.normal(2, 1, 30), rng.normal(size=20))
        there, back = paired_auroc_difference(*a, *b), paired_auroc_difference(*b, *a)
        assert there == pytest.approx((-back.difference, -back.high, -back.low, back.p_value))

    def test_the_same_ranking_differs_by_nothing(self) -> None:
        rng = np.random.default_rng(0)
        ids, oods = rng.normal(1, 1, 30), rng.normal(size=20)
        assert paired_auroc_difference(ids, oods, np.exp(ids), np.exp(oods)) == (0.0, 0.0, 0.0, 1.0)

    def test_two_perfect_scores_may_still_differ(self) -> None:
        rng = np.random.default_rng(0)
        ids, oods = np.arange(50.0) + 100, np.arange(50.0)
        result = paired_auroc_difference(ids, oods, rng.permutation(ids), rng.permutation(oods))
        low = auroc_interval(ids, oods).low
        assert result == pytest.approx((0.0, low - 1, 1 - low, 1.0))

    def test_few_images_prove_little(self) -> None:
        perfect_against_inverted = paired_auroc_difference([1.0], [0.0], [0.0], [1.0])
        assert perfect_against_inverted.difference == 1.0
        assert perfect_against_inverted.low < 0
        assert perfect_against_inverted.p_value > 0.05
        many = paired_auroc_difference(np.ones(40), np.zeros(40), np.zeros(40), np.ones(40))
        assert many.low > 0.8
        assert many.p_value < 1e-6

    @pytest.mark.parametrize("images", [10, 11, 20])
    def test_images_that_are_all_alike_prove_no_more_than_a_sign_test(self, images: int) -> None:
        known = np.arange(400.0)
        found = paired_auroc_difference(known, np.full(images, -1.0), known, np.full(images, 500.0))
        assert found.difference == 1
        assert found.p_value == pytest.approx(2 * 0.5**images)

    def test_one_image_proves_nothing(self) -> None:
        scores = np.arange(400.0)
        for found in (
            paired_auroc_difference(scores, [-1.0], scores, [500.0]),
            paired_auroc_difference([500.0], scores, [-1.0], scores),
        ):
            assert found == pytest.approx((1.0, -0.95, 1.0, 1.0))
        assert paired_auroc_difference(scores, [7.5], scores, [7.5]).low < -0.9

    @pytest.mark.parametrize("n", range(1, 10))
    def test_few_images_prove_what_a_coin_would(self, n: int) -> None:
        found = paired_auroc_difference(np.arange(400.0), np.full(n, -1.0), np.arange(400.0), np.full(n, 500.0))
        assert found.p_value == pytest.approx(2 * 0.5**n)  # so many heads or tails
        assert found.low == pytest.approx(2 * 0.025 ** (1 / n) - 1)
        assert (found.low > 0) == (found.p_value < 0.05)

    @pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
    def test_limits_and_p_value_of_few_images_agree(self, level: float) -> None:
        for images, mean in itertools.product(range(1, 10), np.linspace(0, 1, 61).tolist()):
            low, high = bounded_limits(mean, images, level)
            assert 0 <= low <= mean <= high <= 1
            assert (low <= 0.5 <= high) == (bounded_p_value(mean, images) >= 1 - level)

    @pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 10])
    @pytest.mark.parametrize("scores", ["normal", "two kinds", "opposed"])
    def test_false_alarms_with_few_images(self, n: int, scores: str) -> None:
        rng = np.random.default_rng(0)
        left_out = alarms = 0
        for _ in range(200):
            ids, oods = rng.normal(size=(2, 400)), rng.normal(size=(2, n))
            if scores != "normal":
                oods = 99.0 * np.sign(oods)
            if scores == "opposed":
                oods[1] = -oods[0]
            found = paired_auroc_difference(ids[0], oods[0], ids[1], oods[1])
            left_out += not found.low <= 0 <= found.high
            alarms += found.p_value < 0.05
        assert max(left_out, alarms) <= 18  # of 200; 10 are allowed on average

    def test_false_alarms_and_power(self) -> None:
        rng = np.random.default_rng(0)

        def p_value(gain: float) -> float:
            shared_id, shared_ood = rng.normal(1.5, 1, 100), rng.normal(size=100)
            noise = rng.normal(size=(4, 100)) * 0.5
            return paired_auroc_difference(
                shared_id + noise[0] + gain,
                shared_ood + noise[1],
                shared_id + noise[2],
                shared_ood + noise[3],
            ).p_value

        assert 0.03 < np.mean([p_value(0) < 0.05 for _ in range(1000)]) < 0.07
        assert np.mean([p_value(0.6) < 0.05 for _ in range(100)]) > 0.9


class TestPairedMean:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**6), st.integers(60, 90), st.integers(60, 90), st.integers(60, 90))
    def test_has_the_joint_covariance(self, seed: int, m: int, n1: int, n2: int) -> None:
        rng = np.random.default_rng(seed)
        ids, oods = rng.normal(0.7, 1, (2, m)), {"x": rng.normal(size=(2, n1)), "y": rng.normal(-0.5, 1, (2, n2))}
        ids[1] += ids[0]
        a, b = ({name: values[score] for name, values in oods.items()} for score in range(2))
        result = paired_mean_difference(ids[0], a, ids[1], b)
        # DeLong's matrix over the four AUROCs (set, score), with the contrast (½, −½, ½, −½).
        pairs = [brute_placements(ids[score], oods[name][score]) for name in oods for score in range(2)]
        covariance = np.cov(np.stack([v10 for v10, _ in pairs])) / m
        for i in (0, 2):
            covariance[i : i + 2, i : i + 2] += np.cov(np.stack([pairs[i][1], pairs[i + 1][1]])) / len(pairs[i][1])
        contrast = np.array([0.5, -0.5, 0.5, -0.5])
        error = math.sqrt(contrast @ covariance @ contrast)
        difference = float(contrast @ [v10.mean() for v10, _ in pairs])
        shared = np.mean([pairs[0][0] - pairs[1][0], pairs[2][0] - pairs[3][0]], axis=0)
        own = [(pairs[i][1] - pairs[i + 1][1], 0.5) for i in (0, 2)]
        freedom = brute_freedom([(shared, 1.0), *own])
        assume(freedom > 5 * math.sqrt(max(m, n1, n2) / min(m, n1, n2)))
        reach = scipy.stats.t.ppf(0.975, freedom) * error
        assert result.difference == pytest.approx(difference, abs=1e-12)
        assert max(difference - 1.3 * reach, -1) <= result.low <= difference - 0.997 * reach
        assert difference + 0.997 * reach <= result.high <= min(difference + 1.3 * reach, 1)

    def test_one_set_is_the_paired_difference(self) -> None:
        rng = np.random.default_rng(0)
        for m in (1, 2, 30):
            ids, oods = rng.normal(1, 1, (2, m)), rng.normal(size=(2, 20))
            mean = paired_mean_difference(ids[0], {"x": oods[0]}, ids[1], {"x": oods[1]})
            assert mean == paired_auroc_difference(ids[0], oods[0], ids[1], oods[1])

    def test_false_alarms(self) -> None:
        rng = np.random.default_rng(0)

        def p_value() -> float:
            ids, oods = rng.normal(1.5, 1, 80), {"x": rng.normal(size=60), "y": rng.normal(-1, 1, 90)}
            return paired_mean_difference(
                ids + 0.5 * rng.normal(size=80),
                {name: values + 0.5 * rng.normal(size=len(values)) for name, values in oods.items()},
                ids + 0.5 * rng.normal(size=80),
                {name: values + 0.5 * rng.normal(size=len(values)) for name, values in oods.items()},
            ).p_value

        assert 0.03 < np.mean([p_value() < 0.05 for _ in range(1000)]) < 0.07

    def test_holds_where_one_set_is_small(self) -> None:
        rng = np.random.default_rng(0)
        ids = rng.normal(size=(2, 50))
        a, b = {"x": np.full(50, -9.0), "y": [-9.0]}, {"x": np.full(50, 9.0), "y": [9.0]}
        assert paired_mean_difference(ids[0], a, ids[1], b) == pytest.approx((1.0, -0.95, 1.0, 1.0))

    def test_needs_the_same_images(self) -> None:
        with pytest.raises(MetricError, match="the same images"):
            paired_mean_difference([1.0], {"x": [0.0]}, [1.0], {"x": [0.0, 1.0]})
        with pytest.raises(MetricError, match="the same images"):
            paired_mean_difference([1.0], {"x": [0.0]}, [1.0], {"y": [0.0]})
        with pytest.raises(MetricError, match="at least one OoD set"):
            paired_mean_difference([1.0], {}, [1.0], {})


class TestDifferenceOverSeeds:
    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.tuples(*[st.integers(0, 1000).map(lambda n: n / 1000)] * 2), min_size=2, max_size=40),
        st.sampled_from([0.5, 0.9, 0.95, 0.999]),
    )
    def test_is_the_paired_t_test(self, pairs: list[tuple[float, float]], level: float) -> None:
        a, b = map(list, zip(*pairs, strict=True))
        assume(len({round(1000 * (x - y)) for x, y in pairs}) > 1)
        found, scipys = paired_difference_over_seeds(a, b, level), scipy.stats.ttest_rel(a, b)
        low, high = scipys.confidence_interval(level)
        assert found.difference == pytest.approx(np.mean(a) - np.mean(b), abs=1e-12)
        assert (found.low, found.high) == pytest.approx((max(low, -1), min(high, 1)), rel=1e-9, abs=1e-12)
        assert found.p_value == pytest.approx(scipys.pvalue, abs=1e-12)
        turned = paired_difference_over_seeds(b, a, level)
        assert turned == pytest.approx((-found.difference, -found.high, -found.low, found.p_value), abs=1e-12)

    def test_few_seeds_and_equal_differences(self) -> None:
        assert paired_difference_over_seeds([0.75], torch.tensor([0.5])) == (0.25, -1, 1, 1)
        assert paired_difference_over_seeds([0.75, 0.5], [0.5, 0.25]) == (0.25, -1, 1, 1)
        assert paired_difference_over_seeds([0.9, 0.8], [0.8, 0.7]) == (pytest.approx(0.1), -1, 1, 1)
        assert paired_difference_over_seeds([1, 1, 1], [1, 1, 1]) == (0, -1, 1, 1)
        assert paired_difference_over_seeds([1.0, 0.0], [0.0, 1.0]) == (0, -1, 1, pytest.approx(1))

    def test_input(self) -> None:
        for strange, said in (([0.9, 87.6], "a holds 87.6"), ([math.nan], "a holds nan"), ([-0.1], "a holds -0.1")):
            with pytest.raises(MetricError, match=f"{said}, which is no AUROC: pass shares from 0 to 1"):
                paired_difference_over_seeds(strange, [0.5])
        with pytest.raises(MetricError, match="a is of 2 seeds and b of 1"):
            paired_difference_over_seeds([0.9, 0.8], [0.5])
        for shape in ([], [[0.5]], 0.5):
            with pytest.raises(MetricError, match="b is one AUROC a seed: pass a flat list"):
                paired_difference_over_seeds([0.5], shape)  # type: ignore[arg-type]
        with pytest.raises(MetricError, match="between 0 and 1"):
            paired_difference_over_seeds([0.5], [0.5], 95)


class TestMean:
    def test_one_set_is_its_own_mean(self) -> None:
        rng = np.random.default_rng(0)
        for ids, oods in (
            (rng.normal(1, 1, 30), rng.normal(size=20)),
            ([1.0], [0.0]),
            ([1.0, 2.0], [0.0, 1.5]),
        ):
            assert mean_auroc(ids, {"a": oods}) == pytest.approx(auroc_interval(ids, oods))

    def test_is_the_mean_over_sets_and_not_over_images(self) -> None:
        assert mean_auroc([1.0, 1.0], {"small": [0.0], "large": [2.0] * 99}).value == 0.5

    def test_few_images_in_every_set_tell_no_more_than_their_limits(self) -> None:
        mean = mean_auroc(np.arange(400.0), {"x": [-1.0] * 3, "y": [-2.0] * 5})
        assert mean == pytest.approx((1.0, (0.025 ** (1 / 3) + 0.025 ** (1 / 5)) / 2, 1.0))

    def test_the_same_set_twice_tells_no_more(self) -> None:
        rng = np.random.default_rng(0)
        ids, oods = rng.normal(1, 1, 400), rng.normal(size=10_000)
        once, twice = mean_auroc(ids, {"a": oods}), mean_auroc(ids, {"a": oods, "b": rng.normal(size=10_000)})
        # Nearly all uncertainty is in the few ID images, which both sets share.
        assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.05)

    def test_perfect_sets_keep_a_width(self) -> None:
        ids = np.arange(50.0) + 100
        mean = mean_auroc(ids, {"a": np.arange(50.0), "b": np.arange(50.0) + 7})
        assert mean == pytest.approx(auroc_interval(ids, np.arange(50.0)))
        mixed = mean_auroc(ids, {"a": np.arange(50.0), "b": np.arange(50.0) * 3})
        assert mixed.low < mixed.value < mixed.high < 1

    @pytest.mark.parametrize("aucs", [(0.9, 0.8), (0.99, 0.97, 0.9)])
    def test_coverage(self, aucs: tuple[float, ...]) -> None:
        rng = np.random.default_rng(0)
        shifts = [math.sqrt(2) * NormalDist().inv_cdf(auc) for auc in aucs]
        truth, hits = float(np.mean(aucs)), []
        for _ in range(1000):
            ids = rng.normal(size=60)
            _, low, high = mean_auroc(ids, {str(s): rng.normal(-s, 1, 80) for s in shifts})
            hits.append(low <= truth <= high)
        assert 0.93 <= np.mean(hits) <= 0.98


def brute_aurc(scores: Any, wrong: Any) -> float:
    """The mean over all orders that the scores allow of the mean risk over coverages."""
    areas = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            errors = np.array([wrong[i] for i in order])
            areas.append((np.cumsum(errors) / np.arange(1, len(errors) + 1)).mean())
    return float(np.mean(areas))


class TestSelective:
    @settings(max_examples=80, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
    def test_aurc_is_the_expectation_over_ties(self, images: list[tuple[int, bool]]) -> None:
        scores, wrong = zip(*images, strict=True)
        assert aurc(scores, wrong) == pytest.approx(brute_aurc(scores, wrong), abs=1e-12)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(1, 4)), min_size=1, max_size=20))
    def test_the_curve_counts_what_each_threshold_accepts(self, images: list[tuple[int, bool, int]]) -> None:
        scores, wrong, weights = (np.array(column) for column in zip(*images, strict=True))
        curve = risk_coverage(scores, wrong, weights)
        assert curve.thresholds.tolist() == sorted(set(scores.tolist()), reverse=True)
        for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
            accepted = scores >= threshold
            assert coverage == pytest.approx(weights[accepted].sum() / weights.sum())
            assert risk == pytest.approx((weights * wrong)[accepted].sum() / weights[accepted].sum())
        assert curve.coverage[-1] == 1.0

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(1, 4)), min_size=1, max_size=20),
        st.randoms(),
    )
    def test_order_and_scale_of_weights_change_nothing(self, images: list[tuple[int, bool, int]], random: Any) -> None:
        area = aurc(*map(np.array, zip(*images, strict=True)))
        scores, wrong, weights = map(np.array, zip(*random.sample(images, len(images)), strict=True))
        assert aurc(scores, wrong, weights * 0.3) == pytest.approx(area, abs=1e-12)

    def test_float32_weights_are_summed_in_float64(self) -> None:
        rng = np.random.default_rng(0)
        scores, wrong, weights = rng.normal(size=20_000), rng.random(20_000) < 0.2, rng.random(20_000, np.float32)
        assert aurc(scores, wrong, weights) == aurc(scores, wrong, weights.astype(np.float64))

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40), st.integers(1, 40))
    def test_the_risk_at_a_coverage_is_that_of_the_first_to_reach_it(
        self, images: list[tuple[int, bool]], part: int
    ) -> None:
        scores, wrong = (np.array(column) for column in zip(*images, strict=True))
        curve = risk_coverage(scores, wrong)
        taken = min(part, len(scores))
        accepted = scores >= np.sort(scores)[::-1][taken - 1]
        assert curve.at([taken / len(scores)]) == (pytest.approx(wrong[accepted].mean()),)
        assert curve.at([1e-9, 1.0]) == (curve.risk[0], curve.risk[-1])

    @pytest.mark.parametrize("coverages", [["a"], 0.5, None, [2.0], [-0.1], [math.nan], [[0.5]], [95]])
    def test_coverages_are_shares(self, coverages: Any) -> None:
        with pytest.raises(MetricError, match="coverages"):
            risk_coverage([1.0, 2.0], [True, False]).at(coverages)

    def test_oracles(self) -> None:
        assert aurc([3.0, 2.0, 1.0], [False, False, True]) == pytest.approx(1 / 9)
        assert aurc([1.0, 2.0, 3.0], [False, False, True]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
        assert aurc([5.0] * 4, [True, False, False, False]) == pytest.approx(0.25)
        assert aurc([math.inf, -math.inf], [False, True]) == 0.25
        assert aurc([1.0], [True], [7.0]) == 1.0

    def test_an_image_of_weight_two_is_like_two_images_in_the_curve(self) -> None:
        weighted = risk_coverage([3, 2, 1], [False, True, False], [1, 2, 1])
        repeated = risk_coverage([3, 2, 2, 1], [False, True, True, False])
        assert weighted.risk.tolist() == repeated.risk.tolist()
        assert weighted.coverage.tolist() == repeated.coverage.tolist()

    def test_outliers_weigh_as_much_as_id_images(self) -> None:
        rng = np.random.default_rng(0)
        ids, oods, wrong = rng.normal(1, 1, 300), rng.normal(size=40), rng.random(300) < 0.1
        curve = open_set_risk_coverage(ids, oods, wrong)
        assert curve.risk[-1] == pytest.approx((wrong.mean() + 1) / 2)
        weights = np.append(np.ones(300), np.full(40, 300 / 40))
        both = np.append(ids, oods), np.append(wrong, np.ones(40, dtype=bool))
        assert curve.aurc == aurc(*both, weights)
        outliers_alone = open_set_risk_coverage(ids, oods)
        assert outliers_alone.risk[-1] == pytest.approx(0.5)
        assert outliers_alone.aurc < curve.aurc

    def test_accuracy_among_accepted(self) -> None:
        correct, accepted = np.array([True, True, False, False]), np.array([True, True, True, False])
        assert accuracy_among_accepted(correct, accepted) == 2 / 3
        assert accuracy_among_accepted(correct, ~accepted & correct) is None

    def test_refuses_what_is_not_one_flag_or_weight_an_image(self) -> None:
        with pytest.raises(MetricError, match="wrong is a 1-D array of bool"):
            aurc([1.0, 2.0], [0.5, 1.0])
        with pytest.raises(MetricError, match="wrong has 1 values for 2 images"):
            aurc([1.0, 2.0], [True])
        with pytest.raises(MetricError, match="scores has 1 NaN"):
            aurc([1.0, math.nan], [True, False])
        with pytest.raises(MetricError, match="weights has 1 values for 2 images"):
            aurc([1.0, 2.0], [True, False], [1.0])
        for weights in ([1.0, 0.0], [1.0, -1.0], [1.0, math.inf]):
            with pytest.raises(MetricError, match="positive and finite"):
                aurc([1.0, 2.0], [True, False], weights)
        with pytest.raises(MetricError, match="correct has 1 values for 2 images"):
            accuracy_among_accepted([True], [True, False])
        with pytest.raises(MetricError, match="accepted is a 1-D array of bool"):
            accuracy_among_accepted([], [])


@pytest.mark.parametrize("share", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)])
def test_settings_are_numbers_of_any_kind(share: Any) -> None:
    known, unknown = np.arange(30.0), np.arange(30.0) - 10
    assert fpr_at_id_tpr(known, unknown, share) == fpr_at_id_tpr(known, unknown, 0.5)
    assert auroc_interval(known, unknown, share) == auroc_interval(known, unknown, 0.5)


def test_fractions_that_no_float_is_near_to() -> None:
    with pytest.raises(MetricError, match="id_scores holds what is no float"):
        auroc([Fraction(10**400)], [1.0])


def test_the_p_value_and_the_interval_agree_where_a_score_is_constant() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        m, n = rng.integers(10, 200), rng.integers(10, 31)
        shift = rng.choice([0.0, 0.5, 2.0, 50.0])
        found = paired_auroc_difference(rng.normal(shift, 1, m), rng.normal(0, 1, n), np.zeros(m), np.zeros(n))
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


LEVELS = (0.8, 0.9, 0.95, 0.99, 0.999)


def test_the_p_value_is_the_same_at_every_level_where_a_score_is_constant() -> None:
    found = [paired_auroc_difference([2.0] * 10, [1.0] * 10, [1.0] * 10, [1.0] * 10, level) for level in LEVELS]
    assert [part.p_value for part in found] == pytest.approx([found[0].p_value] * len(LEVELS), rel=1e-4)
    assert 2 * 0.5**10 <= found[0].p_value < 0.01
    assert [part.low > 0 for part in found] == [
        part.p_value < 1 - level for part, level in zip(found, LEVELS, strict=True)
    ]
