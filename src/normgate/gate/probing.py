"""From a network and its tuning images to the features of probes, and from those to a score."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np

from normgate import scores
from normgate.data.loading import load_batches
from normgate.features import FeatureError, concatenate
from normgate.gate.errors import GateError
from normgate.probes import PROBES, ProbeReport, make, probe
from normgate.scores import ScoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normgate.data.sources import Source
    from normgate.features import FeatureExtractor, Features
    from normgate.progress import Progress
    from normgate.scores import Score

AUTO = "auto"
IMAGES = 200
"""Tuning images of which probes are made: each probe costs as many forward passes."""
BANK_ROWS = 10_000
"""Training features that the scores are fitted to when probes compare them; as many as a gate keeps."""


def probe_features(
    extractor: FeatureExtractor,
    source: Source,
    tuning: Features,
    *,
    batch_size: int,
    workers: int | None,
    max_pixels: int,
    progress: Progress,
) -> Features:
    """Features of every probe of (at most 200) tuning images; an id is `family/variant#number`.

    Args:
        extractor: the network.
        source: the tuning images.
        tuning: their features, which say which images to take and what they were predicted to be.
        batch_size: images in a forward pass.
        workers: decoding threads.
        max_pixels: larger images are not taken.
        progress: told how far it is.
    """
    chosen = np.random.default_rng(0).permutation(len(tuning))[:IMAGES]
    rows = {tuning.ids[row]: row for row in chosen.tolist()}
    batches = load_batches(
        (record for record in source if record.id in rows),
        extractor.preprocessing,
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
    )
    pixels: list[np.ndarray] = []
    taken: list[int] = []
    for batch in batches:
        pixels.append(batch.pixels)
        taken += [rows[record.id] for record, fine in zip(batch.records, batch.readable, strict=True) if fine]
    predicted = tuning.logits.argmax(dim=1).numpy()[taken]
    total = len(PROBES) * len(taken)
    parts: list[Features] = []
    done = 0
    for name, images in make(np.concatenate(pixels), predicted):
        # A network may give NaN for a flat field, say: that probe is left out, and the report says so.
        with contextlib.suppress(FeatureError):
            parts.append(_named(extractor, name, images, batch_size))
        done += len(images)
        progress("probes", done, total)
    if not parts:
        raise GateError("the network gives NaN or infinite features for every probe; its weights are broken")
    return concatenate(parts)


def _named(extractor: FeatureExtractor, name: str, images: np.ndarray, batch_size: int) -> Features:
    starts = range(0, len(images), batch_size)
    features = concatenate([extractor(images[start : start + batch_size]) for start in starts])
    return dataclasses.replace(features, ids=tuple(f"{name}#{i}" for i in range(len(features))))


def unfitted(score: str | Score, *, train: bool, tuning: bool) -> Score | None:
    """The score to fit, None for "auto": never the caller's object, which another gate may hold.

    Args:
        score: a name, "auto", or an object.
        train: whether there are training images.
        tuning: whether there are tuning images, or probes made of them.

    Raises:
        GateError: a gate cannot hold this score, or images that it needs are missing.
        ScoreError: there is no score of that name.
    """
    if isinstance(score, str) and score == AUTO:
        if not tuning:
            raise GateError(
                "the probes that choose a score are made of tuning images, and there are none; pass tuning= "
                "(--tuning), or name a score: calibration images are for the threshold alone"
            )
        return None
    wanted = scores.create(score) if isinstance(score, str) else copy.copy(score)
    _check_storable(wanted)
    if wanted.needs_fit and not train:
        raise GateError(f"{wanted.name} is fitted to training images, and there are none; pass train= (--train)")
    if wanted.needs_tuning and not tuning:
        raise GateError(
            f"{wanted.name} is scaled on tuning images, and there are none; pass tuning= (--tuning): "
            "calibration images are for the threshold alone"
        )
    return wanted


def _check_storable(score: Score) -> None:
    """Refuse, before any work, a score that would not be the same when the gate is loaded."""
    if not score.savable:
        raise GateError(
            f"{score.name} is an object of another package, which cannot be saved without pickling it, so no gate can "
            "hold it; compare it with evaluate(), and give the gate a score of normgate.scores.names()"
        )
    try:
        again = scores.create(score.name, **json.loads(json.dumps(score.settings)))
        same = type(again) is type(score) and again.settings == score.settings
    except (ScoreError, TypeError, ValueError) as error:
        raise GateError(
            f"a gate cannot hold {score.name} with these settings ({error}); make it with normgate.scores.create(name, "
            "…) and plain numbers"
        ) from error
    if not same:
        raise GateError(
            f"what is called {score.name} is not the score of that name; make it with normgate.scores.create(name, …)"
        )


def choose(
    score: Score | None, sets: Mapping[str, Features], known: ProbeReport | None = None
) -> tuple[Score, ProbeReport | None]:
    """The score, fitted, and what probes say of it and of all others.

    Args:
        score: unfitted; None lets the probes choose.
        sets: features by name: train, tuning, probes, as far as they are there.
        known: an earlier report, for a gate that keeps no features.

    Raises:
        GateError: the score cannot be fitted to what is there, or must not be used for this network.
    """
    report = known
    if score is None:
        if "probes" in sets:
            report = probe(sets["tuning"], sets["probes"], _bank(sets))
        assert report is not None  # unfitted() saw to it
        score = scores.create(report.choice())
    if score.needs_fit:
        if "train" not in sets:
            raise GateError(f"{score.name} is fitted to training images, and there are none; pass train= (--train)")
        score.fit(sets["train"], sets.get("tuning"))
    reference = sets.get("tuning", sets.get("calibration"))
    if reference is not None and (reason := score.refusal(reference)) is not None:
        raise GateError(f"{score.name} cannot be used: {reason}; choose another score, such as energy or knn")
    if "probes" in sets:
        report = reprobed(score, sets)
    elif report is not None and score.settings != scores.create(score.name).settings:
        report = report.without(score.name, "it has other settings than when the gate was probed")
    return score, report


def reprobed(score: Score, sets: Mapping[str, Features]) -> ProbeReport:
    """What probes say of all scores, the fitted one of the gate among them."""
    return probe(sets["tuning"], sets["probes"], _bank(sets), own=score)


def _bank(sets: Mapping[str, Features]) -> Features | None:
    return sets["train"].class_balanced(BANK_ROWS) if "train" in sets else None
