"""Tables of images' scores, a row an image and a column a score: as evaluations write them, and of other detectors."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.errors import NormgateWarning
from normgate.evaluation.results import EvaluationError
from normgate.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import pyarrow as pa

    from normgate.evaluation.results import Evaluation

IMAGE_COLUMNS = ("set", "id", "wrong")
"""Of a table of images, beside those of its scores."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of the same images by whatever detectors, as `evaluate_scores` takes them.

    Attributes:
        values: `values[score][set]`, (N,) float64; the known images are the set `id`.
        wrong: whether the predicted class of each known image is wrong, (m,) bool; None where that is not known.
        ids: names of the images, by set.
        errors: `(set, id, message)` of each image that is left out.
    """

    values: dict[str, dict[str, np.ndarray]]
    wrong: np.ndarray | None
    ids: dict[str, tuple[str, ...]]
    errors: tuple[tuple[str, str, str], ...]


def read_image_scores(
    tables: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    known: str = "id",
    scores: Collection[str] = (),
    negate: Collection[str] = (),
) -> ImageScores:
    """Scores of images from tables, .parquet or .csv, that are joined by the columns `set` and `id`.

    Further columns of numbers are scores, larger = more familiar; `wrong` says whether the predicted class of a known
    image is wrong. A single table needs no `id`. Scores that several tables have under one name are called by their
    table, too: `mine:knn`. Images that are not in every table, or have a score that is no number, are left out and
    listed.

    Args:
        tables: files, as `Evaluation.save_images` writes them, or of other programs.
        known: what the set of the known images is called there.
        scores: columns to take, as they are called in the result; by default all that hold numbers, but for whole ones,
            which may be of classes.
        negate: scores of which larger means *less* familiar, whose sign is turned.

    Raises:
        EvaluationError: a table cannot be read or lacks a column, there is no set of known images, a name is of no
            score, or no image of a set is left.

    Warns:
        NormgateWarning: columns of whole numbers are not taken for scores, or networks err on different images.
    """
    places = [tables] if isinstance(tables, str | os.PathLike) else list(tables)
    if not places:
        raise EvaluationError("there is no table to read scores from; name at least one")
    parts = [_Part.read(Path(place), joined=len(places) > 1) for place in places]
    taken = _taken(parts, scores, negate)
    rows, errors = _shared_rows(parts)
    values = {name: parts[part].scores[column][rows[part]] for name, (part, column) in taken.items()}
    values = {name: -column if name in negate else column for name, column in values.items()}
    sets, ids = ([getattr(parts[0], field)[row] for row in rows[0]] for field in ("sets", "ids"))
    complete = np.ones(len(sets), dtype=bool)
    for name, column in values.items():
        for row in np.flatnonzero(np.isnan(column) & complete):
            errors.append((sets[row], ids[row], f"{name} is no number in {parts[taken[name][0]].path}"))
            complete[row] = False
    every = [name for part in parts for name in part.sets]
    by_set = {
        name: np.flatnonzero([own == name and whole for own, whole in zip(sets, complete, strict=True)])
        for name in _ordered(every, known, parts)
    }
    if empty := [name for name, own in by_set.items() if len(own) == 0]:
        name, own, message = next(error for error in errors if error[0] == empty[0])
        raise EvaluationError(f"no image of {name} is left, such as {own}: {message}")
    wrong = _wrong(parts, [own[by_set[known]] for own in rows])
    called = {name: "id" if name == known else name for name in by_set}
    return ImageScores(
        values={score: {called[name]: column[own] for name, own in by_set.items()} for score, column in values.items()},
        wrong=wrong,
        ids={called[name]: tuple(ids[row] for row in own) for name, own in by_set.items()},
        errors=tuple((called[name], own, message) for name, own, message in errors),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """One table.

    Attributes:
        path: where it is.
        sets: of each image.
        ids: of each image.
        scores: by column, (N,) float64, NaN where there is none.
        wrong: (N,) float64, 1 where the prediction is wrong and NaN where that is not known; None without that column.
        whole: columns of whole numbers, as class numbers are.
    """

    path: Path
    sets: list[str]
    ids: list[str]
    scores: dict[str, np.ndarray]
    wrong: np.ndarray | None
    whole: set[str]

    @classmethod
    def read(cls, path: Path, *, joined: bool) -> _Part:
        """Read a table, which needs names of images if it is to be joined with others."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = _table(path)
        names = table.column_names
        if repeated := [name for name in names if names.count(name) > 1]:
            raise EvaluationError(f"{path} has several columns {repeated[0]!r}; give each its own name")
        if "set" not in names or (joined and "id" not in names):
            missing = "set" if "set" not in names else "id"
            what = "the set of each image" if missing == "set" else "the name of each image, to join tables by"
            raise EvaluationError(f"{path} has no column {missing!r}, {what}; its columns are: {', '.join(names)}")
        sets = _texts(table, "set", path)
        ids = _texts(table, "id", path) if "id" in names else list(map(str, range(len(table))))
        if joined and len(set(zip(sets, ids, strict=True))) < len(ids):
            raise EvaluationError(f"{path} has several rows of one set and id, which no other table can be joined to")
        kinds = {name: table.schema.field(name).type for name in names if name not in IMAGE_COLUMNS}
        whole = {name for name, kind in kinds.items() if pa.types.is_integer(kind)}
        scores = {
            name: pc.cast(table[name], pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            for name, kind in kinds.items()
            if name in whole or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        }
        if not scores:
            raise EvaluationError(
                f"{path} has no column of numbers, which scores are; its columns are: {', '.join(names)}"
            )
        wrong = None
        if "wrong" in names:
            try:
                wrong = pc.cast(pc.cast(table["wrong"], pa.bool_()), pa.float64()).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid as error:
                raise EvaluationError(
                    f"wrong of {path} is true or false, and empty of unknown images: {error}"
                ) from error
        return cls(path, sets, ids, scores, wrong, whole)


def _table(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    if path.is_dir():
        raise EvaluationError(f"{path} is a folder, and no table of images' scores; name one, .parquet or .csv")
    check_image_table(path)
    try:
        if path.suffix.lower() == ".parquet":
            return parquet.read_table(path)
        as_text = dict.fromkeys(("set", "id"), pa.string())  # 007 is a name, and not 7
        return arrow_csv.read_csv(path, convert_options=arrow_csv.ConvertOptions(column_types=as_text))
    except FileNotFoundError as error:
        raise EvaluationError(f"there is no table {path}") from error
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error


def _texts(table: pa.Table, name: str, path: Path) -> list[str]:
    import pyarrow as pa

    values = table[name].to_pylist()
    if None in values:
        raise EvaluationError(f"{name} of {path} is empty in row {values.index(None)}; name the {name} of every image")
    if not (pa.types.is_integer(table[name].type) or all(isinstance(value, str) for value in values)):
        raise EvaluationError(f"{name} of {path} holds {table[name].type}, and not names")
    return [str(value) for value in values]


def _named_columns(parts: Sequence[_Part]) -> dict[str, tuple[int, str]]:
    """What each score is called, and where it is: number of the table, and column."""
    every = [name for part in parts for name in part.scores]
    stems = [part.path.stem for part in parts]
    found: dict[str, tuple[int, str]] = {}
    for number, part in enumerate(parts):
        table = part.path.stem if stems.count(part.path.stem) == 1 else str(part.path)
        for column in part.scores:
            name = column if every.count(column) == 1 else f"{table}:{column}"
            if name in found:
                raise EvaluationError(f"two scores are called {name}; give one table another name")
            found[name] = (number, column)
    return found


def _taken(parts: Sequence[_Part], scores: Collection[str], negate: Collection[str]) -> dict[str, tuple[int, str]]:
    """What each score that is asked for is called, and where it is."""
    columns = _named_columns(parts)
    if unknown := [name for name in (*scores, *negate) if name not in columns]:
        raise EvaluationError(f"there is no score {', '.join(unknown)}; the tables have: {', '.join(columns)}")
    wanted = scores or _fractions(parts, columns)
    taken = {name: place for name, place in columns.items() if name in wanted}
    if unturned := [name for name in negate if name not in taken]:
        raise EvaluationError(f"{', '.join(unturned)} is not among the scores that are to be taken; leave it out")
    return taken


def _fractions(parts: Sequence[_Part], columns: Mapping[str, tuple[int, str]]) -> list[str]:
    """Scores that are no whole numbers, which may number something else, such as classes."""
    whole = [name for name, (part, column) in columns.items() if column in parts[part].whole]
    fractions = [name for name in columns if name not in whole]
    if not fractions:
        raise EvaluationError(f"the tables hold whole numbers alone; name those that are scores: {', '.join(whole)}")
    if whole:
        warnings.warn(
            f"columns of whole numbers are not taken for scores unless they are named: {', '.join(whole)}",
            NormgateWarning,
            stacklevel=3,
        )
    return fractions


def _shared_rows(parts: Sequence[_Part]) -> tuple[list[np.ndarray], list[tuple[str, str, str]]]:
    """By table, the rows of the images that all tables have, in the order of the first; and which are left out."""
    if len(parts) == 1:
        return [np.arange(len(parts[0].sets))], []
    row_of = [{key: row for row, key in enumerate(zip(part.sets, part.ids, strict=True))} for part in parts]
    shared: list[tuple[str, str]] = []
    errors = []
    for key in dict.fromkeys(key for rows in row_of for key in rows):
        lacking = [part.path for part, rows in zip(parts, row_of, strict=True) if key not in rows]
        if lacking:
            errors.append((*key, f"is not in {lacking[0]}"))
        else:
            shared.append(key)
    return [np.array([rows[key] for key in shared], dtype=int) for rows in row_of], errors


def _ordered(sets: Iterable[str], known: str, parts: Sequence[_Part]) -> list[str]:
    """Names of the sets, the known images first."""
    names = list(dict.fromkeys(sets))
    if known not in names:
        raise EvaluationError(
            f"there is no set {known!r} of known images in {parts[0].path}; its sets are: {', '.join(names)}"
        )
    if known != "id" and "id" in names:
        raise EvaluationError(
            f"known images are called 'id' in results, and here they are {known!r}; rename the set 'id'"
        )
    return [known, *(name for name in names if name != known)]


def _wrong(parts: Sequence[_Part], rows: Sequence[np.ndarray]) -> np.ndarray | None:
    """Whether predictions are wrong, where all tables that say so agree."""
    told = [(part, part.wrong[own]) for part, own in zip(parts, rows, strict=True) if part.wrong is not None]
    told = [(part, found) for part, found in told if not np.isnan(found).all()]
    for part, found in told:
        if missing := int(np.isnan(found).sum()):
            raise EvaluationError(f"wrong of {part.path} is empty for {missing} known images; say it of all or of none")
    if not told:
        return None
    if any((found != told[0][1]).any() for _, found in told):
        warnings.warn(
            f"the networks of {told[0][0].path} and of others err on different images, so that figures of wrong "
            "predictions are left out",
            NormgateWarning,
            stacklevel=3,
        )
        return None
    return np.asarray(told[0][1], dtype=bool)


def save_images(evaluation: Evaluation, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write the score of each image; see `Evaluation.save_images`."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    target = Path(path)
    check_image_table(target)
    by_column: dict[str, list[Any]] = {name: [] for name in IMAGE_COLUMNS}
    for name, ids in evaluation.ids.items():
        wrong = evaluation.wrong if name == "id" else None
        by_column["set"] += [name.encode("utf-8", "backslashreplace").decode()] * len(ids)  # a name may not be UTF-8
        by_column["id"] += ids
        by_column["wrong"] += [None] * len(ids) if wrong is None else wrong.tolist()
    schema = pa.schema({"set": pa.string(), "id": pa.string(), "wrong": pa.bool_()})
    table = pa.table(by_column, schema=schema)
    for score, by_set in evaluation.values.items():
        values = np.concatenate([by_set[name] for name in evaluation.ids])
        table = table.append_column(score, pa.array(values, pa.float64()))
    with whole_file(target, overwrite=overwrite) as partial:
        if target.suffix.lower() == ".csv":
            arrow_csv.write_csv(table, partial)
        else:
            parquet.write_table(table, partial, compression="zstd")


def check_image_table(path: Path) -> None:
    """Refuse a table of images in a format that is neither written nor read.

    Raises:
        EvaluationError: as said.
    """
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise EvaluationError(f"{path} does not say in what format; name the images' scores .parquet or .csv")
