"""The training images nearest to an image, where visitors may see them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from typing import TYPE_CHECKING

from normgate.data.decoding import DEFAULT_MAX_PIXELS, ImageError, decode, digest
from normgate.data.loading import batched, default_workers
from normgate.data.thumbnails import thumbnail
from normgate.serving.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from normgate.data.sources import Record, Source
    from normgate.gate import Gate

SIDE = 64
MOST = 8
"""Neighbours of an image that can be asked for."""


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A training image near another one, in direction.

    Attributes:
        id: name of the image.
        label: its class.
        cosine: of the angle between the features of both.
        thumbnail: as a data URI.
    """

    id: str
    label: str
    cosine: float
    thumbnail: str


class Neighbours:
    """Thumbnails of the training images whose features a gate keeps, at most 10,000, by their directions.

    Args:
        gate: keeps training features, and says how near images are.
        source: the images that it was trained on.

    Raises:
        ServingError: the gate keeps no training features, or some of these images are not in the source.
    """

    def __init__(self, gate: Gate, source: Source) -> None:
        kept = gate.kept.get("train")
        if kept is None or kept.labels is None:
            raise ServingError("this gate keeps no training features (it is lean), so that it has no nearest images")
        self._extractor = gate.extractor
        self._directions = kept.u
        self._ids = kept.ids
        self._labels = [gate.classes[label] for label in kept.labels.tolist()]
        self._thumbnails = _thumbnails(source, set(kept.ids), frozenset(gate.digests.get("train", ())))
        if missing := sorted(set(kept.ids) - self._thumbnails.keys()):
            raise ServingError(
                f"{len(missing)} of the {len(kept)} training images that the gate keeps features of, such as "
                f"{missing[0]}, are not among the images given; pass those that it was trained on "
                "(--with-neighbours DATA)"
            )

    def nearest(self, pixels: np.ndarray, count: int) -> list[tuple[Neighbour, ...]]:
        """The training images whose directions are nearest to each image's, the nearest first.

        Args:
            pixels: (N, H, W, 3) uint8, of the network's size.
            count: how many for each.
        """
        directions = self._extractor(pixels).u
        cosines, rows = (directions @ self._directions.T).topk(min(count, len(self._ids)), dim=1)
        return [
            tuple(
                Neighbour(self._ids[row], self._labels[row], cosine, self._thumbnails[self._ids[row]])
                for row, cosine in zip(own_rows, own_cosines, strict=True)
            )
            for own_rows, own_cosines in zip(rows.tolist(), cosines.clamp(-1, 1).tolist(), strict=True)
        ]


def _thumbnails(source: Source, wanted: set[str], known: frozenset[bytes]) -> Mapping[str, str]:
    """By id, of those images that the gate was really trained on."""

    def made(record: Record) -> tuple[str, str] | None:
        try:
            image = decode(record.payload, DEFAULT_MAX_PIXELS)
        except ImageError:
            return None
        return None if digest(image) not in known else (record.id, thumbnail(image, SIDE))

    found: dict[str, str] = {}
    records = (record for record in source if record.id in wanted)
    with concurrent.futures.ThreadPoolExecutor(default_workers()) as pool:
        for some in batched(records, 256):
            found.update(filter(None, pool.map(made, some)))
    return found
