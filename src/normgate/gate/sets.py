"""The sets of images behind a gate: read, kept apart, and reduced to what the gate keeps of them."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import torch

from normgate.data.loading import count
from normgate.data.memory import ImageList
from normgate.data.parquet import ParquetImages
from normgate.data.sources import NoLabelsError, Records, Source, SourceError, open_source
from normgate.data.unreadable import check_readable
from normgate.errors import NormgateWarning
from normgate.extractor import extract
from normgate.gate import duplicates
from normgate.gate.errors import GateError
from normgate.gate.probing import probe_features

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normgate.data.sources import Data
    from normgate.extractor import FeatureExtractor
    from normgate.features import Features
    from normgate.progress import Progress

KEPT_ROWS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How images are read; see `Gate.calibrate`."""

    drop_duplicates: bool
    skip_unreadable: bool
    workers: int | None
    max_pixels: int
    progress: Progress
    batch_size: int = 128


def collect(
    extractor: FeatureExtractor,
    data: Mapping[str, Data | None],
    classes: Sequence[str],
    reading: ReadingOptions,
    known: Mapping[str, tuple[bytes, ...]],
) -> dict[str, Features]:
    """Features of each set that is given and, where tuning images are, of probes made of them.

    Args:
        extractor: the network.
        data: train, tuning and calibration images, those as `open_held_out` gives them; None where there are none.
        classes: names of the classes, by class number.
        reading: how.
        known: fingerprints of sets from before; no image may be in two sets, these included. Training images stay
            known when others are given: the network has seen them.

    Raises:
        UnreadableError: images cannot be read or judged.
        GateError: none is left of a set.
        DuplicateError: sets share images.
    """
    given = {name: open_source(images, labelled=name == "train") for name, images in data.items() if images is not None}
    sets: dict[str, Features] = {}
    for name, source in given.items():
        part = _features(extractor, source, name, classes, reading)
        sets[name] = dataclasses.replace(part, labels=_by_folder(part, classes)) if part.labels is None else part
    if reading.drop_duplicates:
        rows = duplicates.repeated(digests(sets), known)
        duplicates.say_dropped(rows)
        sets = {name: part.without(rows[name]) for name, part in sets.items()}
    duplicates.check(merged(known, digests(sets)))
    if empty := [name for name, part in sets.items() if not len(part)]:
        raise GateError(
            f"every {empty[0]} image is in another set, too, and was left out; pass other {empty[0]} images"
        )
    if "tuning" in given:
        sets["probes"] = probe_features(
            extractor,
            given["tuning"],
            sets["tuning"],
            batch_size=reading.batch_size,
            workers=reading.workers,
            max_pixels=reading.max_pixels,
            progress=reading.progress,
        )
    return sets


def digests(sets: Mapping[str, Features]) -> dict[str, tuple[bytes, ...]]:
    """The fingerprints of each set that has any."""
    return {name: part.digests for name, part in sets.items() if part.digests is not None}


def merged(known: Mapping[str, Sequence[bytes]], new: Mapping[str, Sequence[bytes]]) -> dict[str, tuple[bytes, ...]]:
    """Fingerprints by set: new sets take the place of those from before, but for training images, which add up."""
    found = {name: tuple(own) for name, own in {**known, **new}.items()}
    if "train" in found:
        found["train"] = tuple(dict.fromkeys((*known.get("train", ()), *new.get("train", ()))))
    return found


def kept(sets: Mapping[str, Features]) -> dict[str, Features]:
    """What a gate keeps: all rows of each set but train, of which it keeps the `bank`."""
    return {
        name: dataclasses.replace(part.class_balanced(KEPT_ROWS) if name == "train" else part, digests=None)
        for name, part in sets.items()
    }


def bank(sets: Mapping[str, Features]) -> Features | None:
    """The training features that a gate keeps, to which scores are fitted when probes compare them."""
    return kept({"train": sets["train"]})["train"] if "train" in sets else None


def _features(
    extractor: FeatureExtractor, source: Source, name: str, classes: Sequence[str], reading: ReadingOptions
) -> Features:
    extraction = extract(
        extractor,
        source,
        classes=classes if name == "train" or _is_labelled(source, classes) else None,
        total=count(source),
        batch_size=reading.batch_size,
        workers=reading.workers,
        max_pixels=reading.max_pixels,
        digests=True,
        task=f"{name} images",
        progress=reading.progress,
    )
    check_readable(name, extraction.errors, skip=reading.skip_unreadable)
    return extraction.features


def open_held_out(
    data: Data, *, image_column: str = "image", label_column: str = "label", group_column: str | None = None
) -> Source:
    """Tuning or calibration images, with the labels that a table or `(images, labels)` may have.

    They need none. Folders are opened without, since they may be dates or cameras.

    Args:
        data: see `open_source`, as are the columns.
        image_column: in tables, the column of images.
        label_column: in tables, the column of labels, which need not be there.
        group_column: in tables, the column that tells which images belong together; others have none.

    Warns:
        NormgateWarning: there are labels, and not one for each image.
    """
    columns: dict[str, Any] = {"image_column": image_column}
    source = open_source(data, labelled=False, **columns)
    if isinstance(data, Source) or not isinstance(source, ParquetImages | ImageList):
        return source
    if isinstance(source, ParquetImages):
        columns |= {"label_column": label_column, "group_column": group_column}
        source = open_source(data, labelled=False, **columns)
    try:
        return open_source(data, labelled=True, least_classes=1, **columns)
    except NoLabelsError:
        return source
    except SourceError as error:  # such as one that is missing
        warnings.warn(f"no label of these images is looked at: {error}", NormgateWarning, stacklevel=3)
        return source


def _is_labelled(source: Source, classes: Sequence[str]) -> bool:
    """Whether held-out images all have labels, which are classes."""
    found = _labels(source)
    return bool(found) and None not in found and not _others(source, classes)


def _labels(source: Source) -> set[str | None]:
    """The labels that occur, where they are known before the images are read."""
    if isinstance(source, ParquetImages):
        return set(source.labels)
    if isinstance(source, ImageList):
        return set(source.classes or ())
    return {record.label for record in source} if isinstance(source, Records) else set()


def _others(source: Source, classes: Sequence[str]) -> list[str]:
    """Labels that are neither names of classes nor, where these are no numbers, their numbers."""
    numbers = () if any(name.isdecimal() for name in classes) else map(str, range(len(classes)))
    return sorted({label for label in _labels(source) if label is not None} - {*classes, *numbers})


def warn_of_other_labels(sources: Mapping[str, Source], classes: Sequence[str]) -> None:
    """Warn where tuning or calibration images have labels that are no class: a gate would take these for familiar.

    Args:
        sources: by the name of the set.
        classes: names of the classes.
    """
    for name in ("tuning", "calibration"):
        source = sources.get(name)
        others = [] if source is None else _others(source, classes)
        if others:
            warnings.warn(
                f"{name} images have labels that are no class ({', '.join(others[:8])}"
                f"{', …' if len(others) > 8 else ''}), so that no label is looked at; if these are images of unknown "
                f"classes, leave them out: {name} images say what is familiar",
                NormgateWarning,
                stacklevel=3,
            )


def _by_folder(images: Features, classes: Sequence[str]) -> torch.Tensor | None:
    """Labels of images that all lie in folders of classes; None where one does not."""
    numbers = {name: number for number, name in enumerate(classes)}
    found = (image.partition("/") for image in images.ids)
    folders = [first if slash and "#" not in rest else None for first, slash, rest in found]  # but for rows of tables
    if not folders or not numbers.keys() >= set(folders):
        return None
    return torch.tensor([numbers[folder] for folder in folders if folder is not None])


def warn_of_other_folders(ids: Mapping[str, Sequence[str]], classes: Sequence[str]) -> None:
    """Warn where images lie in folders of classes and of something else: of unknown things a gate would learn here.

    Labels are not asked for, and folders may be dates or cameras; only beside those of two classes they say something.

    Args:
        ids: of the images of each set; those of tuning and calibration images are looked at.
        classes: names of the classes.
    """
    for name in ("tuning", "calibration"):
        folders = {first for first, slash, _ in (image.partition("/") for image in ids.get(name, ())) if slash}
        others = sorted(folders - set(classes))
        if others and len(folders & set(classes)) > 1:
            warnings.warn(
                f"{name} images lie in folders of the gate's classes and in others ({', '.join(others[:8])}"
                f"{', …' if len(others) > 8 else ''}); if these hold images of unknown classes, leave them out: "
                f"{name} images say what is familiar",
                NormgateWarning,
                stacklevel=3,
            )
