"""Data sets of torchvision by name, and any other that gives (image, label) by index."""

from __future__ import annotations

import difflib
import inspect
import urllib.parse
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from normgate.data.decoding import ImageError
from normgate.data.memory import named_labels
from normgate.data.sources import Record, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class DatasetImages:
    """A data set that gives `(image, label)` by index; a record is `NAME#index`.

    Args:
        dataset: made without `transform`, so that it gives Pillow images or uint8 arrays.
        labelled: whether labels are needed.
        name: stands in the ids; by default the name of its class.

    Raises:
        SourceError: it is empty or gives something else.
    """

    def __init__(self, dataset: Any, *, labelled: bool, name: str | None = None) -> None:
        self._dataset = dataset
        self.name = name or type(dataset).__name__
        self.skipped = 0
        self._labelled = labelled
        if len(dataset) == 0:
            raise SourceError(f"the data set {self.name} is empty")
        self._check(dataset[0])
        self.classes = self._names() if labelled else None

    def __iter__(self) -> Iterator[Record]:
        """In the order of the index."""
        for i in range(len(self._dataset)):
            try:
                item = self._dataset[i]
            except (OSError, SyntaxError, ValueError) as error:  # an image file that is damaged
                image, label = ImageError(f"the data set cannot read it ({error})"), None
            else:
                image, label = item if isinstance(item, tuple) else (item, None)
            yield Record(f"{self.name}#{i}", image, self._name(i, label) if self._labelled else None)

    def __len__(self) -> int:
        return len(self._dataset)

    def _check(self, item: Any) -> None:
        image, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not isinstance(image, Image.Image | np.ndarray):
            raise SourceError(
                f"the data set {self.name} gives {type(image).__name__}, not Pillow images or uint8 arrays; "
                "make it without transform="
            )
        if self._labelled and (isinstance(label, bool) or not isinstance(label, int | np.integer | str)):
            raise SourceError(f"the data set {self.name} gives no class number with an image, but {label!r}")

    def _names(self) -> tuple[str, ...]:
        classes = getattr(self._dataset, "classes", None)
        if classes:  # ImageNet gives several words for a class
            return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in classes)
        return named_labels(self._all_labels(), None)[1]

    def _all_labels(self) -> list[Any]:
        for attribute in ("targets", "labels", "_labels"):
            labels: Sequence[Any] | None = getattr(self._dataset, attribute, None)
            if labels is not None and len(labels) == len(self._dataset):
                return list(np.asarray(labels).tolist())
        return [int(label) for _, label in (self._dataset[i] for i in range(len(self._dataset)))]

    def _name(self, index: int, label: Any) -> str | None:
        if label is None or isinstance(label, str):
            return label
        names = self.classes or ()
        if getattr(self._dataset, "classes", None) is None:
            return str(int(label))
        if not 0 <= label < len(names):
            raise SourceError(f"{self.name}#{index} has the label {label}; there are {len(names)} classes")
        return names[int(label)]


def torchvision_images(spec: str, *, labelled: bool) -> DatasetImages:
    """Open `NAME?root=DIR&train=false`: a class of `torchvision.datasets` and its arguments.

    Nothing is downloaded unless `download=true` is among them.

    Raises:
        SourceError: there is no such data set or argument, or its files are missing.
    """
    from torchvision import datasets

    name, _, query = spec.partition("?")
    known = {entry: getattr(datasets, entry) for entry in datasets.__all__}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise SourceError(
            f"torchvision has no data set {name!r}; {hint}choose from: {', '.join(sorted(known))}"
        )
    arguments = {key: _value(value) for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True)}
    parameters = inspect.signature(known[name]).parameters
    if unknown := [key for key in arguments if key not in parameters or key.endswith("transform")]:
        choices = ", ".join(key for key in parameters if not key.endswith("transform"))
        raise SourceError(f"torchvision:{name} takes no {unknown[0]!r}; it takes: {choices}")
    missing = [
        key for key, value in parameters.items() if value.default is value.empty and key not in arguments
    ]
    if missing and parameters[missing[0]].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise SourceError(f"say {missing[0]} of torchvision:{name}, as in torchvision:{name}?{missing[0]}=…")
    try:
        dataset = known[name](**arguments)
    except (RuntimeError, OSError, ValueError, TypeError, ImportError) as error:
        hint = ""
        if "download" in parameters and not arguments.get("download"):
            hint = "; add &download=true to fetch it"
        raise SourceError(f"torchvision:{spec} cannot be opened: {error}{hint}") from error
    return DatasetImages(dataset, labelled=labelled, name=name)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.lstrip("-").isdecimal() else text
