"""The evaluation of scores that are there already, of whatever detector."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.evaluation.figures import score_figures
from normgate.evaluation.image_scores import ImageScores
from normgate.evaluation.results import Evaluation, EvaluationError
from normgate.evaluation.sets import check_names, check_score_name, checked_groups
from normgate.metrics.ties import as_array, check_scores

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike


def evaluate_scores(
    values: ImageScores | Mapping[str, Mapping[str, ArrayLike]],
    *,
    wrong: ArrayLike | None = None,
    groups: Mapping[str, Iterable[str]] | None = None,
    ids: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Every figure of scores that are there already: of other detectors, or of other networks.

    Args:
        values: `values[score][set]`, (N,), **larger = more familiar**: turn the sign of scores that are made the other
            way round, as those of pytorch-ood are. The set of the known test images is `id`, and all scores are of the
            same images in the same order. Or what `read_image_scores` gives, which says `wrong` and `ids`, too.
        wrong: (m,) bool, whether the predicted class of each known image is wrong; None where that is not known.
        groups: OoD sets whose means are taken; by default one group, `mean`, of all.
        ids: names of the images, by set; numbers by default.

    Raises:
        EvaluationError: there is no score, or no set `id`; scores are not of the same sets and numbers of images; names
            or groups as in `evaluate`.
        MetricError: a score is NaN, or no number.
    """
    started = time.perf_counter()
    errors: tuple[tuple[str, str, str], ...] = ()
    origins: dict[str, dict[str, Any]] = {}
    if isinstance(values, ImageScores):
        if wrong is not None or ids is not None:
            raise EvaluationError("the tables say wrong= and ids= themselves; leave them out")
        wrong, ids, errors, origins = values.wrong, values.ids, values.errors, values.origins
        values = values.values
    found = _checked_values(values)
    sizes = {name: len(part) for name, part in next(iter(found.values())).items()}
    flags = None
    if wrong is not None:
        flags = as_array(wrong, "wrong")
        if flags.dtype != bool or flags.shape != (sizes["id"],):
            what = f"{flags.dtype} of shape {flags.shape}"
            raise EvaluationError(f"wrong= holds True or False for each of the {sizes['id']} known images, not {what}")
    grouped = checked_groups(groups, [name for name in sizes if name != "id"])
    evaluation = figured(found, flags, grouped, _checked_ids(ids, sizes), started)
    return dataclasses.replace(evaluation, errors=errors, origins=origins)


def _checked_values(values: object) -> dict[str, dict[str, np.ndarray]]:
    """By score and set, the known images first."""
    if not isinstance(values, Mapping) or not all(isinstance(by_set, Mapping) for by_set in values.values()):
        raise EvaluationError(
            "values= holds, by score and set, a number an image: {'mine': {'id': […], 'digits': […]}}"
        )
    if not values:
        raise EvaluationError("values= holds no score; give at least one")
    for score in values:
        check_score_name(score)
    found = {
        score: {name: check_scores(part, f"{score} of {name}").astype(np.float64) for name, part in by_set.items()}
        for score, by_set in values.items()
    }
    first, sizes = next((score, {name: len(part) for name, part in by_set.items()}) for score, by_set in found.items())
    if "id" not in sizes:
        raise EvaluationError(f"the known images are wanted under 'id'; there are only: {', '.join(map(str, sizes))}")
    names = ["id", *(name for name in sizes if name != "id")]
    check_names(names[1:])
    for score, by_set in found.items():
        if (own := {name: len(part) for name, part in by_set.items()}) != sizes:
            raise EvaluationError(
                f"scores are of the same images: {first} is of {_said(sizes)}, and {score} of {_said(own)}"
            )
    return {score: {name: by_set[name] for name in names} for score, by_set in found.items()}


def _checked_ids(ids: object, sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Names of images, by set; numbers where there are none."""
    names = {name: tuple(map(str, range(size))) for name, size in sizes.items()}
    if ids is None:
        return names
    if not isinstance(ids, Mapping) or (unknown := [name for name in ids if name not in sizes]):
        what = f"names the set {unknown[0]!r}" if isinstance(ids, Mapping) else f"is no {type(ids).__name__}"
        raise EvaluationError(f"ids= holds the images' names by set, and {what}; the sets are: {', '.join(sizes)}")
    try:
        names |= {name: tuple(map(str, own)) for name, own in ids.items()}
    except TypeError as error:
        raise EvaluationError(f"ids= holds the images' names by set: {error}") from error
    if uneven := [name for name, own in names.items() if len(own) != sizes[name]]:
        raise EvaluationError(
            f"ids= names {len(names[uneven[0]])} images of {uneven[0]}, and there are scores of {sizes[uneven[0]]}"
        )
    return names


def figured(
    values: Mapping[str, Mapping[str, np.ndarray]],
    wrong: np.ndarray | None,
    groups: dict[str, tuple[str, ...]],
    ids: Mapping[str, tuple[str, ...]],
    started: float,
) -> Evaluation:
    """An evaluation without a gate, of arguments that are as they should be."""
    figures = {score: score_figures(by_set, wrong, groups) for score, by_set in values.items()}
    return Evaluation(
        gate_score=None,
        accuracy=None if wrong is None else float((~wrong).mean()),
        images={name: len(own) for name, own in ids.items()},
        groups=groups,
        metrics={score: found.sets for score, found in figures.items()},
        means={score: found.means for score, found in figures.items()},
        aurc_wrong={score: found.aurc_wrong for score, found in figures.items() if found.aurc_wrong is not None},
        risks={score: found.risks for score, found in figures.items()},
        outcome=None,
        refused={},
        errors=(),
        shared={},
        seconds=time.perf_counter() - started,
        ids=dict(ids),
        values={score: dict(by_set) for score, by_set in values.items()},
        wrong=wrong,
    )


def _said(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size} images of {name}" for name, size in sizes.items())
