"""Thresholds, p-values and false-discovery control against exact counts, scipy and simulated draws."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normgate.calibration import (
    Calibration,
    CalibrationError,
    RankHistogram,
    benjamini_hochberg,
    expected_false_alarm_rate,
    false_alarm_band,
    false_alarm_spread,
    p_values,
    rank,
    smallest_n,
    smallest_p_value,
    threshold,
)
from normgate.errors import NormgateError

ALPHAS = st.floats(min_value=1e-4, max_value=1, exclude_max=True) | st.integers(1, 99).map(lambda i: i / 100)
TIED = st.lists(st.integers(-3, 3), min_size=1, max_size=40)
SCORES = TIED | st.lists(st.floats(allow_nan=False), min_size=1, max_size=40)


class TestRank:
    def test_the_product_that_floor_gets_wrong(self) -> None:
        assert math.floor(0.29 * 100) == 28
        assert rank(0.29, 99) == 29

    def test_is_the_largest_j_in_floating_point(self) -> None:
        for n in range(1, 120):
            for alpha in [i / 200 for i in range(1, 200)] + [j / (n + 1) for j in range(1, n + 1)]:
                allowed = [j for j in range(1, n + 2) if j / (n + 1) <= alpha]
                if allowed:
                    assert rank(alpha, n) == allowed[-1]
                else:
                    with pytest.raises(CalibrationError):
                        rank(alpha, n)

    def test_a_product_that_rounds_up(self) -> None:
        just_below = math.nextafter(9 / 11, 0)
        assert math.floor(just_below * 11) == 9
        assert rank(just_below, 10) == 8

    @pytest.mark.parametrize(("alpha", "needed"), [(0.05, 19), (0.01, 99), (0.1, 9), (1 / 3, 2), (0.5, 1), (0.999, 1)])
    def test_the_error_names_the_images_that_are_needed(self, alpha: float, needed: int) -> None:
        assert smallest_n(alpha) == needed
        assert rank(alpha, needed) >= 1
        if needed > 1:
            with pytest.raises(
                CalibrationError, match=rf"at least {needed} calibration images, and there are {needed - 1}:"
            ):
                rank(alpha, needed - 1)

    @settings(deadline=None)
    @given(ALPHAS)
    def test_smallest_n_is_the_smallest(self, alpha: float) -> None:
        n = smallest_n(alpha)
        assert n == math.ceil(1 / Fraction(alpha)) - 1 or 1 / (n + 1) == alpha
        assert rank(alpha, n) >= 1
        if n > 1:
            with pytest.raises(CalibrationError):
                rank(alpha, n - 1)

    def test_tiny_alpha_says_so_at_once(self) -> None:
        with pytest.raises(CalibrationError, match="needs at least"):
            rank(5e-324, 100)

    @pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5, math.nan, math.inf])
    def test_alpha_is_a_share(self, alpha: float) -> None:
        with pytest.raises(NormgateError, match="strictly between 0 and 1"):
            rank(alpha, 100)

    def test_a_float32_alpha_means_the_number_it_is(self) -> None:
        alpha = np.float32(0.29)  # below 0.29 by 1e-8
        assert rank(alpha, 99) == 28
        scores, calibration = np.arange(-1.0, 99.0), np.arange(99.0)
        assert ((p_values(scores, calibration) <= alpha) == (scores < threshold(calibration, alpha))).all()


class TestPValues:
    @settings(max_examples=500, deadline=None)
    @given(SCORES, SCORES, ALPHAS)
    def test_at_most_alpha_exactly_below_the_threshold(
        self, calibration: list[float], scores: list[float], alpha: float
    ) -> None:
        p = p_values(scores, calibration)
        assert ((p > 0) & (p <= 1)).all()
        n = len(calibration)
        if n >= smallest_n(alpha):
            assert ((p <= alpha) == (np.array(scores) < threshold(calibration, alpha))).all()
            assert ((p <= alpha) == ~Calibration(np.array(calibration), alpha).accepts(scores)).all()
        else:
            assert (p > alpha).all()

    def test_thousands_of_alphas_and_sizes(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(4000):
            n = int(rng.integers(1, 400))
            alpha = rng.choice(
                [rng.integers(1, n + 1) / (n + 1), rng.integers(1, 100) / 100, rng.uniform(0.001, 0.999)]
            )
            if n < smallest_n(alpha):
                continue
            calibration = rng.integers(0, rng.choice([5, 1000]), n).astype(np.float32)
            scores = np.append(calibration, [-1, 2000])
            assert ((p_values(scores, calibration) <= alpha) == (scores < threshold(calibration, alpha))).all()

    @settings(deadline=None)
    @given(SCORES, SCORES)
    def test_is_the_count(self, calibration: list[float], scores: list[float]) -> None:
        n = len(calibration)
        expected = [(1 + sum(c <= s for c in calibration)) / (n + 1) for s in scores]
        assert p_values(scores, calibration).tolist() == expected

    def test_extremes(self) -> None:
        p = p_values([-math.inf, 0, math.inf], [-1.0, 1.0, math.inf])
        assert p.tolist() == [smallest_p_value(3), 0.5, 1.0]
        assert p.dtype == np.float64

    def test_infinite_calibration_scores_keep_their_place(self) -> None:
        calibration = [-math.inf] * 5 + [0.0] * 94
        assert threshold(calibration, 0.05) == -math.inf
        assert p_values([-math.inf], calibration)[0] > 0.05

    def test_no_scores_to_judge(self) -> None:
        assert p_values([], [1.0]).shape == (0,)

    def test_nan_and_emptiness_are_errors(self) -> None:
        with pytest.raises(CalibrationError, match="2 of 3 calibration scores are NaN"):
            threshold([math.nan, 1.0, math.nan], 0.5)
        with pytest.raises(CalibrationError, match="1 of 1 scores are NaN"):
            p_values([math.nan], [1.0])
        with pytest.raises(CalibrationError, match="no calibration scores"):
            threshold([], 0.5)
        with pytest.raises(CalibrationError, match="1-D"):
            p_values([[1.0]], [1.0])

    def test_what_is_taken_for_numbers_is_what_metrics_take(self) -> None:
        known = np.arange(100.0)
        for same in (torch.arange(100.0, requires_grad=True), torch.arange(100.0).bfloat16(), known.tolist()):
            assert threshold(same, 0.05) == threshold(known, 0.05)
        for strange, said in (
            (np.ma.masked_less(known, 10), "calibration scores masks 10 of 100 values"),
            (known + 1j, "complex numbers"),
            (known.astype("datetime64[s]"), "dates"),
            (known.astype(str), "text"),
        ):
            with pytest.raises(CalibrationError, match=said):
                threshold(strange, 0.05)
            with pytest.raises(CalibrationError, match=said):
                Calibration(strange, 0.05)


class TestFalseAlarms:
    """10,000 draws of n calibration scores and one test score: rejections are binomial around k/(n+1)."""

    DRAWS = 10_000

    @pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
    @pytest.mark.parametrize("n", [99, 100, 101, 999])
    def test_coverage(self, alpha: float, n: int) -> None:
        rng = np.random.default_rng(0)
        scores = rng.standard_normal((self.DRAWS, n + 1), dtype=np.float32)
        test, calibration = scores[:, 0], scores[:, 1:]
        p = (1 + (calibration <= test[:, None]).sum(1)) / (n + 1)
        few = slice(0, 50)  # the definition above, and the code under test, on some of the draws
        assert [p_values(t[None], c)[0] for t, c in zip(test[few], calibration[few], strict=True)] == p[few].tolist()
        rejections = int((p <= alpha).sum())
        expected = expected_false_alarm_rate(alpha, n)
        low, high = scipy.stats.binom(self.DRAWS, expected).interval(0.999)
        assert low <= rejections <= high
        k = rank(alpha, n)
        limits = np.partition(calibration, k - 1, axis=1)[:, k - 1]
        assert int((test < limits).sum()) == rejections

    @pytest.mark.parametrize("levels", [2, 5, 30])
    def test_ties_only_lower_the_rate(self, levels: int) -> None:
        rng = np.random.default_rng(0)
        scores = rng.random((self.DRAWS, 101))
        tied = np.floor(scores * levels)
        for alpha in (0.05, 0.25):
            k = rank(alpha, 100)
            rejected = scores[:, 0] < np.partition(scores[:, 1:], k - 1, axis=1)[:, k - 1]
            rejected_tied = tied[:, 0] < np.partition(tied[:, 1:], k - 1, axis=1)[:, k - 1]
            assert (rejected_tied <= rejected).all()

    def test_expected_rate_is_not_alpha(self) -> None:
        assert expected_false_alarm_rate(0.05, 101) == 5 / 102
        assert expected_false_alarm_rate(0.05, 99) == 0.05


class TestBand:
    @pytest.mark.parametrize("level", [0.5, 0.9, 0.99, 0.999])
    @pytest.mark.parametrize(
        ("alpha", "n", "tests"),
        [(0.05, 100, 1000), (0.01, 99, 50), (0.1, 999, 10_000), (0.5, 1, 1), (0.9, 30, 77)],
    )
    def test_is_the_central_beta_binomial_interval(self, alpha: float, n: int, tests: int, level: float) -> None:
        k = rank(alpha, n)
        low, high = scipy.stats.betabinom(tests, k, n + 1 - k).interval(level)
        assert false_alarm_band(alpha, n, tests, level) == (low / tests, high / tests)

    def test_holds_many_images_without_losing_digits(self) -> None:
        k, n, tests = 500, 9999, 1_000_000
        low, high = false_alarm_band(0.05, n, tests)
        beta = scipy.stats.beta(k, n + 1 - k)  # the limit of many test images
        assert low == pytest.approx(beta.ppf(0.005), rel=2e-3)
        assert high == pytest.approx(beta.ppf(0.995), rel=2e-3)

    def test_holds_simulated_gates(self) -> None:
        rng = np.random.default_rng(0)
        n, tests, alpha = 60, 80, 0.1
        limits = np.sort(rng.random((4000, n)), axis=1)[:, rank(alpha, n) - 1]
        shares = (rng.random((4000, tests)) < limits[:, None]).mean(1)
        low, high = false_alarm_band(alpha, n, tests, 0.95)
        assert 0.94 < ((low <= shares) & (shares <= high)).mean() < 0.98

    def test_refuses_what_has_no_band(self) -> None:
        with pytest.raises(CalibrationError, match="test image"):
            false_alarm_band(0.05, 100, 0)
        with pytest.raises(CalibrationError, match="level"):
            false_alarm_band(0.05, 100, 10, level=99)
        with pytest.raises(CalibrationError, match="at least 19"):
            false_alarm_band(0.05, 18, 10)


class TestSpread:
    @given(st.floats(0.01, 0.6), st.integers(1, 3000), st.floats(0.5, 0.999))
    def test_is_the_central_beta_interval(self, alpha: float, n: int, level: float) -> None:
        if n < smallest_n(alpha):
            return
        k = rank(alpha, n)
        expected = scipy.stats.beta.ppf([(1 - level) / 2, (1 + level) / 2], k, n + 1 - k)
        np.testing.assert_allclose(false_alarm_spread(alpha, n, level), expected, atol=2e-9)

    def test_narrows_with_images(self) -> None:
        low, high = false_alarm_spread(0.05, 100_000)
        assert 0.0485 < low < 0.05 < high < 0.0515
        with pytest.raises(CalibrationError, match="at least 19"):
            false_alarm_spread(0.05, 18)
        with pytest.raises(CalibrationError, match="level of the spread"):
            false_alarm_spread(0.05, 100, 1)


class TestCalibration:
    def test_pooled(self) -> None:
        rng = np.random.default_rng(0)
        scores, new = rng.normal(size=200), rng.normal(size=50)
        calibration = Calibration(scores, 0.05)
        assert (calibration.n, calibration.sizes, calibration.by_class) == (200, (200,), False)
        assert calibration.thresholds.tolist() == [threshold(scores, 0.05)]
        assert calibration.expected_false_alarm_rate == expected_false_alarm_rate(0.05, 200)
        assert calibration.p_values(new).tolist() == p_values(new, scores).tolist()
        assert calibration.accepts(new).tolist() == (new >= threshold(scores, 0.05)).tolist()

    def test_too_few_images(self) -> None:
        with pytest.raises(CalibrationError, match="at least 19 calibration images, and there are 18"):
            Calibration(np.zeros(18), 0.05)

    def test_by_class_is_one_calibration_a_class(self) -> None:
        rng = np.random.default_rng(0)
        predicted = np.repeat([2, 0, 1], [120, 40, 60])
        scores = rng.normal(predicted * 10.0)
        new_predicted = rng.integers(0, 3, 500)
        new = rng.normal(new_predicted * 10.0, 3)
        calibration = Calibration(scores, 0.05, predicted, ("a", "b", "c"))
        assert calibration.sizes == (40, 60, 120)
        p, accepted = calibration.p_values(new, new_predicted), calibration.accepts(new, new_predicted)
        assert ((p <= 0.05) == ~accepted).all()
        for index in range(3):
            alone = Calibration(scores[predicted == index], 0.05)
            members = new_predicted == index
            assert calibration.thresholds[index] == alone.thresholds[0]
            assert p[members].tolist() == alone.p_values(new[members]).tolist()
            assert accepted[members].tolist() == alone.accepts(new[members]).tolist()
        assert calibration.expected_false_alarm_rate == pytest.approx((40 * 2 / 41 + 60 * 3 / 61 + 120 * 6 / 121) / 220)

    def test_keeps_the_rate_within_each_class(self) -> None:
        rng = np.random.default_rng(0)
        predicted = rng.integers(0, 2, 4000)
        new_predicted = rng.integers(0, 2, 40_000)
        calibration = Calibration(rng.normal(predicted * 3.0), 0.1, predicted, ("a", "b"))
        accepted = calibration.accepts(rng.normal(new_predicted * 3.0), new_predicted)
        for index, n in enumerate(calibration.sizes):
            members = new_predicted == index
            low, high = false_alarm_band(0.1, n, int(members.sum()), 0.999)
            assert low <= (~accepted[members]).mean() <= high

    def test_a_class_too_small_is_named(self) -> None:
        predicted = np.repeat([0, 1], [30, 12])
        with pytest.raises(CalibrationError, match=r"at least 19 .*'dog' has 12, 'eel' has 0: "):
            Calibration(np.zeros(42), 0.05, predicted, ("cat", "dog", "eel"))
        with pytest.raises(CalibrationError, match=r"'5' has 0 \(and 45 more\)"):
            Calibration(np.zeros(42), 0.05, predicted * 0, tuple(str(i) for i in range(51)))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0, 1], "3 scores need as many predicted labels"),
            ([0.0, 1.0, 1.0], "class indices, so integers, not float64"),
            ([0, 1, 2], "indices from 0 to 1; these run from 0 to 2"),
            ([0, 1, -1], "these run from -1 to 1"),
            (None, "pass the predicted labels too"),
        ],
    )
    def test_labels_must_fit(self, labels: list[int] | None, message: str) -> None:
        calibration = Calibration(np.arange(40.0), 0.1, np.arange(40) % 2, ("a", "b"))
        with pytest.raises(CalibrationError, match=message):
            calibration.p_values([1.0, 2.0, 3.0], labels)
        with pytest.raises(CalibrationError, match=message):
            calibration.accepts([1.0, 2.0, 3.0], labels)

    def test_labels_without_names(self) -> None:
        with pytest.raises(CalibrationError, match="names of the classes"):
            Calibration(np.arange(40.0), 0.1, np.arange(40) % 2)

    def test_nothing_to_judge(self) -> None:
        calibration = Calibration(np.arange(40.0), 0.1, np.arange(40) % 2, ("a", "b"))
        assert calibration.accepts([], []).shape == calibration.p_values([], []).shape == (0,)

    def test_nan_is_never_accepted_in_silence(self) -> None:
        with pytest.raises(CalibrationError, match="NaN"):
            Calibration(np.arange(40.0), 0.1).accepts([math.nan])


def step_up(p: list[float], q: float) -> float:
    """Benjamini–Hochberg as the paper writes it, over ranked p-values; exact but for a rounding."""
    cut, m = 0.0, len(p)
    for i, value in enumerate(sorted(p), start=1):
        if Fraction(value) <= Fraction(q) * i / m * (1 + Fraction(1, 2**50)):
            cut = value
    return cut


class TestFalseDiscoveries:
    @settings(deadline=None)
    @given(st.lists(st.floats(0, 1) | st.sampled_from([0.001, 0.01, 0.02]), max_size=60), st.floats(0.01, 0.5))
    def test_is_the_step_up_procedure(self, p: list[float], q: float) -> None:
        cut = benjamini_hochberg(p, q)
        assert cut == step_up(p, q)
        if cut > 0:
            adjusted = scipy.stats.false_discovery_control(p)
            away = np.abs(adjusted - q) > 1e-9  # adjusted p-values round differently
            assert ((np.array(p) <= cut) == (adjusted <= q))[away].all()

    @settings(max_examples=300, deadline=None)
    @given(
        st.data(),
        st.lists(st.integers(1, 30), min_size=1, max_size=4),
        st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.5]),
    )
    def test_a_histogram_gives_the_same_cut(self, data: st.DataObject, sizes: list[int], q: float) -> None:
        histogram, everything = RankHistogram(sizes), []
        for _ in range(data.draw(st.integers(0, 4))):
            n = data.draw(st.sampled_from(sizes))
            ranks = data.draw(st.lists(st.integers(1, n + 1) | st.just(1), max_size=40))
            batch = [r / (n + 1) for r in ranks]
            histogram.add(batch)
            everything += batch
            assert histogram.cut(q) == benjamini_hochberg(everything, q)
        assert histogram.total == len(everything)

    def test_a_calibration_and_its_histogram(self) -> None:
        rng = np.random.default_rng(0)
        predicted = np.repeat([0, 1], [300, 500])
        calibration = Calibration(rng.normal(size=800), 0.05, predicted, ("a", "b"))
        histogram, batches = calibration.histogram(), []
        for _ in range(20):
            batch = np.concatenate([rng.normal(size=80), rng.normal(-5, 1, size=20)])
            batches.append(calibration.p_values(batch, rng.integers(0, 2, 100)))
            histogram.add(batches[-1])
        cut = histogram.cut(0.1)
        assert 0 < cut == benjamini_hochberg(np.concatenate(batches), 0.1)

    def test_controls_false_discoveries_with_shared_calibration(self) -> None:
        rng = np.random.default_rng(0)
        shares, found = [], []
        for _ in range(300):
            calibration = rng.normal(size=500)
            p = p_values(np.concatenate([rng.normal(size=90), rng.normal(-4, 1, size=10)]), calibration)
            rejected = p <= benjamini_hochberg(p, 0.2)
            shares.append(rejected[:90].sum() / max(rejected.sum(), 1))
            found.append(rejected[90:].mean())
        # The mean is at most 0.2 · 90/100 = 0.18, here within three standard errors; most outliers are found.
        assert np.mean(shares) < 0.18 + 3 * np.std(shares) / math.sqrt(300)
        assert np.mean(found) > 0.7

    @pytest.mark.parametrize("q", [Fraction(1, 100), Fraction(1, 20), Fraction(1, 10), Fraction(1, 5)])
    def test_a_p_value_on_the_bound_is_rejected_and_the_next_is_not(self, q: Fraction) -> None:
        """Of m p-values k are r/(n + 1) = q · k/m: equal in exact numbers, whatever their floats are."""
        for lattice in (100, 500, 1000):
            for m in (10, 50, 100, 1000):
                for k in range(1, m + 1):
                    r = q * Fraction(k, m) * lattice
                    if r.denominator == 1 and r < lattice:
                        p = np.repeat([int(r) / lattice, 1.0], [k, m - k])
                        assert benjamini_hochberg(p, float(q)) == p[0]
                        above = np.repeat([(int(r) + 1) / lattice, 1.0], [k, m - k])
                        assert benjamini_hochberg(above, float(q)) == 0.0

    def test_nothing_to_reject(self) -> None:
        assert benjamini_hochberg([], 0.1) == RankHistogram(10).cut(0.1) == 0.0
        assert benjamini_hochberg([0.5, 0.9], 0.1) == 0.0
        assert benjamini_hochberg([0.1] * 43, 0.1) == 0.1  # the last has the whole of q: 0.1 · 43 / 43 has less

    def test_refuses_foreign_p_values_and_counts_nothing_of_them(self) -> None:
        histogram = RankHistogram(9)
        with pytest.raises(CalibrationError, match=r"0\.15 cannot be a p-value"):
            histogram.add([0.1, 0.15])
        with pytest.raises(CalibrationError, match="NaN"):
            histogram.add([math.nan])
        with pytest.raises(CalibrationError, match=r"1\.1 cannot"):
            histogram.add([1.1])
        assert histogram.total == 0

    def test_refuses_impossible_arguments(self) -> None:
        with pytest.raises(CalibrationError, match="false-discovery rate"):
            benjamini_hochberg([0.1], 10)
        with pytest.raises(CalibrationError, match=r"run from -0.1 to 2"):
            benjamini_hochberg([-0.1, 2], 0.1)
        for sizes in (0, [], [5, 0], "abc", 2.5, True):
            with pytest.raises(CalibrationError, match="size of each calibration set"):
                RankHistogram(sizes)
