"""Labels as they stand with images: names, or numbers that have names."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from normgate.data.sources import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def named_labels(labels: Iterable[Any], classes: Sequence[str] | None = None) -> tuple[dict[Any, str], tuple[str, ...]]:
    """Names of classes by label, and all names in the order of the classes.

    Args:
        labels: names or whole numbers, as often as they occur.
        classes: all names in the order of their numbers, where they are known.

    Raises:
        SourceError: a label is neither name nor number, or is none of the classes.
    """
    labels = list(labels)
    for i, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise SourceError(f"label {i} is {label!r}; labels must be names or whole numbers")
    if classes is None:
        ordered = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
        names = {label: str(label) for label in ordered}
        return names, tuple(names.values())
    # ImageNet calls a bird and a machine "crane"; a name must tell one class.
    counts = collections.Counter(classes)
    distinct = [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(classes)]
    names = {name: name for name in distinct} | dict(enumerate(distinct))
    unknown = next((label for label in labels if label not in names), None)
    if unknown is not None:
        raise SourceError(f"the label {unknown!r} is none of the {len(classes)} classes")
    return names, tuple(distinct)


def plain(value: Any) -> Any:
    """Python's own number or string for a NumPy or torch scalar; an array of several stays what it is."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):
        return value
