"""Images in memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from normgate.data.folders import path_record
from normgate.data.labels import named_labels, plain
from normgate.data.sources import Record, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normgate.data.decoding import Payload


class ImageList:
    """A sequence of Pillow images, uint8 arrays, encoded bytes or paths.

    Args:
        images: the images; an array (N, H, W, C) is N of them.
        labels: a name or number for each; the classes are those that occur, sorted.
        groups: which images belong together, one value each; None for an image by itself.

    Raises:
        SourceError: there is no image, the lengths differ, or a label is neither name nor number.
    """

    def __init__(
        self,
        images: Sequence[Payload],
        labels: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> None:
        if len(images) == 0:
            raise SourceError("the sequence holds no image")
        for name, values in (("labels", labels), ("groups", groups)):
            if values is not None and len(values) != len(images):
                raise SourceError(f"there are {len(images)} images and {len(values)} {name}; pass one each")
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0
        self._images = images
        own = [None] * len(images) if groups is None else [plain(group) for group in groups]
        self._groups = [None if group is None else str(group) for group in own]
        self._labels: list[str | None] = [None] * len(images)
        if labels is not None:
            numbered = [plain(label) for label in labels]
            names, self.classes = named_labels(numbered)
            self._labels = [names[label] for label in numbered]

    def __iter__(self) -> Iterator[Record]:
        """In the order given."""
        rows = zip(self._images, self._labels, self._groups, strict=True)
        for i, (image, label, group) in enumerate(rows):
            if isinstance(image, str | os.PathLike):
                yield path_record(image, label, group)
            else:
                yield Record(f"array#{i}", image, label, group)

    def __len__(self) -> int:
        return len(self._images)
