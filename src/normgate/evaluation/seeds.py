"""Several gates that differ by their seed: how far figures spread, and which differences are more than luck."""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import warnings
from typing import TYPE_CHECKING, Any

from normgate import metrics
from normgate.errors import NormgateWarning
from normgate.evaluation.comparison import Comparison
from normgate.evaluation.figures import DEFINITIONS
from normgate.evaluation.results import EvaluationError, check_same_images, plain

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from normgate.evaluation.figures import MeanMetrics, SetMetrics
    from normgate.evaluation.results import Evaluation
    from normgate.metrics import AurocDifference


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over seeds; `std` is the sample's (n − 1), None of a single seed."""

    mean: float
    min: float
    max: float
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        listed = list(values)
        std = statistics.stdev(listed) if len(listed) > 1 else None
        return cls(sum(listed) / len(listed), min(listed), max(listed), std)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SeedSummary:
    """Figures over seeds; every one of them is a `Spread`.

    Attributes:
        evaluations: what is summarised.
        gate_score: the score of all gates; None where they differ, or without gates.
        accuracy: None without labels.
        groups: names of OoD sets whose means are taken, by group.
        metrics: `metrics[score][set][metric]`, of the scores that every evaluation has.
        means: `means[score][group][metric]`.
        aurc_wrong: by score; empty without labels.
        false_alarms: the share of ID images that the gates rejected; None without gates.
        rejected: for each OoD set, the share that the gates rejected.
    """

    evaluations: tuple[Evaluation, ...]
    gate_score: str | None
    accuracy: Spread | None
    groups: dict[str, tuple[str, ...]]
    metrics: dict[str, dict[str, dict[str, Spread]]]
    means: dict[str, dict[str, dict[str, Spread]]]
    aurc_wrong: dict[str, Spread]
    false_alarms: Spread | None
    rejected: dict[str, Spread]

    def __repr__(self) -> str:
        """On one line; `table` shows the figures."""
        return f"<SeedSummary: {len(self.metrics)} scores of {len(self.evaluations)} evaluations>"

    @property
    def left_out(self) -> tuple[str, ...]:
        """Scores that only some of the evaluations have."""
        names = {name: None for evaluation in self.evaluations for name in evaluation.metrics}
        return tuple(name for name in names if name not in self.metrics)

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the OoD sets."""
        return self.evaluations[0].sets

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Of each score, in the first of the evaluations; `over_seeds` warns where others differ."""
        return self.evaluations[0].settings

    @property
    def ranking(self) -> tuple[str, ...]:
        """The scores by their mean AUROC over seeds and sets, best first."""

        def mean(score: str) -> float:
            return sum(by_metric["auroc"].mean for by_metric in self.metrics[score].values())

        return tuple(sorted(self.metrics, key=mean, reverse=True))

    def compare(self, a: str, b: str, other: SeedSummary | None = None) -> Comparison:
        """AUROC of score `a` minus that of score `b`, on each OoD set and as means, paired seed by seed.

        The intervals say how far other seeds could have moved a difference (Student's t); how far other images could
        have, `compare` of an evaluation says.

        Args:
            a: a score of these evaluations.
            b: a score of `other`.
            other: of gates of another recipe, say, with the same seeds and on the same images; these evaluations
                themselves by default. Where no seed of one side is known, evaluations are paired in their order.

        Raises:
            EvaluationError: one of the scores is not of every evaluation, or `other` is of other images or seeds.
        """
        other = self if other is None else other
        if not isinstance(other, SeedSummary):
            raise EvaluationError(f"other= is what over_seeds([…]) gives, and not {type(other).__name__}")
        pairs = _paired(self.evaluations, other.evaluations)
        for score, summary in ((a, self), (b, other)):
            if score not in summary.metrics:
                raise EvaluationError(f"{score} is not of every evaluation; choose from: {', '.join(summary.metrics)}")
        return Comparison(
            a,
            b,
            {name: _difference([(x.metrics[a][name], y.metrics[b][name]) for x, y in pairs]) for name in self.sets},
            {name: _difference([(x.means[a][name], y.means[b][name]) for x, y in pairs]) for name in self.groups},
        )

    @functools.cached_property
    def differences(self) -> dict[str, Comparison]:
        """Each score compared with that of all gates, seed by seed; empty where these have none or several."""
        own = self.gate_score
        if own not in self.metrics:
            return {}
        return {score: self.compare(score, own) for score in self.metrics if score != own}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the spreads, and each evaluation."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        evaluations = [evaluation.to_dict() for evaluation in self.evaluations]
        differences = {score: part.to_dict() for score, part in self.differences.items()}
        return {
            **plain(own | {"evaluations": []}),
            "differences": differences,
            "definitions": DEFINITIONS,
            "evaluations": evaluations,
        }

    def table(self, metric: str = "auroc") -> str:
        """A metric in points, mean (smallest–largest), a row a score and a column a set or mean, as Markdown."""
        from normgate.evaluation.writing import markdown_table

        return markdown_table(self, metric)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write everything as .json, the spreads as .csv (a row a score, set and metric), or tables as .md or .tex.

        Raises:
            EvaluationError: another suffix.
            OutputError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        from normgate.evaluation.writing import save

        save(self, path, overwrite=overwrite)


def over_seeds(evaluations: Iterable[Evaluation]) -> SeedSummary:
    """Mean, smallest and largest of every figure over evaluations of gates that differ by their seed.

    Args:
        evaluations: on the same sets, at least one; scores that one of them lacks are left out.

    Raises:
        EvaluationError: there is none, or they are not of the same sets, groups and images.
    """
    evaluations = list(evaluations)
    if not evaluations:
        raise EvaluationError("a summary over seeds needs at least one evaluation")
    first = evaluations[0]
    for other in evaluations:
        check_same_images(first, other)
    _warn_of_other_gates([evaluation.gate for evaluation in evaluations])
    shared = [score for score in first.metrics if all(score in other.metrics for other in evaluations)]
    if not shared:
        raise EvaluationError("there is no score that every evaluation has; evaluate every gate with the same scores")
    _warn_of_other_settings(shared, evaluations)
    outcomes = [evaluation.outcome for evaluation in evaluations if evaluation.outcome is not None]
    own = {evaluation.gate_score for evaluation in evaluations}
    return SeedSummary(
        evaluations=tuple(evaluations),
        gate_score=own.pop() if len(own) == 1 else None,
        accuracy=_spread([evaluation.accuracy for evaluation in evaluations]),
        groups=first.groups,
        metrics={
            score: {name: _spreads([other.metrics[score][name] for other in evaluations]) for name in first.sets}
            for score in shared
        },
        means={
            score: {name: _spreads([other.means[score][name] for other in evaluations]) for name in first.groups}
            for score in shared
        },
        aurc_wrong={
            score: Spread.of(other.aurc_wrong[score] for other in evaluations)
            for score in shared
            if all(score in other.aurc_wrong for other in evaluations)
        },
        false_alarms=_spread([outcome.realised for outcome in outcomes] or [None]),
        rejected={name: Spread.of(outcome.rejected[name] for outcome in outcomes) for name in first.sets if outcomes},
    )


def _paired(own: Sequence[Evaluation], others: Sequence[Evaluation]) -> list[tuple[Evaluation, Evaluation]]:
    """Evaluations of the same seeds or, where those of one side are not known, in their order."""
    check_same_images(own[0], others[0])
    mine, theirs = ([_seed(evaluation) for evaluation in part] for part in (own, others))
    if own is others or {None} in (set(mine), set(theirs)):
        if len(own) != len(others):
            raise EvaluationError(
                f"{len(own)} evaluations and {len(others)} make no pairs; compare gates of as many seeds"
            )
        return list(zip(own, others, strict=True))
    by_seed = dict(zip(theirs, others, strict=True))
    if len(mine) != len(theirs) or set(mine) != by_seed.keys() or len(by_seed) < len(theirs):
        listed = (", ".join(map(str, seeds)) for seeds in (mine, theirs))
        raise EvaluationError(
            f"gates of the seeds {next(listed)} and of the seeds {next(listed)} make no pairs; compare gates of the "
            "same seeds, each of which occurs once"
        )
    return [(evaluation, by_seed[seed]) for evaluation, seed in zip(own, mine, strict=True)]


def _seed(evaluation: Evaluation) -> int | None:
    """That its gate was trained with, where normgate trained it."""
    return None if evaluation.gate is None else evaluation.gate.get("run", {}).get("seed")


def _difference(pairs: Sequence[tuple[SetMetrics, SetMetrics] | tuple[MeanMetrics, MeanMetrics]]) -> AurocDifference:
    return metrics.paired_difference_over_seeds([one.auroc for one, _ in pairs], [other.auroc for _, other in pairs])


def _warn_of_other_gates(gates: Sequence[dict[str, Any] | None]) -> None:
    """Warn where a mean over seeds would be one over recipes, or of a seed twice."""
    runs = [
        {**gate["run"], "size": gate["run"]["preprocessing"]["size"]}
        for gate in gates
        if gate is not None and "run" in gate
    ]
    parts = ("recipe", "backbone", "size", "weights")  # not the score: probes may choose another for another seed
    if differing := [part for part in parts if any(run[part] != runs[0][part] for run in runs)]:
        said = f"differ by more than their seed ({', '.join(differing)}), so that a mean over them is of nothing"
    elif len({json.dumps(run, sort_keys=True) for run in runs}) < len(runs):
        said = "are not all of different seeds, so that the spread over them is too small"
    else:
        return
    warnings.warn(f"these gates {said}; evaluate gates of one recipe and other seeds", NormgateWarning, stacklevel=3)


def _warn_of_other_settings(scores: Sequence[str], evaluations: Sequence[Evaluation]) -> None:
    """Warn where scores of one name are not the same score."""
    differing = [
        score
        for score in scores
        if any(other.settings.get(score) != evaluations[0].settings.get(score) for other in evaluations)
    ]
    if differing:
        warnings.warn(
            f"{', '.join(differing)} of these gates differ in their settings, so that a mean over them is of nothing; "
            'evaluate every gate with the same, such as scores=["all", dataclasses.replace(score, name="another")]',
            NormgateWarning,
            stacklevel=3,
        )


def _spreads(parts: Sequence[SetMetrics] | Sequence[MeanMetrics]) -> dict[str, Spread]:
    """By metric; the ends of intervals, which are of one seed each, and numbers of images are left out."""
    values = {name: [getattr(part, name) for part in parts] for name in DEFINITIONS if hasattr(parts[0], name)}
    spreads = {name: _spread(found) for name, found in values.items()}
    return {name: spread for name, spread in spreads.items() if spread is not None}


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if len(known) == len(values) else None
