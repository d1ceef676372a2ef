"""Splits: disjoint, complete, random where the promise needs it."""

import numpy as np
import pytest
from scipy import stats

from normgate.training.splitting import SplitError, check_groups, divide_groups, split

LABELS = ["a"] * 300 + ["b"] * 100


def test_three_disjoint_sets_make_up_the_whole() -> None:
    parts = split(LABELS, None, seed=0, alpha=0.05)
    assert sorted(parts.train + parts.tuning + parts.calibration) == list(range(400))
    assert len(parts.calibration) == 40
    assert parts == split(LABELS, None, seed=0, alpha=0.05)
    assert parts != split(LABELS, None, seed=1, alpha=0.05)


def test_calibration_is_a_simple_random_sample_and_tuning_is_stratified() -> None:
    counts, of_b = np.zeros(400), []
    for seed in range(200):
        parts = split(LABELS, None, seed=seed, alpha=0.05)
        counts[parts.calibration] += 1
        of_b.append(sum(LABELS[row] == "b" for row in parts.calibration))
        assert 9 <= sum(LABELS[row] == "b" for row in parts.tuning) <= 12
    assert stats.chisquare(counts).pvalue > 0.001
    expected = stats.hypergeom(400, 100, 40)
    assert abs(np.mean(of_b) - expected.mean()) < 4 * expected.std() / np.sqrt(200)
    assert np.std(of_b) > 1.5  # a stratified sample would have none


def test_no_group_is_divided() -> None:
    groups = [str(i // 7) for i in range(400)]
    parts = split(LABELS, groups, seed=0, alpha=0.05)
    sets = [{groups[row] for row in rows} for rows in (parts.train, parts.tuning, parts.calibration)]
    assert len(set.union(*sets)) == sum(map(len, sets))
    first, second = divide_groups(groups, 0)
    assert not {groups[row] for row in first} & {groups[row] for row in second}
    assert len(first) + len(second) == 400


def test_at_most_two_thousand() -> None:
    parts = split(["a", "b"] * 15_000, None, seed=0, alpha=0.05)
    assert (len(parts.tuning), len(parts.calibration)) == (2000, 2000)


def test_too_few_images_are_errors_that_name_the_fix() -> None:
    with pytest.raises(SplitError, match="no labelled image that can be read"):
        split([], None, seed=0, alpha=0.05)
    with pytest.raises(SplitError, match="at least 99 calibration images"):
        split(LABELS, None, seed=0, alpha=0.01)
    with pytest.raises(SplitError, match="'c' \\(1\\)"):
        split([*LABELS, "c"], None, seed=0, alpha=0.05)
    with pytest.raises(SplitError, match="two classes"):
        split(["a"] * 100, None, seed=0, alpha=0.05)


def test_too_few_groups_are_told_by_what_would_help() -> None:
    with pytest.raises(
        SplitError, match=r"80 images in 1 group cannot be split.*3 are needed.*leave out --group-column"
    ):
        split(["a", "b"] * 40, ["here"] * 80, seed=0, alpha=0.5)
    with pytest.raises(SplitError, match="80 images in 2 groups"):
        split(["a", "b"] * 40, ["here"] * 79 + [None], seed=0, alpha=0.5)
    with pytest.raises(SplitError, match="2 are needed"):
        split(["a", "b"] * 40, ["here"] * 80, seed=0, alpha=0.5, hold_tuning=False)
    alone = split(["a", "b"] * 40, ["here"] * 80, seed=0, alpha=0.5, hold_tuning=False, hold_calibration=False)
    assert len(alone.train) == 80


def test_groups_as_coarse_as_classes_are_pointed_out() -> None:
    with pytest.raises(SplitError, match=r"no group is divided and a class is in few of them; .*leave out --group-co"):
        split(["a"] * 40 + ["b"] * 40 + ["c"] * 40, ["a"] * 40 + ["b"] * 40 + ["c"] * 40, seed=0, alpha=0.05)


def test_images_without_a_group_are_groups_by_themselves() -> None:
    labels = ["a", "b"] * 100
    groups = [None if row < 150 else f"person {row // 10}" for row in range(200)]
    sizes = [len(split(labels, groups, seed=seed, alpha=0.1).calibration) for seed in range(20)]
    assert max(sizes) < 60


def test_a_group_in_two_sets_is_refused() -> None:
    check_groups({"train": ["ann", "bob", None], "tuning": [None, "cat"], "calibration": []})
    with pytest.raises(SplitError, match=r"train and calibration images share groups \(ann, bob, cat and 1 more\)"):
        check_groups({"train": ["dan", "cat", "bob", "ann"], "calibration": ["ann", "bob", "cat", "dan", "eve"]})
