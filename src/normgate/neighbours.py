"""The training images nearest to an image, for those who may see them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from typing import TYPE_CHECKING

from normgate.data.decoding import DEFAULT_MAX_PIXELS, ImageError, decode, digest
from normgate.data.loading import batched, default_workers
from normgate.data.thumbnails import thumbnail
from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import torch

    from normgate.data.sources import Record, Source
    from normgate.gate import Gate


class NeighbourError(NormgateError):
    """Nearest training images cannot be shown."""


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
    """The training images whose features a gate keeps, at most 10,000, by their directions.

    Args:
        gate: keeps training features.
        source: the images that it was trained on, where thumbnails are made of those that are shown, or `read`.
        side: of thumbnails, in pixels.

    Raises:
        NeighbourError: the gate keeps no training features.
    """

    def __init__(self, gate: Gate, source: Source, side: int) -> None:
        kept = gate.kept.get("train")
        if kept is None or kept.labels is None:
            raise NeighbourError("this gate keeps no training features (it is lean), so that it has no nearest images")
        self.ids = kept.ids
        self._kept = kept
        self._labels = [gate.classes[label] for label in kept.labels.tolist()]
        self._extractor = gate.extractor
        self._known = frozenset(gate.digests.get("train", ()))
        self._source = source
        self._side = side
        self._thumbnails: dict[str, str] = {}

    def nearest(self, pixels: np.ndarray, count: int) -> list[tuple[Neighbour, ...]]:
        """The training images whose directions are nearest to each image's, the nearest first.

        Args:
            pixels: (N, H, W, 3) uint8, of the network's size.
            count: how many for each.

        Raises:
            NeighbourError: as of `read`.
        """
        return self.nearest_to(self._extractor(pixels).u, count)

    def nearest_to(self, directions: torch.Tensor, count: int) -> list[tuple[Neighbour, ...]]:
        """The same of (N, D) directions of features."""
        cosines, rows = (directions @ self._kept.u.T).topk(min(count, len(self.ids)), dim=1)
        self.read({self.ids[row] for row in rows.flatten().tolist()})
        return [
            tuple(
                Neighbour(self.ids[row], self._labels[row], cosine, self._thumbnails[self.ids[row]])
                for row, cosine in zip(own_rows, own_cosines, strict=True)
            )
            for own_rows, own_cosines in zip(rows.tolist(), cosines.clamp(-1, 1).tolist(), strict=True)
        ]

    def read(self, ids: Collection[str]) -> None:
        """Make the thumbnails of these images, where they are not there yet.

        Raises:
            NeighbourError: some are not among the images given, or are others than the gate was trained on.
        """
        wanted = {name for name in ids if name not in self._thumbnails}
        if not wanted:
            return
        records = (record for record in self._source if record.id in wanted)
        with concurrent.futures.ThreadPoolExecutor(default_workers()) as pool:
            for some in batched(records, 256):
                self._thumbnails.update(filter(None, pool.map(self._made, some)))
        if missing := sorted(wanted - self._thumbnails.keys()):
            raise NeighbourError(
                f"{len(missing)} of {len(wanted)} training images that the gate keeps features of, such as "
                f"{missing[0]}, are not among the images given; pass the images that the gate was trained on "
                "(--with-neighbours DATA)"
            )

    def _made(self, record: Record) -> tuple[str, str] | None:
        """Id and thumbnail of an image that the gate was really trained on."""
        try:
            image = decode(record.payload, DEFAULT_MAX_PIXELS)
        except ImageError:
            return None
        return (record.id, thumbnail(image, self._side)) if digest(image) in self._known else None
