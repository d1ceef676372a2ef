"""Training images: resident as one uint8 tensor where they fit, streamed from their files where they do not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

import torch

from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.loading import load_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import Record


class TrainingImages(Protocol):
    """N images with class numbers, given out in batches of pixels."""

    @property
    def labels(self) -> torch.Tensor:
        """(N,) class numbers."""
        ...

    def batches(self, order: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pixels (B, H, W, 3) uint8 and their numbers (B,) among all images, whole batches in the order given."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ResidentImages:
    """Images kept as one uint8 tensor, on the device if it has room: no work per image is left."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def batches(self, order: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pixels (B, H, W, 3) uint8 and their numbers (B,) among all images, whole batches in the order given."""
        order = order.to(self.pixels.device)
        for rows in torch.split(order, batch_size):
            yield self.pixels[rows], rows


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedImages:
    """Images decoded anew in each epoch, ahead of the network."""

    records: Sequence[Record]
    labels: torch.Tensor
    preprocessing: Preprocessing
    workers: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS

    def batches(self, order: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pixels (B, H, W, 3) uint8 and their numbers (B,) among all images, whole batches in the order given."""
        rows = order.tolist()
        loaded = load_batches(
            (self.records[row] for row in rows),
            self.preprocessing,
            batch_size=batch_size,
            workers=self.workers,
            max_pixels=self.max_pixels,
        )
        for batch, numbers in zip(loaded, torch.split(order, batch_size), strict=True):
            # A file that went bad since it was checked leaves a smaller batch, not a crash after hours.
            yield torch.from_numpy(batch.pixels), numbers[torch.from_numpy(batch.readable)]
