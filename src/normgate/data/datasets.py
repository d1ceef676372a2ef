"""Data sets of torchvision by name, and any other that gives (image, label) by index."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from normgate.data.decoding import ImageError
from normgate.data.labels import named_labels, plain
from normgate.data.sources import NoLabelsError, Record, SourceError, parse_query

if TYPE_CHECKING:
    from collections.abc import Iterator


class DatasetImages:
    """A data set that gives `(image, label)` by index; a record is `NAME#index`.

    Args:
        dataset: made without `transform`; it gives Pillow images or uint8 arrays. Names of classes are
            taken from its `classes`, or from those of the data set that it is a subset of.
        labelled: whether labels are needed.
        name: stands in the ids; by default the name of its class.

    Raises:
        SourceError: it is empty or gives something else.
    """

    def __init__(self, dataset: Any, *, labelled: bool, name: str | None = None) -> None:
        self.name = name or type(dataset).__name__
        self.classes: tuple[str, ...] | None = None
        self.skipped = 0
        self._dataset = dataset
        self._names: dict[Any, str] = {}
        if len(dataset) == 0:
            raise SourceError(f"the data set {self.name} is empty")
        self._check_first(labelled)
        if labelled:
            given = _given_classes(dataset)
            self._names, self.classes = named_labels([] if given else _all_labels(dataset), given)

    def __iter__(self) -> Iterator[Record]:
        """In the order of the index."""
        for i in range(len(self)):
            image, label = self._item(i)
            name = None
            if self.classes is not None and not isinstance(image, ImageError):
                name = self._names.get(label)
                if name is None:
                    raise SourceError(f"{self.name}#{i} has the label {label!r}, which is none of the classes")
            yield Record(f"{self.name}#{i}", image, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def _item(self, index: int) -> tuple[Any, Any]:
        try:
            item = self._dataset[index]
        except (OSError, SyntaxError, ValueError) as error:  # an image file that is damaged
            return ImageError(f"the data set cannot read it: {error}"), None
        image, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        return image, plain(label)

    def _check_first(self, labelled: bool) -> None:
        image, label = self._item(0)
        if isinstance(image, ImageError):
            return
        if not isinstance(image, Image.Image | np.ndarray):
            raise SourceError(
                f"the data set {self.name} gives {type(image).__name__}, not Pillow images or uint8 arrays; "
                "make it without transform="
            )
        if labelled and not isinstance(label, int | str):
            raise NoLabelsError(f"the data set {self.name} gives no class with an image, but {label!r}")


_UNPICKLING = ("LSUN", "LSUNClass")


def torchvision_images(spec: str, *, labelled: bool) -> DatasetImages:
    """Open `NAME?root=DIR&train=false`: a class of `torchvision.datasets` and its arguments.

    Nothing is downloaded unless `download=true` is among them.

    Raises:
        SourceError: there is no such data set or argument, its files are missing, or it would unpickle what anybody may
            have put there. (CIFAR's pickles are read once torchvision has found their known MD5.)
    """
    from torchvision import datasets

    name, _, query = spec.partition("?")
    known = {entry: getattr(datasets, entry) for entry in datasets.__all__}
    known = {entry: kind for entry, kind in known.items() if isinstance(kind, type)}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise SourceError(f"torchvision has no data set {name!r}; {hint}choose from: {', '.join(sorted(known))}")
    if name in _UNPICKLING:
        raise SourceError(
            f"torchvision:{name} unpickles a file of the current folder, which could run code; save its images as "
            "files, one folder a class"
        )
    arguments = {key: _value(value) for key, value in parse_query(query).items()}
    parameters = {
        key: value
        for key, value in inspect.signature(known[name]).parameters.items()
        if value.kind is value.POSITIONAL_OR_KEYWORD and not key.endswith("transform")
    }
    if unknown := [key for key in arguments if key not in parameters]:
        raise SourceError(f"torchvision:{name} takes no {unknown[0]!r}; it takes: {', '.join(parameters)}")
    missing = [key for key, value in parameters.items() if value.default is value.empty and key not in arguments]
    if missing:
        raise SourceError(f"torchvision:{name} needs {missing[0]}: write torchvision:{name}?{missing[0]}=…")
    try:
        dataset = known[name](**arguments)
    except (RuntimeError, OSError, ValueError, TypeError, ImportError) as error:
        downloadable = "download" in parameters and not arguments.get("download")
        hint = "; add &download=true to fetch it" if downloadable else ""
        raise SourceError(f"torchvision:{spec} cannot be opened: {error}{hint}") from error
    return DatasetImages(dataset, labelled=labelled, name=name)


def _given_classes(dataset: Any) -> list[str] | None:
    classes = getattr(dataset, "classes", None)
    if classes:  # ImageNet gives several words for a class
        return [name if isinstance(name, str) else ", ".join(map(str, name)) for name in classes]
    whole = getattr(dataset, "dataset", None)
    return None if whole is None else _given_classes(whole)


def _all_labels(dataset: Any) -> list[Any]:
    for attribute in ("targets", "labels", "_labels"):
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(dataset):
            return [plain(label) for label in labels]
    return [plain(dataset[i][1]) for i in range(len(dataset))]


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.removeprefix("-").isdecimal() else text
