"""The evaluation of a gate or a network: one pass over the images, then every score and figure."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normgate import metrics
from normgate.calibration import false_alarm_band
from normgate.class_order import warn_of_order
from normgate.classes import class_names
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.parquet import ParquetImages
from normgate.data.sources import NoLabelsError, open_source
from normgate.errors import NormgateWarning
from normgate.evaluation.cache import FeatureCache
from normgate.evaluation.disjoint import shared_images, shared_lines
from normgate.evaluation.elsewhere import figured
from normgate.evaluation.extraction import Reader
from normgate.evaluation.results import Evaluation, EvaluationError, GateOutcome
from normgate.evaluation.scoring import ALL, asked, chosen, computed
from normgate.evaluation.sets import check_names, checked_groups
from normgate.extractor import FeatureExtractor
from normgate.gate import Gate
from normgate.gate.gate import trained_here
from normgate.progress import silent

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    import numpy as np

    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import Data, Source
    from normgate.features import Features
    from normgate.progress import Progress
    from normgate.scores import Score


_ROUNDED = 0.02
"""What a head may differ by, as a share: it may have been rounded to half precision since."""
_LONGEST_SETTING = 1000
"""Characters of a setting that results still write out."""


def evaluate(
    gate: Gate | nn.Module,
    id: Data,  # noqa: A002
    ood: Mapping[str, Data],
    *,
    scores: str | Score | Iterable[str | Score] = ALL,
    groups: Mapping[str, Iterable[str]] | None = None,
    train: Data | None = None,
    tuning: Data | None = None,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    head: str | nn.Linear | None = None,
    features: str | None = None,
    device: str | torch.device | None = None,
    cache: str | os.PathLike[str] | FeatureCache | None = None,
    batch_size: int = 128,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    keep_features: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Compare scores on test images, each of which goes through the network once.

    Args:
        gate: a gate, whose network, threshold and kept features are used; or a network, trained with `l2norm` or not.
        id: test images of the known classes, labelled or not; used for neither training nor calibration. Images that
            sets share all the same, and copies within one, are counted under `shared` of the result, with a warning.
        ood: named sets of images that should be rejected.
        scores: names, scores with settings of their own (copies are fitted), one of either, or "all" that can be had.
            The gate's score is used as it was fitted in the gate.
        groups: OoD sets whose means are taken, such as `{"near": ["cifar100"], "far": ["mnist", "svhn"]}`; by default
            one group, `mean`, of all sets.
        train: labelled images that scores are fitted to; by default the training features that the gate keeps.
        tuning: images that scores are scaled on; by default the tuning features that the gate keeps.
        preprocessing: for a network: how images become its input.
        classes: for a network: names of the classes by class number; by default those of `train`, else of `id`.
        head: for a network: its head's name, where it cannot be found.
        features: for a network: name of the module whose input is the magnitude vector.
        device: for a network: where to compute.
        cache: folder where features are kept for the next evaluation of the same images with the same network, or a
            `FeatureCache`; None keeps none. Features derive from the images: share the folder as you would share them.
        batch_size: images in a forward pass.
        workers: decoding threads.
        max_pixels: larger images are errors.
        keep_features: keep the features in the result, for a report.
        progress: told how far it is.

    Raises:
        EvaluationError: a set is called `id` or as a mean is, a group names no set, a score that was asked for by name
            cannot be had, or arguments for a network are missing or were given beside a gate.
        CacheError: the cache's folder cannot be used.
        SourceError: something is no source of images, holds none, or has labels that are not one an image.
        FeatureError: there is not one class an output, an image of `id` has a label that is no class, or no image of a
            set can be read.
        ScoreError: there is no score of that name.
    """
    started = time.perf_counter()
    names: tuple[str, ...] | None
    if not isinstance(ood, Mapping):
        raise EvaluationError(f"ood= names its sets, as in {{'near': images}}, and is no {type(ood).__name__}")
    check_names(ood)
    if not isinstance(gate, Gate | nn.Module):
        how = f": normgate.Gate.load({str(gate)!r})" if isinstance(gate, str | Path) else ""
        raise EvaluationError(f"evaluate() takes a gate or a network, and not {type(gate).__name__}{how}")
    # What cannot work is said before the images are read.
    groups = checked_groups(groups, list(ood))
    scores = asked(scores)
    chosen(scores, gate.score if isinstance(gate, Gate) else None)
    if isinstance(gate, Gate):
        network = {"preprocessing": preprocessing, "classes": classes, "head": head, "features": features}
        if misplaced := [f"{name}=" for name, value in {**network, "device": device}.items() if value is not None]:
            raise EvaluationError(f"{', '.join(misplaced)} describe a network; the gate knows its own, so leave it out")
    elif preprocessing is None:
        raise EvaluationError("a network needs preprocessing=, which says how images become its input")
    sets = {"id": open_known(id), **{name: open_source(data, labelled=False) for name, data in ood.items()}}
    fitted_to = {
        name: open_source(data, labelled=name == "train")
        for name, data in (("train", train), ("tuning", tuning))
        if data is not None
    }
    if isinstance(gate, Gate):
        extractor, names = gate.extractor, gate.classes
    else:
        assert preprocessing is not None  # as was checked
        extractor = FeatureExtractor(gate, preprocessing, head=head, features=features, device=device)
        if classes is None:
            classes = (fitted_to["train"] if "train" in fitted_to else sets["id"]).classes
        names = None if classes is None else class_names(classes, extractor.head.out_features)
    if cache is not None and not isinstance(cache, FeatureCache):
        cache = FeatureCache(Path(cache))
    reader = Reader(extractor, cache, batch_size, workers, max_pixels, progress)
    fitted = {name: reader.read(source, names if name == "train" else None, name) for name, source in fitted_to.items()}
    extractions = {
        name: reader.read(source, names if name == "id" and source.classes is not None else None, name)
        for name, source in sets.items()
    }
    known = extractions["id"].features
    ours = isinstance(gate, Gate) and trained_here(gate.provenance)  # whose order cannot be wrong
    if names is not None and known.labels is not None and not ours:
        warn_of_order(known, names, stacklevel=2)
    seen = {} if not isinstance(gate, Gate) else dict(gate.digests)
    for name, part in fitted.items():  # beside what the gate was made with
        seen[name] = (*seen.get(name, ()), *(part.features.digests or ()))
    shared = shared_images(seen, {name: part.features.digests or () for name, part in extractions.items()})
    for line in shared_lines(shared):
        warnings.warn(line, NormgateWarning, stacklevel=2)
    found = evaluate_features(
        gate if isinstance(gate, Gate) else None,
        {name: part.features for name, part in extractions.items()},
        scores=scores,
        groups=groups,
        train=fitted["train"].features if "train" in fitted else None,
        tuning=fitted["tuning"].features if "tuning" in fitted else None,
        keep_features=keep_features,
        progress=progress,
    )
    return dataclasses.replace(
        found,
        errors=tuple((name, *error) for name, part in {**fitted, **extractions}.items() for error in part.errors),
        shared=shared,
        seconds=time.perf_counter() - started,
    )


def evaluate_features(
    gate: Gate | None,
    features: Mapping[str, Features],
    *,
    scores: str | Score | Iterable[str | Score] = ALL,
    groups: Mapping[str, Iterable[str]] | None = None,
    train: Features | None = None,
    tuning: Features | None = None,
    keep_features: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """`evaluate` on features that are there already.

    Args:
        gate: whose score, threshold and kept features are used; None for none.
        features: by set; those of the known test images are `id`, with labels or not.
        scores: as in `evaluate`, as are `groups` and `keep_features`.
        groups: OoD sets whose means are taken.
        train: of labelled training images, which scores are fitted to; by default what the gate keeps.
        tuning: of images that scores are scaled on; by default what the gate keeps.
        keep_features: keep the features in the result, for a report.
        progress: told how far it is.

    Raises:
        EvaluationError: there is no set `id`, a set is empty, or sets are of different networks; otherwise as
            `evaluate`.
        ScoreError: there is no score of that name.
    """
    started = time.perf_counter()
    if "id" not in features:
        raise EvaluationError(f"the known images are wanted under 'id'; there are only: {', '.join(features)}")
    if gate is not None and not isinstance(gate, Gate):
        raise EvaluationError(f"gate= is a gate or None, and not {type(gate).__name__}")
    known = features["id"]
    check_names([name for name in features if name != "id"])
    own = None if gate is None else gate.score
    if gate is not None:
        train = gate.kept.get("train") if train is None else train
        tuning = gate.kept.get("tuning") if tuning is None else tuning
    fitted = {name: part for name, part in (("train", train), ("tuning", tuning)) if part is not None}
    _check_one_network(known, [*features.items(), *fitted.items()])
    scores = asked(scores)
    wanted = chosen(scores, own)
    extra = [] if own is None or own in wanted else [own]
    values, refused = computed([*wanted, *extra], features, train=train, tuning=tuning, own=own, progress=progress)
    if refused and ALL not in scores:
        raise EvaluationError("; ".join(f"{name} cannot be had: {reason}" for name, reason in refused.items()))
    wrong = None if known.labels is None else (known.logits.argmax(dim=1) != known.labels).numpy()
    found = figured(
        {score.name: values[score.name] for score in wanted if score.name in values},
        wrong,
        checked_groups(groups, [name for name in features if name != "id"]),
        {name: part.ids for name, part in features.items()},
        started,
    )
    return dataclasses.replace(
        found,
        gate_score=None if own is None else own.name,
        outcome=None if gate is None else _outcome(gate, features, values[gate.score.name], wrong),
        refused=refused,
        values=values,
        features=dict(features) if keep_features else None,
        gate=None if gate is None else _described(gate),
        settings={score.name: _settings(score) for score in wanted if score.name in values},
        fitted={name: len(part) for name, part in fitted.items()},
        digests={name: part.digests for name, part in features.items() if part.digests is not None},
    )


def _check_one_network(known: Features, sets: Iterable[tuple[str, Features]]) -> None:
    """Refuse features that no score may look at together, and sets of no image."""
    for name, part in sets:
        if len(part) == 0:
            raise EvaluationError(f"{name} has no images; leave that set out")
        tau = abs(math.log(part.temperature / known.temperature)) < _ROUNDED
        heads = tau and _is_alike(part.weight, known.weight) and _is_alike(part.bias, known.bias)
        if not heads or part.magnitude.shape[1] != known.magnitude.shape[1]:
            raise EvaluationError(
                f"the features of {name} are another network's than those of id: weight, bias or temperature of their "
                "heads, or the lengths of their magnitude vectors, are not the same; take all of one network"
            )


def _is_alike(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return one is other
    room = _ROUNDED * float(other.nan_to_num().abs().max())
    return torch.allclose(one, other, rtol=0, atol=room, equal_nan=True)


def _settings(score: Score) -> dict[str, Any]:
    """As JSON has them; of what it has not, or what is long, the type."""
    return {name: value if _is_plain(value) else type(value).__name__ for name, value in score.settings.items()}


def _is_plain(value: Any) -> bool:
    try:
        return len(json.dumps(value, allow_nan=False)) <= _LONGEST_SETTING
    except (TypeError, ValueError, RecursionError):
        return False


def _described(gate: Gate) -> dict[str, Any]:
    score = {"name": gate.score.name, "settings": gate.score.settings}
    run = {"run": gate.provenance["run"]} if trained_here(gate.provenance) else {}
    return {"score": score, **run}


def open_known(data: Data, *, image_column: str = "image", label_column: str | None = None) -> Source:
    """The source of known test images, with labels where there are any; one class is enough.

    Args:
        data: see `open_source`.
        image_column: in tables, the column of images.
        label_column: in tables, the column of labels, which must be there; None stands for `label`, if there is one.

    Raises:
        SourceError: as of `open_source`, also where labels are there but not as they should be.
    """
    try:
        return open_source(
            data, labelled=True, least_classes=1, image_column=image_column, label_column=label_column or "label"
        )
    except NoLabelsError:
        source = open_source(data, labelled=False, image_column=image_column)
        if label_column is not None and isinstance(source, ParquetImages):
            raise
        return source


def _outcome(
    gate: Gate, features: Mapping[str, Features], values: Mapping[str, np.ndarray], wrong: np.ndarray | None
) -> GateOutcome:
    calibration = gate.calibration
    accepted = {
        name: calibration.accepts(values[name], part.logits.argmax(dim=1).numpy()) for name, part in features.items()
    }
    known = accepted["id"]
    return GateOutcome(
        promised=calibration.expected_false_alarm_rate,
        realised=float((~known).mean()),
        band=None if calibration.by_class else false_alarm_band(calibration.alpha, calibration.n, len(known)),
        accuracy_accepted=None if wrong is None else metrics.accuracy_among_accepted(~wrong, known),
        rejected={name: float((~part).mean()) for name, part in accepted.items() if name != "id"},
    )
