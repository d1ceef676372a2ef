"""The embedded demo images: hand signs to train on, other signs, satellite tiles and waste to turn away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from normgate.data.sources import SourceError

if TYPE_CHECKING:
    from normgate.data.parquet import ParquetImages

DEMO_SPLITS = ("train", "calibration", "test", "near", "far-satellite", "far-waste")


def demo_set(split: str) -> ParquetImages:
    """One split of the embedded demo images, 64 × 64, with labels and, for signs, the person as group.

    Args:
        split: "train", "calibration" or "test" (signs 0 to 5, 7 and 8; no person in two of them), "near"
            (signs 6 and 9), "far-satellite" or "far-waste".

    Raises:
        SourceError: there is no such split.
    """
    from normgate.data.parquet import ParquetImages

    if split not in DEMO_SPLITS:
        raise SourceError(f"the demo set has no split {split!r}; choose from: {', '.join(DEMO_SPLITS)}")
    path = Path(__file__).parent / "demo.parquet"
    return ParquetImages(path, group_column="group", select=f"split={split}")
