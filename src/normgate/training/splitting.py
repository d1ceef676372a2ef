"""Splits: tuning and calibration images, held out before training and never trained on."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np

from normgate.calibration import smallest_n
from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

SHARE = 0.1
LIMIT = 2_000


class SplitError(NormgateError):
    """There are too few images for the sets that are needed."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Row numbers of three disjoint sets, ascending."""

    train: list[int]
    tuning: list[int]
    calibration: list[int]


def split(
    labels: Sequence[str],
    groups: Sequence[Hashable] | None,
    *,
    seed: int,
    alpha: float,
    hold_tuning: bool = True,
    hold_calibration: bool = True,
) -> Split:
    """Divide images into train, tuning and calibration, 10 % and at most 2,000 each for the latter two.

    Calibration is a simple random sample of the images, so that the threshold's promise is exact for images drawn like
    them; of the groups, where there are any (a person, a scene), and then the promise is nominal within a group. Tuning
    is stratified by class, or made of whole groups.

    Args:
        labels: one class name an image.
        groups: one group an image, or None; no group is divided, and an image whose group is None is one by itself.
        seed: decides the split, together with the order of the images.
        alpha: false-alarm rate that the calibration set must allow.
        hold_tuning: whether a tuning set is wanted.
        hold_calibration: whether a calibration set is wanted.

    Raises:
        SplitError: there is no image, a class has a single one, or there are too few for alpha.
    """
    if not labels:
        raise SplitError("there is no labelled image that can be read")
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.bincount(numbers)
    if len(names) < 2:
        raise SplitError(f"a classifier needs at least two classes; there is only {str(names[0])!r}")
    lonely = [f"{str(names[i])!r} ({counts[i]})" for i in np.flatnonzero(counts < 2 + hold_tuning + hold_calibration)]
    if lonely:
        raise SplitError(
            f"too few images in {len(lonely)} of {len(names)} classes: {', '.join(lonely[:5])}"
            f"{', …' if len(lonely) > 5 else ''}; add images or remove the class"
        )
    if groups is not None:
        there = len(set(groups) - {None}) + sum(group is None for group in groups)
        if there < (needed := 1 + hold_tuning + hold_calibration):
            raise SplitError(
                f"{len(labels)} images in {there} group{'s' * (there != 1)} cannot be split: tuning and calibration "
                f"images are groups of their own, so {needed} are needed; pass sets of their own (--tuning, "
                "--calibration; tuning=, calibration=), or leave out --group-column"
            )
    rng = np.random.default_rng(seed)
    calibration: np.ndarray = np.empty(0, dtype=np.int64)
    tuning: np.ndarray = np.empty(0, dtype=np.int64)
    rest = np.arange(len(labels))
    size = min(LIMIT, round(SHARE * len(labels)))
    if hold_calibration:
        calibration = _sample(rest, groups, size, rng)
        needed = smallest_n(alpha)
        if len(calibration) < needed:
            raise SplitError(
                f"a false-alarm rate of {alpha:g} needs at least {needed} calibration images, and {SHARE:.0%} of these "
                f"{len(labels)} are {len(calibration)}; add images, pass a calibration set of its own "
                "(--calibration), or allow a higher rate (--alpha)"
            )
        rest = np.setdiff1d(rest, calibration)
    if hold_tuning:
        tuning = _sample(rest, groups, size, rng) if groups is not None else _stratified(rest, numbers, size, rng)
        rest = np.setdiff1d(rest, tuning)
    missing = np.setdiff1d(np.arange(len(names)), numbers[rest])
    if len(missing):
        raise SplitError(
            f"no image of {', '.join(repr(str(names[i])) for i in missing[:5])} is left for training after the split"
            + (", as no group is divided and a class is in few of them" if groups is not None else "")
            + "; add images, or pass sets of their own (--tuning, --calibration)"
            + (", or leave out --group-column" if groups is not None else "")
        )
    return Split(rest.tolist(), tuning.tolist(), calibration.tolist())


def check_groups(groups: Mapping[str, Iterable[Hashable]]) -> None:
    """Refuse sets that share a person or scene: images of one group are too alike to count as new ones.

    Args:
        groups: of each set, the groups of its images, None for an image by itself.

    Raises:
        SplitError: names two sets that share groups.
    """
    found = {name: {group for group in own if group is not None} for name, own in groups.items()}
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        if shared := sorted(map(str, first & second)):
            more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
            raise SplitError(
                f"{one} and {other} images share groups ({', '.join(shared[:3])}{more}), so that the threshold would "
                "not hold for new ones; give each group to one set, or leave out --group-column"
            )


def divide_groups(groups: Sequence[Hashable], seed: int) -> tuple[list[int], list[int]]:
    """Two random halves of the groups, as row numbers."""
    rows = np.arange(len(groups))
    second = _sample(rows, groups, len(groups) // 2, np.random.default_rng(seed))
    return np.setdiff1d(rows, second).tolist(), second.tolist()


def _sample(rows: np.ndarray, groups: Sequence[Hashable] | None, size: int, rng: np.random.Generator) -> np.ndarray:
    """A simple random sample of `size` rows, or of as many whole groups as hold about that share of the rows."""
    if groups is None:
        return np.sort(rng.choice(rows, size, replace=False))
    # An image without a group is a group by itself.
    own = [("image", row) if groups[row] is None else ("group", groups[row]) for row in rows.tolist()]
    unique = sorted(set(own), key=repr)
    number = max(1, round(size / len(rows) * len(unique)))
    chosen = {unique[i] for i in rng.choice(len(unique), number, replace=False)}
    return rows[[group in chosen for group in own]]


def _stratified(rows: np.ndarray, numbers: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """About `size` rows with each class in proportion, at least one of each and never all."""
    picked = []
    for label in np.unique(numbers[rows]):
        members = rows[numbers[rows] == label]
        count = min(max(1, round(size * len(members) / len(rows))), len(members) - 1)
        picked.append(rng.choice(members, count, replace=False))
    return np.sort(np.concatenate(picked))
