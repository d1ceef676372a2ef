"""Scores of images by whatever detectors, from tables that are joined image by image."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.errors import NormgateWarning
from normgate.evaluation.image_tables import IMAGE_COLUMNS, ImageTable
from normgate.evaluation.results import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


@dataclasses.dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of the same images by whatever detectors, as `evaluate_scores` takes them.

    Attributes:
        values: `values[score][set]`, (N,) float64; the known images are the set `id`.
        wrong: whether the predicted class of each known image is wrong, (m,) bool; None where that is not known.
        ids: names of the images, by set.
        errors: `(set, id, message)` of each image that is left out.
        origins: of each score the `table`, its `column` there, and whether it was `negated`.
    """

    values: dict[str, dict[str, np.ndarray]]
    wrong: np.ndarray | None
    ids: dict[str, tuple[str, ...]]
    errors: tuple[tuple[str, str, str], ...]
    origins: dict[str, dict[str, Any]]


def read_image_scores(
    tables: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    known: str = "id",
    scores: str | Collection[str] = (),
    negate: str | Collection[str] = (),
) -> ImageScores:
    """Scores of images from tables, .parquet or .csv, that are joined by the columns `set` and `id`.

    Further columns of numbers are scores, larger = more familiar; `wrong` says whether the predicted class of a known
    image is wrong. A single table needs no `id`. Where several tables have a column, its scores are called by their
    table, too: `mine:knn`. Images that are not in every table, or have a score that is no number, are left out and
    listed.

    Args:
        tables: files, as `Evaluation.save_images` writes them, or of other programs.
        known: what the set of the known images is called there.
        scores: columns to take, as they are called in the result; by default all that hold numbers, but for whole ones,
            which may be of classes. A table of which none is taken is left aside, unless it only has `wrong`.
        negate: scores of which larger means *less* familiar, whose sign is turned.

    Raises:
        EvaluationError: a table cannot be read or lacks a column, there is no set of known images, a name is of no
            score, or no image of a set is left.

    Warns:
        NormgateWarning: columns are not taken for scores, a set is not in every table, or it is not known of every
            table, or not the same, on which images its network errs.
    """
    try:
        places = [Path(place) for place in ([tables] if isinstance(tables, str | os.PathLike) else tables)]
        scores, negate = ([part] if isinstance(part, str) else list(part) for part in (scores, negate))
    except TypeError as error:
        raise EvaluationError(f"tables= names files, and scores= and negate= columns of them: {error}") from error
    if not places:
        raise EvaluationError("there is no table to read scores from; name at least one")
    read = [ImageTable.read(place, joined=len(places) > 1) for place in places]
    taken = _taken(read, scores, negate)
    used = {table for table, _ in taken.values()}
    # A table may only tell on which images the network errs, beside class numbers.
    parts = [
        table for table in read if table in used or (table.wrong is not None and table.scores.keys() <= table.whole)
    ]
    names = _set_names(parts, known)
    rows, errors = _shared_rows(parts, names)
    values = {
        name: table.scores[column][rows[parts.index(table)]] * (-1 if name in negate else 1)
        for name, (table, column) in taken.items()
    }
    sets, ids = parts[0].sets[rows[0]], parts[0].ids[rows[0]]
    complete = np.ones(len(sets), dtype=bool)
    for name, column in values.items():
        for row in np.flatnonzero(np.isnan(column) & complete):
            errors.append((sets[row], ids[row], f"{name} is no number in {taken[name][0].path}"))
            complete[row] = False
    by_set = {name: np.flatnonzero((sets == name) & complete) for name in names}
    if empty := [name for name in names if len(by_set[name]) == 0]:
        raise EvaluationError(_why_empty(empty[0], parts, errors, joined=bool((sets == empty[0]).any())))
    called = {name: "id" if name == known else name for name in names}
    return ImageScores(
        values={score: {called[name]: column[own] for name, own in by_set.items()} for score, column in values.items()},
        wrong=_wrong(parts, [own[by_set[known]] for own in rows]),
        ids={called[name]: tuple(ids[own]) for name, own in by_set.items()},
        errors=tuple((called[name], own, message) for name, own, message in errors),
        origins={
            name: {"table": str(table.path), "column": column, "negated": name in negate}
            for name, (table, column) in taken.items()
        },
    )


def _taken(
    tables: Sequence[ImageTable], scores: Collection[str], negate: Collection[str]
) -> dict[str, tuple[ImageTable, str]]:
    """What each score that is asked for is called, and where it is."""
    columns = _named_columns(tables)
    numbers = {name: place for name, place in columns.items() if place[1] in place[0].scores}
    for name in (*scores, *negate):
        if name not in numbers:
            there = name in columns
            said = f"{name} holds no numbers" if there else f"there is no score {name}"
            raise EvaluationError(f"{said}; the tables have: {', '.join(numbers)}")
    if not scores:
        whole = [name for name, (table, column) in numbers.items() if column in table.whole]
        scores = [name for name in numbers if name not in whole]
        if not scores:
            said = f"whole numbers alone; name those that are scores: {', '.join(whole)}" if whole else "no numbers"
            raise EvaluationError(f"beside {', '.join(IMAGE_COLUMNS)} the tables hold {said}")
        if left := [*whole, *(name for name in columns if name not in numbers)]:
            warnings.warn(
                "columns that hold no numbers, or whole ones and are not named as scores, are left out: "
                + ", ".join(left),
                NormgateWarning,
                stacklevel=3,
            )
    if unturned := [name for name in negate if name not in scores]:
        raise EvaluationError(
            f"{', '.join(unturned)} is to be negated, and no score that is taken: name it as one (scores), too"
        )
    return {name: place for name, place in numbers.items() if name in scores}


def _named_columns(tables: Sequence[ImageTable]) -> dict[str, tuple[ImageTable, str]]:
    """What each column is called, and where it is."""
    columns = [(table, name) for table in tables for name in (*table.scores, *table.others)]
    every = [name for _, name in columns]
    called = dict(zip(tables, _told_apart([table.path for table in tables]), strict=True))
    found: dict[str, tuple[ImageTable, str]] = {}
    for table, column in columns:
        name = column if every.count(column) == 1 else f"{called[table]}:{column}"
        if name in found:
            raise EvaluationError(f"two columns are called {name}; give that of {table.path} another name")
        found[name] = (table, column)
    return found


def _told_apart(paths: Sequence[Path]) -> list[str]:
    """Names of files, with as many of their folders as tell them apart."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise EvaluationError(f"one of these tables is named twice: {', '.join(map(str, paths))}; name each once")
    whole = [path.absolute() for path in paths]
    names = [str(path) for path in whole]
    for parts in ([path.with_suffix("").parts for path in whole], [path.parts for path in whole]):
        for length in range(1, max(map(len, parts)) + 1):
            names = ["/".join(own[-length:]) for own in parts]
            if len(set(names)) == len(names):
                return names
    return names


def _set_names(tables: Sequence[ImageTable], known: str) -> list[str]:
    """Names of the sets that all tables have, the known images first."""
    sets = {table.path: list(dict.fromkeys(table.sets)) for table in tables}
    for path, own in sets.items():
        if known not in own:
            raise EvaluationError(
                f"there is no set {known!r} of known images in {path}; its sets are: {', '.join(own)}"
            )
    names = list(dict.fromkeys(name for own in sets.values() for name in own))
    if known != "id" and "id" in names:
        raise EvaluationError(
            f"known images are called 'id' in results, and here they are {known!r}; rename the set 'id'"
        )
    missing = {
        name: lacking[0] for name in names if (lacking := [path for path, own in sets.items() if name not in own])
    }
    if missing:
        said = ", ".join(f"{name} (not in {path})" for name, path in missing.items())
        warnings.warn(f"sets that are not in every table are left out: {said}", NormgateWarning, stacklevel=3)
    return [known, *(name for name in names if name != known and name not in missing)]


def _shared_rows(
    tables: Sequence[ImageTable], names: Sequence[str]
) -> tuple[list[np.ndarray], list[tuple[str, str, str]]]:
    """By table, the rows of the images of these sets that all tables have, in one order; and which are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = [table.keys.filter(pa.array(np.isin(table.sets.astype(str), names))) for table in tables]
    every = pc.unique(pa.concat_arrays(keys))
    found = np.array([pc.index_in(every, table.keys).fill_null(-1).to_numpy() for table in tables])
    lacking = found < 0
    errors = []
    for image in np.flatnonzero(lacking.any(axis=0)):
        there, gone = int(lacking[:, image].argmin()), int(lacking[:, image].argmax())
        row = found[there, image]
        errors.append((tables[there].sets[row], tables[there].ids[row], f"is not in {tables[gone].path}"))
    return list(found[:, ~lacking.any(axis=0)]), errors


def _why_empty(name: str, tables: Sequence[ImageTable], errors: Sequence[tuple[str, str, str]], *, joined: bool) -> str:
    """Why no image of a set is left, be it in every table (`joined`) or not."""
    if joined:  # the last that was left out is one without a number
        reason = [message for own, _, message in errors if own == name][-1]
        return f"no image of {name} is left: {reason}; leave that score out, or that set"
    ids = " and ".join(f"{table.ids[table.sets == name][0]!r} in {table.path}" for table in tables)
    return f"no image of {name} is in every table; write its names alike, which are such as {ids}"


def _wrong(tables: Sequence[ImageTable], rows: Sequence[np.ndarray]) -> np.ndarray | None:
    """Whether predictions are wrong, where all tables that say so agree."""
    told = {}
    for table, own in zip(tables, rows, strict=True):
        if table.wrong is None or np.isnan(table.wrong[own]).all():
            continue
        told[table] = table.wrong[own]
        if missing := int(np.isnan(told[table]).sum()):
            raise EvaluationError(
                f"wrong of {table.path} is empty for {missing} known images; say it of all or of none"
            )
    if not told:
        return None
    (first, wrong), *others = told.items()
    if any((other != wrong).any() for _, other in others):
        warnings.warn(
            f"the networks of {first.path} and of others err on different images, so that figures of wrong "
            "predictions are left out",
            NormgateWarning,
            stacklevel=3,
        )
        return None
    if silent := [str(table.path) for table in tables if table not in told]:
        warnings.warn(
            f"{', '.join(silent)} does not say on which images its network errs, which is taken from {first.path}: of "
            "another network figures of wrong predictions would be wrong",
            NormgateWarning,
            stacklevel=3,
        )
    return np.asarray(wrong, dtype=bool)
