"""Scores by name or as objects, fitted and computed on the same features; why others cannot be had."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from normgate import scores as registry
from normgate.evaluation.results import EvaluationError
from normgate.evaluation.sets import check_score_name
from normgate.progress import silent
from normgate.scores import Score, ScoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from normgate.features import Features
    from normgate.progress import Progress

ALL = "all"
"""Every score that has a name, of which some may be missing."""


def asked(scores: str | Score | Iterable[str | Score]) -> list[str | Score]:
    """Names and scores as a list, so that they can be gone through again.

    Raises:
        EvaluationError: there is none, or something that is neither.
    """
    try:
        wanted = [scores] if isinstance(scores, str | Score | type) else list(scores)
    except TypeError as error:
        raise EvaluationError(f"scores= takes names and scores, or 'all', and not {scores!r}") from error
    if not wanted:
        raise EvaluationError("scores= names no score; leave it out for all, or name one or more")
    return wanted


def chosen(scores: str | Score | Iterable[str | Score], own: Score | None) -> list[Score]:
    """The scores to compute: `own` as it is, others as new objects, so that nobody else's are fitted.

    Args:
        scores: names, scores with settings of their own, one of either, or "all" that have a name (and `own`), alone
            or beside scores with settings of their own.
        own: the gate's score, which its name stands for; None without a gate.

    Raises:
        ScoreError: there is no score of that name.
        EvaluationError: two scores have the same name, one has a name that a table of images needs, or something is no
            score.
    """
    wanted = asked(scores)
    if ALL in wanted:
        names = registry.names()
        wanted = [*names, *(item for item in wanted if not _is_among(item, (ALL, *names), own))]
        if own is not None and own.name not in wanted:
            wanted.insert(0, own)
    found: dict[str, Score] = {}
    for item in wanted:
        score = _resolved(item, own)
        check_score_name(score.name)
        if score.name in found or (own is not None and score.name == own.name and score is not own):
            again = isinstance(item, str) and wanted.count(item) > 1
            fix = f'give one another name: dataclasses.replace(score, name="{score.name}_2")'
            raise EvaluationError(f"two scores are called {score.name}; {'name it once' if again else fix}")
        found[score.name] = score
    return list(found.values())


def computed(
    wanted: Sequence[Score],
    features: Mapping[str, Features],
    *,
    train: Features | None,
    tuning: Features | None,
    own: Score | None = None,
    progress: Progress = silent,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Fit each score but `own`, and compute it on every set.

    Args:
        wanted: the scores.
        features: by set; the ID set is `id`.
        train: features of training images, to fit to.
        tuning: features of tuning images, to scale on.
        own: a score that is fitted already.
        progress: told how many images have been scored.

    Returns:
        `values[score][set]`, and the reason for each score that cannot be had.
    """
    values: dict[str, dict[str, np.ndarray]] = {}
    refused: dict[str, str] = {}
    images = sum(map(len, features.values()))
    # A few tuning images, or known ones of one class, may be alike in what tells others from them: both must be.
    judges = [part for part in (tuning, features["id"]) if part is not None]
    for number, score in enumerate(wanted):
        progress("scores", number * images, len(wanted) * images)
        try:
            if score is not own:
                fitted = score.fit(train, tuning)
                reasons = [fitted.refusal(part) for part in judges]
                if reasons[0] is not None and all(reasons):
                    raise ScoreError(reasons[0])
            values[score.name] = {name: score(part).numpy() for name, part in features.items()}
        except ScoreError as error:
            refused[score.name] = str(error)
    progress("scores", len(wanted) * images, len(wanted) * images)
    return values, refused


def _is_among(item: str | Score, names: Sequence[str], own: Score | None) -> bool:
    """Whether it is of these names, or the gate's score."""
    return item in names if isinstance(item, str) else isinstance(item, Score) and _resolved(item, own) is own


def _resolved(item: str | Score, own: Score | None) -> Score:
    if isinstance(item, str):
        return own if own is not None and item == own.name else registry.create(item)
    if not isinstance(item, Score):
        how = f"make one: {item.__name__}('name')" if isinstance(item, type) else "a score is a subclass of Score"
        raise EvaluationError(f"{item!r} is neither the name of a score nor a score; {how}")
    same = own is not None and type(item) is type(own) and (item.name, item.settings) == (own.name, own.settings)
    return own if same and own is not None else copy.copy(item)
