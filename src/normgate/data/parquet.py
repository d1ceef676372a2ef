"""Images in Parquet files, in the layout of Hugging Face data sets."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import urllib.parse
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from normgate.data.decoding import ImageError
from normgate.data.fetching import fetchers
from normgate.data.labels import named_labels
from normgate.data.listing import files_at, root_here
from normgate.data.sources import NoLabelsError, Record, SourceError, parse_query

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from normgate.data.decoding import Payload
    from normgate.data.entries import Place
    from normgate.data.listing import Files

_ROWS = 64  # read at a time
_BUFFER = 1 << 20  # bytes of a column read at a time, so that memory does not grow with the row groups


@dataclasses.dataclass(frozen=True)
class _Part:
    """One file: row groups with selected rows, as (number, first row), and the number of selected rows.

    `keys` are columns that its folders name (`split=train/part-0.parquet`) and the file does not have.
    """

    name: str
    path: Place
    keys: dict[str, str]
    row_groups: tuple[tuple[int, int], ...]
    rows: int


class ParquetImages:
    """Rows of a Parquet file, or of all Parquet files in a folder; a record is `file.parquet#row`.

    Images are encoded bytes, plain or as `struct<bytes, path>`; where only a path is given, it is relative to the file
    or absolute, so that a table from elsewhere can name any image that you may read. An image that is null is a record
    that cannot be decoded. Folders named `column=value` make a column.

    Args:
        path: a file, a folder with the parts of a data set, or a listing of files.
        image_column: the column of images.
        label_column: the column of labels: names, or class numbers whose names may stand in the schema's
            metadata under `huggingface`. None leaves the labels out.
        group_column: the column that tells which images belong together.
        select: `column=value`, several joined by `&`: only rows that hold these strings or whole numbers.

    Attributes:
        labels: names of the classes that occur, which need not be all.

    Raises:
        SourceError: a file is damaged, a column is missing, no row is selected, or a label is null or no
            class.
    """

    place: str | None = None

    def __init__(
        self,
        path: str | os.PathLike[str] | Files,
        *,
        image_column: str = "image",
        label_column: str | None = "label",
        group_column: str | None = None,
        select: str = "",
    ) -> None:
        files = files_at(path, "tables")
        self.root = root_here(files)
        self.image_column = image_column
        self.label_column = label_column
        self.group_column = group_column
        self.skipped = 0
        self.classes: tuple[str, ...] | None = None
        self._selection = parse_query(select)
        self._place = files.root
        with fetchers() as pool:  # elsewhere each file takes several requests
            self._parts = list(pool.map(self._open, *zip(*_tables(files), strict=True)))
        if not len(self):
            raise SourceError(self._nothing())
        self._class_names: dict[Any, str] = {}
        self.labels: frozenset[str] = frozenset()
        if label_column is not None:
            self._class_names, self.classes = self._read_classes(label_column)

    def __len__(self) -> int:
        return sum(part.rows for part in self._parts)

    def __iter__(self) -> Iterator[Record]:
        """File by file in the order of their names, row by row."""
        for part in self._parts:
            for rows, table in self._selected(part, [self.image_column, self.label_column, self.group_column]):
                for row, values in zip(rows, table.to_pylist(), strict=True):
                    label = self._class_names.get(values.get(self.label_column))
                    group = values.get(self.group_column)
                    yield Record(
                        id=f"{part.name}#{row}",
                        payload=_payload(values[self.image_column], part.path),
                        label=label,
                        group=None if group is None else str(group),
                    )

    def _open(self, name: str, path: Place) -> _Part:
        wanted = [self.image_column, self.label_column, self.group_column, *self._selection]
        with _parquet(path) as file:
            schema = file.schema_arrow
            keys = {key: value for key, value in _keys(name).items() if key not in schema.names}
            for column in wanted:
                if column is not None and column not in schema.names and column not in keys:
                    kind = NoLabelsError if column == self.label_column else SourceError
                    raise kind(f"{path} has no column {column!r}; it has: {', '.join((*schema.names, *keys))}")
            if self.image_column in keys:
                raise SourceError(f"{path}: column {self.image_column!r} is a folder's name, not images")
            _check_images(schema.field(self.image_column), path)
            if self.label_column is not None and self.label_column not in keys:
                _check_labels(schema.field(self.label_column), path)
            groups, first_row, selected = [], 0, 0
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                count = rows
                if self._selection:
                    table = file.read_row_group(number, columns=[key for key in self._selection if key not in keys])
                    count = pc.sum(self._mask(_with_keys(table, keys, rows))).as_py() or 0
                if count:
                    groups.append((number, first_row))
                first_row += rows
                selected += count
        return _Part(name, path, keys, tuple(groups), selected)

    def _selected(self, part: _Part, columns: list[str | None]) -> Iterator[tuple[list[int], pa.Table]]:
        """Selected rows of a file, a few at a time: their numbers and a table of these columns."""
        names = list(dict.fromkeys(column for column in (*columns, *self._selection) if column is not None))
        with _parquet(part.path) as file:
            for number, first_row in part.row_groups:
                stored = [name for name in names if name not in part.keys]
                for batch in file.iter_batches(_ROWS, row_groups=[number], columns=stored):
                    table = _with_keys(pa.Table.from_batches([batch]), part.keys, len(batch))
                    rows = list(range(first_row, first_row + len(table)))
                    first_row += len(table)
                    if self._selection:
                        mask = self._mask(table)
                        table = table.filter(mask)
                        rows = [row for row, chosen in zip(rows, mask.to_pylist(), strict=True) if chosen]
                    yield rows, table

    def _mask(self, table: pa.Table) -> pa.ChunkedArray:
        mask = None
        for column, value in self._selection.items():
            try:
                text = pc.cast(table[column], pa.string())
            except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
                raise SourceError(
                    f"rows cannot be selected by {column!r}, which holds {table[column].type}; "
                    "select by a column of strings or whole numbers"
                ) from error
            equal = pc.fill_null(pc.equal(text, value), False)
            mask = equal if mask is None else pc.and_(mask, equal)
        return mask

    def _nothing(self) -> str:
        if not self._selection:
            return f"{self._place} holds no rows"
        chosen = " and ".join(f"{column}={value}" for column, value in self._selection.items())
        values = []
        for column in self._selection:
            found: set[str] = set()
            for part in self._parts:
                if column in part.keys:
                    found.add(part.keys[column])
                    continue
                with _parquet(part.path) as file:
                    found |= {str(value) for value in pc.unique(file.read([column])[column]).to_pylist()}
            listed = ", ".join(sorted(found)[:12]) + (", …" if len(found) > 12 else "")
            values.append(f"{column} holds: {listed or 'nothing'}")
        return f"no row of {self._place} has {chosen}; {'; '.join(values)}"

    def _read_classes(self, column: str) -> tuple[dict[Any, str], tuple[str, ...]]:
        """Names by label, and all classes. Every label is looked at now, not after hours of training."""
        names = _metadata_names(self._parts[0].path, column)
        found: set[Any] = set()
        for part in self._parts:
            for rows, table in self._selected(part, [column]):
                labels = table[column].to_pylist()
                for row, label in zip(rows, labels, strict=True):
                    if label is None:
                        raise SourceError(f"{part.name}#{row} has no label ({column} is null); label or remove it")
                    if names is not None and isinstance(label, int) and not 0 <= label < len(names):
                        raise SourceError(f"{part.name}#{row} has the label {label}; there are {len(names)} classes")
                found.update(labels)
        ordered = sorted(found, key=lambda label: (isinstance(label, str), label))
        by_label, classes = named_labels(ordered, names)
        self.labels = frozenset(by_label[label] for label in found)
        return by_label, classes


def _tables(files: Files) -> list[tuple[str, Place]]:
    found = []
    for name, file in files:
        if isinstance(file, ImageError):
            raise SourceError(str(file))
        found.append((name, file))
    if not found:
        raise SourceError(f"{files.root} holds no Parquet files")
    return found


def _keys(name: str) -> dict[str, str]:
    """Columns that folders stand for, as Hive names them: `split=train/part-0.parquet`."""
    pairs = (folder.partition("=") for folder in name.split("/")[:-1])
    return {key: urllib.parse.unquote(value) for key, equals, value in pairs if key and equals}


def _with_keys(table: pa.Table, keys: dict[str, str], rows: int) -> pa.Table:
    columns = {key: pa.array([value] * rows, pa.string()) for key, value in keys.items()}
    return pa.table({**{name: table[name] for name in table.column_names}, **columns})


@contextlib.contextmanager
def _parquet(path: Place) -> Iterator[pq.ParquetFile]:
    try:
        # Opened here and not by name, because Arrow takes only names that are valid UTF-8.
        stream: IO[bytes]
        with path.open("rb") as stream, pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read as Parquet: {error}") from error


def _check_images(field: pa.Field, path: Place) -> None:
    def binary(kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    children = {child.name: child.type for child in field.type} if pa.types.is_struct(field.type) else {}
    if not binary(field.type) and not binary(children.get("bytes", pa.null())):
        raise SourceError(
            f"{path}: column {field.name!r} holds {field.type}, not images; "
            "it must hold encoded bytes, or struct<bytes, path>"
        )


def _check_labels(field: pa.Field, path: Place) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise SourceError(
            f"{path}: column {field.name!r} holds {field.type}, not labels; they are names or class numbers"
        )


def _payload(value: Any, table: Place) -> Payload:
    if isinstance(value, dict):
        if value["bytes"] is None and value.get("path"):
            name = str(value["path"])
            return table.parent / name if isinstance(table, Path) else table.parent.below(name)
        value = value["bytes"]
    return value if isinstance(value, bytes) else ImageError("the row holds no image (null)")


def _metadata_names(path: Place, column: str) -> tuple[str, ...] | None:
    """Class names in the schema's metadata, as Hugging Face's `datasets` writes them."""
    with _parquet(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        names = feature["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None
