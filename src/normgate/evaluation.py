"""Evaluation: how well scores tell known images from unknown ones, and whether the gate kept its promise."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from normgate import metrics, scores
from normgate.calibration import false_alarm_band
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.loading import count
from normgate.data.sources import SourceError, open_source
from normgate.errors import NormgateError
from normgate.features import extract
from normgate.progress import silent
from normgate.scores import ScoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from normgate.data.sources import Data, Source
    from normgate.features import Features
    from normgate.gate import Gate
    from normgate.metrics import OodMetrics
    from normgate.progress import Progress


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


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate`.

    Attributes:
        gate_score: the score that the gate uses.
        accuracy: of the predicted classes on the ID images; None where they have no labels.
        images: number of images evaluated, by set; the ID set is `id`.
        metrics: `metrics[score][set]`.
        outcome: what the gate promised and what happened.
        refused: scores that were not computed, with the reason.
        errors: `(set, id, message)` of each image that could not be read.
        seconds: wall-clock time.
    """

    gate_score: str
    accuracy: float | None
    images: dict[str, int]
    metrics: dict[str, dict[str, OodMetrics]]
    outcome: GateOutcome
    refused: dict[str, str]
    errors: tuple[tuple[str, str, str], ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; rates are fractions of 1."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """AUROC in points, a row a score and a column a set, as Markdown."""
        sets = [name for name in self.images if name != "id"]
        rows = [["score", *sets], ["---"] + ["---:"] * len(sets)]
        for score, by_set in self.metrics.items():
            mark = " (gate)" if score == self.gate_score else ""
            rows.append([score + mark] + [f"{100 * by_set[name].auroc:.1f}" for name in sets])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def evaluate(
    gate: Gate,
    id: Data,  # noqa: A002
    ood: Mapping[str, Data],
    *,
    scores: str | Sequence[str] = "all",
    batch_size: int = 128,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress = silent,
) -> Evaluation:
    """Compare scores on test images, each of which goes through the network once.

    Args:
        gate: whose network, threshold and kept training features are used.
        id: test images of the known classes, labelled or not; used for neither training nor calibration.
        ood: named sets of images that the gate should reject.
        scores: names, or a name, or "all" that can be had from this gate.
        batch_size: images in a forward pass.
        workers: decoding threads.
        max_pixels: larger images are errors.
        progress: told how far it is.

    Raises:
        EvaluationError: a set is called `id`, or a score that was asked for by name cannot be had.
        FeatureError: an image of `id` has a label that is no class of the gate, or no image of a set can be read.
        ScoreError: there is no score of that name.
    """
    started = time.perf_counter()
    if "id" in ood:
        raise EvaluationError("'id' is the name of the known test images; call that OoD set something else")
    features: dict[str, Features] = {}
    errors: list[tuple[str, str, str]] = []
    for name, data in {"id": id, **ood}.items():
        source = open_known(data) if name == "id" else open_source(data, labelled=False)
        extraction = extract(
            gate.extractor,
            source,
            classes=gate.classes if name == "id" and source.classes is not None else None,
            total=count(source),
            batch_size=batch_size,
            workers=workers,
            max_pixels=max_pixels,
            task=f"{name} images",
            progress=progress,
        )
        features[name] = extraction.features
        errors += [(name, image, message) for image, message in extraction.errors]
    return evaluate_features(gate, features, scores=scores, errors=errors, started=started)


def evaluate_features(
    gate: Gate,
    features: Mapping[str, Features],
    *,
    scores: str | Sequence[str] = "all",
    errors: Sequence[tuple[str, str, str]] = (),
    started: float | None = None,
) -> Evaluation:
    """`evaluate` on features that are there already; the ID set is `id`."""
    started = time.perf_counter() if started is None else started
    known = features["id"]
    ood = {name: part for name, part in features.items() if name != "id"}
    correct = None if known.labels is None else (known.logits.argmax(dim=1) == known.labels).numpy()
    verdicts = {name: gate.judge(part) for name, part in features.items()}
    values, refused = _scored(gate, features, {name: part.score for name, part in verdicts.items()}, scores)
    accepted = verdicts["id"].accepted
    outcome = GateOutcome(
        promised=gate.calibration.expected_false_alarm_rate,
        realised=float((~accepted).mean()),
        band=None
        if gate.calibration.by_class
        else false_alarm_band(gate.calibration.alpha, gate.calibration.n, len(known)),
        accuracy_accepted=None if correct is None else metrics.accuracy_among_accepted(correct, accepted),
        rejected={name: float((~verdicts[name].accepted).mean()) for name in ood},
    )
    return Evaluation(
        gate_score=gate.score.name,
        accuracy=None if correct is None else float(correct.mean()),
        images={name: len(part) for name, part in features.items()},
        metrics={
            score: {name: metrics.ood_metrics(by_set["id"], by_set[name]) for name in ood}
            for score, by_set in values.items()
        },
        outcome=outcome,
        refused=refused,
        errors=tuple(errors),
        seconds=time.perf_counter() - started,
    )


def open_known(data: Data, **columns: Any) -> Source:
    """The source of known test images, with labels where there are any; see `open_source`."""
    try:
        return open_source(data, labelled=True, **columns)
    except SourceError:
        return open_source(data, labelled=False, **columns)


def _scored(
    gate: Gate, features: Mapping[str, Features], own: dict[str, np.ndarray], wanted: str | Sequence[str]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Scores by name and set, `own` being those of the gate, and why others were refused."""
    values: dict[str, dict[str, np.ndarray]] = {}
    refused: dict[str, str] = {}
    named = [wanted] if isinstance(wanted, str) else wanted
    for name in scores.names() if wanted == "all" else named:
        if name == gate.score.name:
            values[name] = own
            continue
        score = scores.create(name)
        try:
            if score.needs_fit and "train" not in gate.kept:
                raise ScoreError("it is fitted to training features, and this gate keeps none (it may be lean)")
            if score.needs_fit:
                score.fit(gate.kept["train"], gate.kept.get("tuning"))
            if reason := score.refusal(features["id"]):
                raise ScoreError(reason)
            values[name] = {key: score(part).numpy() for key, part in features.items()}
        except ScoreError as error:
            refused[name] = str(error)
    if wanted != "all" and refused:
        raise EvaluationError("; ".join(f"{name} cannot be had: {reason}" for name, reason in refused.items()))
    return values, refused
