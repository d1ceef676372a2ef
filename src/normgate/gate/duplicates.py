"""Images that two of the train, tuning and calibration sets share, by decoded content."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from normgate.errors import NormgateError, NormgateWarning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COPIES = 0.01
"""Share of the calibration images that may be copies before that is worth a word."""
ORDER = ("train", "tuning", "calibration")


class DuplicateError(NormgateError):
    """Two of the sets share images."""


def repeated(
    digests: Mapping[str, Sequence[bytes]], known: Mapping[str, Sequence[bytes]] | None = None
) -> dict[str, list[int]]:
    """For each set, the rows whose images an earlier set holds, too.

    An image that two sets share stays in the earlier one: the network may have been trained on it, and a calibration
    image that was trained on is not exchangeable with a new one.

    Args:
        digests: for each set of `ORDER` that there is, one fingerprint an image.
        known: sets from before; those that are not replaced keep their images, and count as earlier, as training images
            do that are replaced.
    """
    before = known or {}
    earlier = {digest for name, own in before.items() if name not in digests for digest in own}
    rows: dict[str, list[int]] = {}
    for name in (name for name in ORDER if name in digests):
        own = digests[name]
        rows[name] = [row for row, digest in enumerate(own) if digest in earlier]
        earlier.update(own)
        if name == "train":  # what the network has seen it has seen, whatever else a score is fitted to
            earlier.update(before.get(name, ()))
    return rows


def say_dropped(rows: Mapping[str, Sequence[int]]) -> None:
    """Warn of images that are left out, by set, as `repeated` gives them."""
    if said := [f"{len(own)} {name}" for name, own in rows.items() if own]:
        warnings.warn(
            f"left out, since an earlier set has them, too: {', '.join(said)} images", NormgateWarning, stacklevel=3
        )


def warn_of_copies(calibration: Sequence[bytes]) -> None:
    """Warn where calibration images are copies of one another, which the threshold's promise counts as independent."""
    copies = len(calibration) - len(set(calibration))
    if copies > COPIES * len(calibration):
        warnings.warn(
            f"{copies} of the {len(calibration)} calibration images are copies of others, and the threshold's promise "
            f"counts each as independent: it is worth no more than that of {len(set(calibration))}. Keep one of each",
            NormgateWarning,
            stacklevel=3,
        )


def check(digests: Mapping[str, Sequence[bytes]]) -> None:
    """Refuse sets that share images.

    Raises:
        DuplicateError: counts the shared images for each two sets.
    """
    present = [name for name in ORDER if name in digests]
    counts = {
        f"{first} and {second}": len(set(digests[first]) & set(digests[second]))
        for i, first in enumerate(present)
        for second in present[i + 1 :]
    }
    found = [f"{count} in {pair}" for pair, count in counts.items() if count]
    if found:
        raise DuplicateError(
            f"two sets share images, which would spoil the threshold's promise: {', '.join(found)}; remove them, "
            "or pass --drop-duplicates (drop_duplicates=True) to leave them out of the later set"
        )
