"""The geometry of features while a network trains: the same images, looked at after each epoch."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from normgate.collapse import collapse_log
from normgate.extractor import extract

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normgate.data.sources import Records
    from normgate.extractor import FeatureExtractor

SAMPLE = 2000
"""Training images in all, the same number of each class where there are so many."""


@dataclasses.dataclass(frozen=True)
class GeometryLog:
    """Measures neural collapse whenever it is called; the network is left as it was.

    Attributes:
        extractor: of the network that trains.
        images: labelled.
        classes: names of the classes by class number.
        workers: decoding threads.
        max_pixels: larger images are errors.
    """

    extractor: FeatureExtractor
    images: Records
    classes: Sequence[str]
    workers: int | None
    max_pixels: int

    def __call__(self) -> dict[str, float | None]:
        """Columns of the log; see `normgate.collapse.collapse_log`."""
        found = extract(
            self.extractor, self.images, classes=self.classes, workers=self.workers, max_pixels=self.max_pixels
        )
        return collapse_log(found.features)


def sample(records: Records, classes: Sequence[str]) -> Records:
    """The first images of each class, as many of each."""
    each = math.ceil(SAMPLE / len(classes))
    room = dict.fromkeys(classes, each)
    rows = []
    for row, record in enumerate(records):
        name = str(record.label)
        if room[name]:
            room[name] -= 1
            rows.append(row)
    return records.subset(rows)
