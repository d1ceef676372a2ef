"""From a network and its tuning images to the features of probes, and from those to a score."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from normgate import scores
from normgate.data.loading import load_batches
from normgate.features import concatenate
from normgate.gate.errors import GateError
from normgate.probes import PROBES, ProbeReport, make, probe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normgate.data.sources import Source
    from normgate.features import FeatureExtractor, Features
    from normgate.progress import Progress
    from normgate.scores import Score

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
    for name, images in make(np.concatenate(pixels), predicted):
        for start in range(0, len(images), batch_size):
            part = extractor(images[start : start + batch_size])
            ids = tuple(f"{name}#{start + i}" for i in range(len(part)))
            parts.append(dataclasses.replace(part, ids=ids))
            progress("probes", sum(map(len, parts)), total)
    return concatenate(parts)


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
    train = sets.get("train")
    bank = None if train is None else train.class_balanced(BANK_ROWS)
    report = known
    if score is None:
        if "probes" in sets:
            report = probe(sets["tuning"], sets["probes"], bank)
        assert report is not None  # the caller saw to it
        score = scores.create(report.choice())
    if score.needs_fit:
        if train is None:
            raise GateError(f"{score.name} is fitted to training images, and there are none; pass train= (--train)")
        score.fit(train, sets.get("tuning"))
    reference = sets.get("tuning", sets.get("calibration"))
    if reference is not None and (reason := score.refusal(reference)) is not None:
        raise GateError(f"{score.name} cannot be used: {reason}; choose another score, such as energy or knn")
    if "probes" in sets:
        report = probe(sets["tuning"], sets["probes"], bank, own=score)
    return score, report
