"""Images in memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from normgate.data.folders import path_record
from normgate.data.sources import Record, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normgate.data.decoding import Payload


class ImageList:
    """A sequence of Pillow images, uint8 arrays, encoded bytes or paths.

    Args:
        images: the images; an array (N, H, W, C) is N of them.
        labels: a name or number for each; numbers are looked up in `classes`, or are names themselves.
        groups: which images belong together, one value each.
        classes: names of the classes, in the order of their numbers; without it, the labels that occur,
            sorted.

    Raises:
        SourceError: there is no image, the lengths differ, or a label is no class.
    """

    def __init__(
        self,
        images: Sequence[Payload],
        labels: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if len(images) == 0:
            raise SourceError("the sequence holds no image")
        for name, values in (("labels", labels), ("groups", groups)):
            if values is not None and len(values) != len(images):
                raise SourceError(f"there are {len(images)} images and {len(values)} {name}; pass one each")
        self._images = images
        self._groups = None if groups is None else [str(group) for group in _plain(groups)]
        self._labels: list[str] | None = None
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0
        if labels is not None:
            self._labels, self.classes = named_labels(_plain(labels), classes)

    def __iter__(self) -> Iterator[Record]:
        """In the order given."""
        for i, image in enumerate(self._images):
            label = None if self._labels is None else self._labels[i]
            group = None if self._groups is None else self._groups[i]
            if isinstance(image, str | os.PathLike):
                yield path_record(image, label, group)
            else:
                yield Record(f"array#{i}", image, label, group)

    def __len__(self) -> int:
        return len(self._images)


def named_labels(labels: Sequence[Any], classes: Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
    """Labels as names, and the names of the classes.

    Raises:
        SourceError: a label is neither name nor number, or is none of the classes.
    """
    for i, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise SourceError(f"label {i} is {label!r}; labels must be names or whole numbers")
    if classes is None:
        names = {
            label: str(label)
            for label in sorted(set(labels), key=lambda label: (isinstance(label, str), label))
        }
    else:
        names = dict(enumerate(classes)) | {name: name for name in classes}
    unknown = next((label for label in labels if label not in names), None)
    if unknown is not None:
        raise SourceError(f"the label {unknown!r} is none of the {len(classes or ())} classes")
    return [names[label] for label in labels], tuple(names.values()) if classes is None else tuple(classes)


def _plain(values: Sequence[Any]) -> list[Any]:
    """Python's own numbers and strings, out of arrays and tensors too."""
    return (
        list(values.tolist())
        if hasattr(values, "tolist")
        else [value.item() if hasattr(value, "item") else value for value in values]
    )
