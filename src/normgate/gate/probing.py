"""From a network and its tuning images to the features of probes."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from normgate.data.loading import load_batches
from normgate.features import FeatureError, concatenate
from normgate.gate.errors import GateError
from normgate.probes import PROBES, make

if TYPE_CHECKING:
    from normgate.data.sources import Source
    from normgate.extractor import FeatureExtractor
    from normgate.features import Features
    from normgate.progress import Progress

IMAGES = 200
"""Tuning images of which probes are made: each probe costs as many forward passes."""


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
        taken += [rows[record.id] for record in batch.decoded]
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
