"""What an evaluation found."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from normgate import __version__, metrics
from normgate.errors import NormgateError
from normgate.evaluation.comparison import Comparison, compared
from normgate.evaluation.figures import COVERAGES, DEFINITIONS

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from normgate.evaluation.figures import MeanMetrics, SetMetrics
    from normgate.features import Features
    from normgate.metrics import RiskCoverage


class EvaluationError(NormgateError):
    """There is nothing to evaluate, or not as asked."""


@dataclasses.dataclass(frozen=True)
class GateOutcome:
    """What the gate promised and what happened.

    Attributes:
        promised: the expected false-alarm rate, k/(n+1).
        realised: share of the ID images that the gate rejected.
        band: where `realised` lies with 99 % probability if the promise holds (central beta-binomial interval).
        accuracy_accepted: accuracy among the accepted ID images; None without labels or accepted images.
        rejected: for each OoD set, the share that the gate rejected.
    """

    promised: float
    realised: float
    band: tuple[float, float] | None
    accuracy_accepted: float | None
    rejected: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Results of `evaluate`.

    Attributes:
        gate_score: the score that the gate uses; None where a network was evaluated without a gate.
        accuracy: of the predicted classes on the ID images; None where they have no labels.
        images: number of images evaluated, by set; the ID set is `id`.
        groups: names of OoD sets whose means are taken, by group.
        metrics: `metrics[score][set]`.
        means: `means[score][group]`.
        aurc_wrong: by score, the area under the risk-coverage curve of the ID images, wrong predictions being errors;
            empty without labels.
        risks: `risks[score][kind][set]`, the risk at coverages 10 %, 20 %, …, 100 %; kinds as in `risk_coverage`.
        outcome: what the gate promised and what happened; None without a gate.
        refused: scores that were not computed, with the reason.
        errors: `(set, id, message)` of each image that could not be read.
        shared: `shared[set][other]`, number of images of a set that are in one of the gate's sets, too, or of an OoD
            set that are in the ID set: figures of them say nothing of new images; or in an OoD set before it;
            and under `itself` how many are copies of others of the set.
        seconds: wall-clock time.
        ids: names of the images, by set.
        values: `values[score][set]`, the score of each image, (N,) float64; the gate's score is always among them.
        wrong: whether the predicted class of each ID image is wrong, (m,) bool; None without labels.
        features: of the images, by set, where they were to be kept; a report is made from them.
        gate: what the gate is: `score` with its settings, and how it was trained (`run`), where normgate did; None
            without a gate.
        settings: of each score; of what JSON has no form for, the type.
        fitted: numbers of the images that there were to fit scores to, `train` and `tuning`; the gate's own score is as
            the gate has it.
        origins: of each score that was read from a table, the `table`, its `column` there, and whether its sign was
            turned (`negated`); empty where scores were computed.
        digests: by set, what tells each image from others, whatever it is called; only of sets whose images were read.
        version: of normgate that evaluated.
    """

    gate_score: str | None
    accuracy: float | None
    images: dict[str, int]
    groups: dict[str, tuple[str, ...]]
    metrics: dict[str, dict[str, SetMetrics]]
    means: dict[str, dict[str, MeanMetrics]]
    aurc_wrong: dict[str, float]
    risks: dict[str, dict[str, dict[str, tuple[float, ...]]]]
    outcome: GateOutcome | None
    refused: dict[str, str]
    errors: tuple[tuple[str, str, str], ...]
    shared: dict[str, dict[str, int]]
    seconds: float
    ids: dict[str, tuple[str, ...]]
    values: dict[str, dict[str, np.ndarray]]
    wrong: np.ndarray | None
    features: dict[str, Features] | None = None
    gate: dict[str, Any] | None = None
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    fitted: dict[str, int] = dataclasses.field(default_factory=dict)
    origins: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    digests: dict[str, tuple[bytes, ...]] = dataclasses.field(default_factory=dict)
    version: str = __version__

    def __repr__(self) -> str:
        """On one line; `table` shows the figures."""
        right = "" if self.accuracy is None else f", accuracy {self.accuracy:.1%}"
        unknown = f" against {', '.join(self.sets)}" if self.sets else ""
        scores = f"{len(self.metrics)} score{'s' * (len(self.metrics) != 1)}"
        return f"<Evaluation: {scores} of {self.images['id']} images{unknown}{right}>"

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the OoD sets."""
        return tuple(name for name in self.images if name != "id")

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """By set, a digest of what its images show, whatever their order and names; of sets whose images were read."""
        return {
            name: hashlib.blake2b(b"".join(sorted(own)), digest_size=16).hexdigest()
            for name, own in self.digests.items()
        }

    @property
    def ranking(self) -> tuple[str, ...]:
        """The scores by their mean AUROC over the OoD sets, best first."""

        def mean(score: str) -> float:
            return sum(part.auroc for part in self.metrics[score].values())

        return tuple(sorted(self.metrics, key=mean, reverse=True))

    def compare(self, a: str, b: str, other: Evaluation | None = None) -> Comparison:
        """AUROC of score `a` minus that of score `b`, on each OoD set and as means, paired image by image.

        Args:
            a: a score of this evaluation.
            b: a score of `other`.
            other: of another gate on the same images, in whatever order; this evaluation itself by default.

        Raises:
            EvaluationError: one of the scores was not computed, or `other` is of other images.
        """
        first = self.values[self._known(a)]
        if other is None:
            return compared(a, b, first, self.values[self._known(b)], self.groups)
        if not isinstance(other, Evaluation):
            raise EvaluationError(
                f"other= is an evaluation, as this is one, and not {type(other).__name__}; several gates are compared "
                "with several: over_seeds([…]).compare"
            )
        check_same_images(self, other)
        second = other.values[other._known(b)]
        rows = {name: _rows_of(self, other, name) for name in self.ids}
        return compared(a, b, first, {name: second[name][rows[name]] for name in self.ids}, self.groups)

    @functools.cached_property
    def differences(self) -> dict[str, Comparison]:
        """Each score compared with the gate's own; empty without a gate. Computed when first asked for."""
        own = self.gate_score
        return {} if own is None else {score: self.compare(score, own) for score in self.metrics if score != own}

    def risk_coverage(
        self, score: str, errors: Literal["wrong", "outliers", "both"], ood: str | None = None
    ) -> RiskCoverage:
        """The whole risk-coverage curve of a score.

        Args:
            score: its name.
            errors: "wrong": wrong predictions among the ID images; "outliers": accepted images of the set `ood`, which
                together weigh as much as the ID images together; "both": both, weighted in the same way.
            ood: name of an OoD set, but for "wrong".

        Raises:
            EvaluationError: there is no such score, set or kind of errors, or predictions cannot be wrong for want of
                labels.
        """
        if errors not in ("wrong", "outliers", "both"):
            raise EvaluationError(f"errors are 'wrong', 'outliers' or 'both', not {errors!r}")
        values = self.values[self._known(score)]
        if errors != "outliers" and self.wrong is None:
            raise EvaluationError("the ID images have no labels, so no prediction is known to be wrong")
        if errors == "wrong":
            assert self.wrong is not None
            return metrics.risk_coverage(values["id"], self.wrong)
        if ood not in self.sets:
            said = "say of which OoD set with ood=" if ood is None else f"{ood!r} is no OoD set"
            raise EvaluationError(f"{said}; choose from: {', '.join(self.sets)}")
        return metrics.open_set_risk_coverage(values["id"], values[ood], self.wrong if errors == "both" else None)

    def to_dict(self, *, images: bool = False) -> dict[str, Any]:
        """Plain JSON values; rates are fractions of 1, and metrics are explained under `definitions`.

        Args:
            images: also the score of each image, under `ids` and `values`.
        """
        left_out = {"features", "digests"} if images else {"features", "digests", "ids", "values", "wrong"}
        names = [field.name for field in dataclasses.fields(self) if field.name not in left_out]
        found = {name: plain(getattr(self, name)) for name in names}
        return {
            **found,
            "contents": self.contents,
            "coverages": list(COVERAGES),
            "differences": {score: part.to_dict() for score, part in self.differences.items()},
            "definitions": DEFINITIONS,
        }

    def table(self, metric: str = "auroc") -> str:
        """A metric in points, a row a score and a column a set or mean, as Markdown; AUROC with its 95 % interval.

        Raises:
            EvaluationError: there is no such metric.
        """
        from normgate.evaluation.writing import markdown_table

        return markdown_table(self, metric)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write everything as .json, the metrics as .csv (a row a score and set), or tables as .md or .tex.

        Raises:
            EvaluationError: another suffix.
            OutputError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        from normgate.evaluation.writing import save

        save(self, path, overwrite=overwrite)

    def save_images(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the score of each image as .parquet or .csv: a row an image, a column a score.

        Besides the scores there are `set`, `id` (the image's name) and `wrong`, whether the predicted class of a known
        image is wrong (null of others, and without labels). Images that cannot be read have no row; see `errors`.

        Raises:
            EvaluationError: another suffix.
            OutputError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        from normgate.evaluation.image_tables import save_images

        save_images(self, path, overwrite=overwrite)

    def _known(self, score: str) -> str:
        if score not in self.values:
            reason = f" ({self.refused[score]})" if score in self.refused else ""
            raise EvaluationError(f"{score} was not computed{reason}; choose from: {', '.join(self.values)}")
        return score


def check_same_images(first: Evaluation, other: Evaluation) -> None:
    """Refuse evaluations of other images, whatever their order.

    Raises:
        EvaluationError: says of which set.
    """
    groups, others = ({name: set(own) for name, own in part.groups.items()} for part in (first, other))
    if other.images.keys() != first.images.keys() or groups != others:
        raise EvaluationError(
            f"evaluations of {', '.join(first.images)} and of {', '.join(other.images)} do not go together; "
            "evaluate every gate on the same sets and groups"
        )
    if differing := [name for name in first.ids if not _same_images(first, other, name)]:
        name = differing[0]
        raise EvaluationError(
            f"{first.images[name]} images of {name} in one evaluation and {other.images[name]} in another are not "
            "the same images and do not go together; evaluate every gate on the same images"
        )


def _same_images(one: Evaluation, other: Evaluation, name: str) -> bool:
    """By what they show, where it is known (images in memory have numbers for names), and else by their names."""
    if name in one.contents and name in other.contents:
        return one.contents[name] == other.contents[name]
    mine, theirs = one.ids[name], other.ids[name]
    # In another order, several images of one name could not be told apart.
    return mine == theirs or (len(set(mine)) == len(mine) and sorted(mine) == sorted(theirs))


def _rows_of(one: Evaluation, other: Evaluation, name: str) -> np.ndarray:
    """Where each image of a set stands in another evaluation of the same images."""
    mine, theirs = _marks(one, other, name)
    rows = np.arange(len(mine))
    if mine != theirs:
        here, there = (sorted(range(len(own)), key=own.__getitem__) for own in (mine, theirs))
        rows[here] = there
    return rows


def _marks(one: Evaluation, other: Evaluation, name: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """What tells the images of a set from others, on both sides: digests, or names where one side has none."""
    if name in one.digests and name in other.digests:
        return one.digests[name], other.digests[name]
    return one.ids[name], other.ids[name]


def plain(value: Any) -> Any:
    """JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value
