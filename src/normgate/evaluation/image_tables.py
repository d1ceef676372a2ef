"""One table of images' scores, a row an image and a column a score: as evaluations write it, or of another detector."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from normgate.evaluation.results import EvaluationError
from normgate.files import whole_file

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from normgate.evaluation.results import Evaluation

IMAGE_COLUMNS = ("set", "id", "wrong")
"""Of a table of images, beside those of its scores."""

_INDEX = re.compile(r"|__index_level_\d+__")
"""Columns that pandas adds."""
_FLAGS = dict.fromkeys(("true", "1", "1.0"), 1.0) | dict.fromkeys(("false", "0", "0.0"), 0.0)
_FLAGS |= dict.fromkeys(("none", "nan", ""), math.nan)
_BLOCK = 1 << 24  # bytes; the longest line of a .csv


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable:
    """A table that was read.

    Attributes:
        path: where it is.
        sets: of each image.
        ids: of each image; row numbers in a table without names.
        scores: by column, (N,) float64, NaN where there is no number.
        wrong: (N,) float64, 1 where the prediction is wrong and NaN where that is not known; None without that column.
        whole: columns of whole numbers, as class numbers are.
        others: columns that hold no numbers.
    """

    path: Path
    sets: np.ndarray
    ids: np.ndarray
    scores: dict[str, np.ndarray]
    wrong: np.ndarray | None
    whole: frozenset[str]
    others: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, *, joined: bool) -> ImageTable:
        """Read a table, which needs names of images if it is to be joined with others.

        Raises:
            EvaluationError: there is no such table, or it lacks a column that it needs, or names each image twice.
        """
        table = _read(path)
        names = table.column_names
        if repeated := [name for name in names if names.count(name) > 1]:
            raise EvaluationError(f"{path} has several columns {repeated[0]!r}; give each its own name")
        if blank := [name for name in names if name != name.strip()]:
            raise EvaluationError(f"{path} has blanks around the name of column {blank[0]!r}; take them away")
        if "set" not in names or (joined and "id" not in names):
            missing = "set" if "set" not in names else "id"
            what = "the set of each image" if missing == "set" else "the name of each image, to join tables by"
            raise EvaluationError(f"{path} has no column {missing!r}, {what}; its columns are: {', '.join(names)}")
        sets = _texts(table, "set", path)
        ids = _texts(table, "id", path) if "id" in names else np.array(list(map(str, range(len(table)))), dtype=object)
        given = {name: table[name] for name in names if name not in IMAGE_COLUMNS}
        given = {
            name or "(without a name)": column
            for name, column in given.items()
            if not (_INDEX.fullmatch(name) and _is_whole(column))
        }
        numbers = {name: _numbers(column, name, path) for name, column in given.items()}
        found = cls(
            path,
            sets,
            ids,
            scores={name: column for name, column in numbers.items() if column is not None},
            wrong=_wrong(table["wrong"], path) if "wrong" in names else None,
            whole=frozenset(name for name, column in given.items() if _is_whole(column)),
            others=tuple(name for name, column in numbers.items() if column is None),
        )
        found.check_names()
        return found

    @functools.cached_property
    def keys(self) -> pa.Array:
        """What tells images from others: their set and id, with a length so that no two pairs make one text."""
        import pyarrow as pa
        import pyarrow.compute as pc

        sets = pa.array(self.sets, pa.string())
        sizes = pc.utf8_length(sets).cast(pa.string())
        return pc.binary_join_element_wise(sizes, sets, pa.array(self.ids, pa.string()), ":")

    def check_names(self) -> None:
        """Refuse names of which it is not clear what image they mean."""
        import pyarrow.compute as pc

        counts = self.keys.value_counts()
        again = pc.index(pc.greater(counts.field("counts"), 1), True).as_py()
        if again >= 0:
            row = pc.index(self.keys, counts.field("values")[again]).as_py()
            raise EvaluationError(
                f"{self.path} has several rows of the image {self.ids[row]} of {self.sets[row]}; leave one of them"
            )


def _read(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    if path.is_dir():
        raise EvaluationError(f"{path} is a folder, and no table of images' scores; name one, .parquet or .csv")
    check_image_table(path)
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".parquet":
                return parquet.ParquetFile(file).read()
            _check_separator(path, file)
            as_text = dict.fromkeys(("set", "id"), pa.string())  # 007 is a name, and not 7
            table = arrow_csv.read_csv(
                file,
                read_options=arrow_csv.ReadOptions(block_size=_BLOCK),
                convert_options=arrow_csv.ConvertOptions(column_types=as_text),
            )
            _ = table.column_names  # which are decoded only now
            return table
    except FileNotFoundError as error:
        raise EvaluationError(f"there is no table {path}") from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} cannot be read: {error}; write it in UTF-8") from error
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error


def _check_separator(path: Path, file: IO[bytes]) -> None:
    head = file.readline(_BLOCK)
    file.seek(0)
    if b"," not in head and (b";" in head or b"\t" in head):
        raise EvaluationError(f"the columns of {path} are wanted between commas, with a point in 0.5; write it so")


def _texts(table: pa.Table, name: str, path: Path) -> np.ndarray:
    import pyarrow as pa

    kind = table.schema.field(name).type
    values = np.empty(len(table), dtype=object)
    values[:] = table[name].to_pylist()
    if (empty := np.flatnonzero([value is None or value == "" for value in values])).size:
        raise EvaluationError(f"{path} does not say the {name} of its image number {empty[0] + 1}; name that of all")
    if pa.types.is_integer(kind):
        values[:] = list(map(str, values))
    if not all(isinstance(value, str) for value in values):
        raise EvaluationError(f"{name} of {path} holds {kind}, and not names")
    return values


def _numbers(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray | None:
    """(N,) float64, NaN where there is no number; None of a column of other things."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        try:
            numbers: np.ndarray = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid as error:
            raise EvaluationError(f"{name} of {path} holds whole numbers beyond 2**53, which would tie") from error
        return numbers
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    # One cell that is no number, a dash, say, makes texts of all.
    parsed = np.array(list(map(_parsed, column.to_pylist())))
    return parsed if np.isnan(parsed).sum() <= len(parsed) / 2 else None


def _is_whole(column: pa.ChunkedArray) -> bool:
    """Whether it holds whole numbers alone, as class numbers are, some of which may be texts beside a dash."""
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        numbers = [text for text in column.to_pylist() if not math.isnan(_parsed(text))]
        return bool(numbers) and all(re.fullmatch(r"\s*[+-]?\d+\s*", text) for text in numbers)
    return bool(pa.types.is_integer(column.type))


def _parsed(text: str | None) -> float:
    try:
        # Python takes 1_2 for 12.
        return math.nan if text is None or "_" in text else float(text)
    except ValueError:
        return math.nan


def _wrong(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    values = column.to_pylist()
    flags = [_FLAGS.get(str(value).strip().lower()) for value in values]
    if None in flags:
        strange = values[flags.index(None)]
        raise EvaluationError(f"wrong of {path} is true or false, and empty where that is not known; not {strange!r}")
    return np.array(flags, dtype=float)


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
        column = pa.array(values, pa.float64())
        if target.suffix.lower() == ".csv" and (values == np.floor(values)).all():
            column = pa.array(list(map(repr, values.tolist())))  # 3.0, which else would be written 3, a whole number
        table = table.append_column(score, column)
    with whole_file(target, overwrite=overwrite) as partial, partial.open("wb") as file:  # a path may not be UTF-8
        if target.suffix.lower() == ".csv":
            arrow_csv.write_csv(table, file)
        else:
            parquet.write_table(table, file, compression="zstd")


def check_image_table(path: Path) -> None:
    """Refuse a table of images in a format that is neither written nor read.

    Raises:
        EvaluationError: as said.
    """
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise EvaluationError(f"{path} does not say in what format; name the images' scores .parquet or .csv")
