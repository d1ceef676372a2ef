"""The images of a report: which of them, how small, and their nearest training images where these may be shown."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from normgate.data.decoding import DEFAULT_MAX_PIXELS, ImageError, decode, digest
from normgate.data.sources import Records
from normgate.data.thumbnails import thumbnail
from normgate.extractor import extract
from normgate.report.errors import ReportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from normgate.data.sources import Record, Source
    from normgate.features import Features
    from normgate.gate import Gate
    from normgate.report.scored import ScoredSet

SIDE, NEIGHBOUR_SIDE = 96, 48
EXTREMES, ENDS = 8, 80
"""Images shown at either end of a set's scores, and at most of all sets."""
SPREAD = 40
"""Images of a set among which the slider chooses; fewer where there are many sets."""
BUDGET = 400
"""Images in all that the slider chooses among: the page stays small whatever is scored."""
NEIGHBOURS = 3


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A training image near another one, in direction.

    Attributes:
        uri: the thumbnail, as a data URI.
        id: name of the image.
        label: its class.
        cosine: of the angle between the features of both.
    """

    uri: str
    id: str
    label: str
    cosine: float


@dataclasses.dataclass(frozen=True)
class Card:
    """One image with what the gate says of it.

    Attributes:
        uri: the thumbnail, as a data URI; None where the image cannot be read any more.
        id: name of the image.
        label: predicted class.
        true: its class, if known.
        probability: of the predicted class.
        score: larger = more familiar.
        p_value: share of calibration images at most as familiar.
        neighbours: the nearest training images, if these may be shown.
    """

    uri: str | None
    id: str
    label: str
    true: str | None
    probability: float
    score: float
    p_value: float
    neighbours: tuple[Neighbour, ...] = ()


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The images of one set that are shown.

    Attributes:
        least: the least familiar ones, the least first.
        most: the most familiar ones, the most first.
        spread: some from all over the set, the least familiar first, for lists that follow the slider.
    """

    least: tuple[Card, ...]
    most: tuple[Card, ...]
    spread: tuple[Card, ...]


def galleries(
    gate: Gate,
    sets: Sequence[ScoredSet],
    sources: Mapping[str, Source],
    train: Source | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> dict[str, Gallery]:
    """Choose images of each set and read them again.

    Args:
        gate: whose network says which training images are near.
        sets: scored images.
        sources: where the images of each set are.
        train: the gate's training images, if they may be shown.
        max_pixels: larger images are not shown.

    Raises:
        ReportError: `train` is not what the gate was trained on, or the gate keeps no training features.
    """
    size = max(2, min(SPREAD, BUDGET // max(1, len(sets))))
    ends = max(2, min(EXTREMES, ENDS // max(1, len(sets))))
    chosen = {part.name: _chosen(part, size, ends) for part in sets}
    wanted = {name: {image for rows in groups for image in rows} for name, groups in chosen.items()}
    records = {
        part.name: _found(sources[part.name], {part.verdicts.id[row] for row in wanted[part.name]}) for part in sets
    }
    near = {} if train is None else _neighbours(gate, list(records.items()), train, max_pixels)
    found = {}
    for part in sets:
        cards = {row: _card(part, row, records[part.name], near, max_pixels) for row in wanted[part.name]}
        found[part.name] = Gallery(*(tuple(cards[row] for row in rows) for rows in chosen[part.name]))
    return found


def _chosen(part: ScoredSet, size: int, most: int) -> tuple[list[int], list[int], list[int]]:
    """Rows: the least familiar, the most familiar, and some from all over.

    Half of the last are those that matter most, the least familiar known or screened images and the most familiar
    unknown ones, and the others lie evenly between.
    """
    order = np.argsort(part.verdicts.score, kind="stable")
    ends = min(most, len(order) // 2)
    half = min(size // 2, len(order))
    worst = order[len(order) - half :] if part.kind == "unknown" else order[:half]
    evenly = order[np.linspace(0, len(order) - 1, min(size - half, len(order))).round().astype(int)]
    members = set(worst.tolist()) | set(evenly.tolist())
    spread = [row for row in order.tolist() if row in members]
    return order[:ends].tolist(), order[::-1][:ends].tolist(), spread


def _found(source: Iterable[Record], ids: set[str]) -> dict[str, Record]:
    """The records of these ids; a source may have changed since it was scored, so some may be gone."""
    return {record.id: record for record in source if record.id in ids}


def _card(
    part: ScoredSet,
    row: int,
    records: Mapping[str, Record],
    near: Mapping[str, tuple[Neighbour, ...]],
    max_pixels: int,
) -> Card:
    verdict = part.verdicts[row]
    record = records.get(verdict.id)
    return Card(
        uri=None if record is None else _thumbnail(record, SIDE, max_pixels),
        id=verdict.id,
        label=str(verdict.label),
        true=None if part.true is None else part.true[row],
        probability=verdict.probability,
        score=verdict.score,
        p_value=verdict.p_value,
        neighbours=near.get(f"{part.name}/{verdict.id}", ()),
    )


def _thumbnail(record: Record, side: int, max_pixels: int) -> str | None:
    try:
        image = decode(record.payload, max_pixels)
    except ImageError:
        return None
    return thumbnail(image, side)


def _neighbours(
    gate: Gate, groups: Sequence[tuple[str, Mapping[str, Record]]], train: Source, max_pixels: int
) -> dict[str, tuple[Neighbour, ...]]:
    """The training images whose directions are nearest to each image's, by `set/id`."""
    kept = _kept(gate)
    assert kept.labels is not None
    queries = Records([record for _, records in groups for record in records.values()])
    names = [f"{name}/{image}" for name, records in groups for image in records]
    if not names:
        return {}
    unique = Records([dataclasses.replace(record, id=name) for name, record in zip(names, queries, strict=True)])
    features = extract(gate.extractor, unique, max_pixels=max_pixels).features
    cosines, rows = (features.u @ kept.u.T).topk(min(NEIGHBOURS, len(kept)), dim=1)
    wanted = {kept.ids[row] for row in torch.unique(rows).tolist()}
    images = _found(train, wanted)
    _check_trained_on(gate, images, wanted)
    # As large as training images may be; that they can be read has just been seen.
    thumbnails = {image: _thumbnail(record, NEIGHBOUR_SIDE, DEFAULT_MAX_PIXELS) for image, record in images.items()}
    return {
        name: tuple(
            Neighbour(str(thumbnails[kept.ids[row]]), kept.ids[row], gate.classes[int(kept.labels[row])], cosine)
            for row, cosine in zip(own_rows, own_cosines, strict=True)
        )
        for name, own_rows, own_cosines in zip(features.ids, rows.tolist(), cosines.tolist(), strict=True)
    }


def check_neighbours(gate: Gate, train: Source) -> None:
    """Say what would keep neighbours from being shown, before anything that takes long.

    Raises:
        ReportError: the gate keeps no training features, or some of its training images are not among `train`.
    """
    wanted = set(_kept(gate).evenly(FIRST).ids)
    _check_trained_on(gate, _found(train, wanted), wanted)


FIRST = 10
"""Training images that are looked for at first."""


def _kept(gate: Gate) -> Features:
    kept = gate.kept.get("train")
    if kept is None or kept.labels is None:
        raise ReportError("this gate keeps no training features (it is lean), so that nearest ones cannot be found")
    return kept


def _check_trained_on(gate: Gate, images: Mapping[str, Record], wanted: set[str]) -> None:
    known = set(gate.digests.get("train", ()))

    def is_own(name: str) -> bool:
        try:
            return digest(decode(images[name].payload, DEFAULT_MAX_PIXELS)) in known
        except (KeyError, ImageError):
            return False

    if foreign := sorted(name for name in wanted if not is_own(name)):
        raise ReportError(
            f"{len(foreign)} of {len(wanted)} nearest training images are not among the images given, such as "
            f"{foreign[0]}; pass the images that the gate was trained on (--with-neighbours DATA)"
        )
