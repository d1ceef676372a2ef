"""The images of a report: which of them, how small, and their nearest training images where these may be shown."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

import numpy as np

from normgate.data.decoding import DEFAULT_MAX_PIXELS, ImageError, decode, digest
from normgate.data.sources import Records
from normgate.data.thumbnails import thumbnail
from normgate.errors import NormgateWarning
from normgate.extractor import extract
from normgate.neighbours import Neighbours

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from normgate.data.sources import Record, Source
    from normgate.gate import Gate
    from normgate.neighbours import Neighbour
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
        NeighbourError: `train` is not what the gate was trained on, or the gate keeps no training features.
    """
    size = max(2, min(SPREAD, BUDGET // max(1, len(sets))))
    ends = max(2, min(EXTREMES, ENDS // max(1, len(sets))))
    chosen = {part.name: _chosen(part, size, ends) for part in sets}
    wanted = {name: {image for rows in groups for image in rows} for name, groups in chosen.items()}
    records, shown = {}, {}
    for part in sets:
        found = _found(sources[part.name], {part.verdicts.id[row] for row in wanted[part.name]})
        shown[part.name] = _thumbnails(part, found, max_pixels)
        records[part.name] = {name: record for name, record in found.items() if name in shown[part.name]}
    near = {} if train is None else _neighbours(gate, list(records.items()), train, max_pixels)
    galleries = {}
    for part in sets:
        cards = {row: _card(part, row, shown[part.name], near) for row in wanted[part.name]}
        galleries[part.name] = Gallery(*(tuple(cards[row] for row in rows) for rows in chosen[part.name]))
    return galleries


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


def _card(part: ScoredSet, row: int, shown: Mapping[str, str], near: Mapping[str, tuple[Neighbour, ...]]) -> Card:
    verdict = part.verdicts[row]
    return Card(
        uri=shown.get(verdict.id),
        id=verdict.id,
        label=str(verdict.label),
        true=None if part.true is None else part.true[row],
        probability=verdict.probability,
        score=verdict.score,
        p_value=verdict.p_value,
        neighbours=near.get(f"{part.name}/{verdict.id}", ()),
    )


def _thumbnails(part: ScoredSet, records: Mapping[str, Record], max_pixels: int) -> dict[str, str]:
    """By id, of the records that can be read and show what was scored: names in memory are no more than numbers."""
    scored = {} if part.digests is None else dict(zip(part.verdicts.id, part.digests, strict=True))
    shown: dict[str, str] = {}
    others = 0
    for name, record in records.items():
        try:
            image = decode(record.payload, max_pixels)
        except ImageError:
            continue
        if scored and digest(image) != scored[name]:
            others += 1
        else:
            shown[name] = thumbnail(image, SIDE)
    if others:
        warnings.warn(
            f"{others} images of {part.name} are not those that were scored, and are left out of the report; pass the "
            "images of the evaluation, in the same order",
            NormgateWarning,
            stacklevel=5,
        )
    return shown


def _neighbours(
    gate: Gate, groups: Sequence[tuple[str, Mapping[str, Record]]], train: Source, max_pixels: int
) -> dict[str, tuple[Neighbour, ...]]:
    """The training images whose directions are nearest to each image's, by `set/id`."""
    near = Neighbours(gate, train, NEIGHBOUR_SIDE)
    queries = [
        dataclasses.replace(record, id=f"{name}/{record.id}") for name, records in groups for record in records.values()
    ]
    if not queries:
        return {}
    features = extract(gate.extractor, Records(queries), max_pixels=max_pixels).features
    return dict(zip(features.ids, near.nearest_to(features.u, NEIGHBOURS), strict=True))


def check_neighbours(gate: Gate, train: Source) -> None:
    """Say what would keep neighbours from being shown, before anything that takes long.

    Raises:
        NeighbourError: the gate keeps no training features, or some of its training images are not among `train`.
    """
    near = Neighbours(gate, train, NEIGHBOUR_SIDE)
    near.read(near.ids[:: max(1, len(near.ids) // FIRST)][:FIRST])


FIRST = 10
"""Training images that are looked for at first."""
