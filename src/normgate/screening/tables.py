"""Tables of verdicts: one Parquet file, or a folder of parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from normgate.verdicts import Verdicts

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("accepted", pa.bool_()),
        ("error", pa.string()),
    ]
)
ROW_GROUP = 16_384
COMPRESSION = "zstd"


def verdict_table(verdicts: Verdicts) -> pa.Table:
    """Verdicts as an Arrow table; what an unreadable image lacks is null."""
    missing = np.array([error is not None for error in verdicts.error], dtype=bool)
    return pa.table(
        {
            "id": pa.array(verdicts.id, pa.string()),
            "label": pa.array(verdicts.label, pa.string()),
            "probability": pa.array(verdicts.probability, mask=missing),
            "score": pa.array(verdicts.score, mask=missing),
            "p_value": pa.array(verdicts.p_value, mask=missing),
            "accepted": pa.array(verdicts.accepted, mask=missing),
            "error": pa.array(verdicts.error, pa.string()),
        },
        schema=SCHEMA,
    )


def decided(table: pa.Table, cut: float | None) -> pa.Table:
    """The same verdicts, where what has a p-value up to the cut is rejected; None leaves the decisions."""
    if cut is None:
        return table
    accepted = pc.greater(table["p_value"], cut)
    return table.set_column(table.schema.get_field_index("accepted"), "accepted", accepted)


def read_tables(path: Path) -> Iterator[pa.Table]:
    """A table of verdicts, a row group at most at a time."""
    for file in part_files(path):
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(ROW_GROUP):
                yield pa.Table.from_batches([batch])


def part_files(path: Path) -> list[Path]:
    """The Parquet files of a table, in its order."""
    # By their numbers, also where these have more digits than others.
    return sorted(path.glob("*.parquet"), key=lambda file: (len(file.name), file.name)) if path.is_dir() else [path]


def is_part(path: Path) -> bool:
    """Whether a file is a table of verdicts."""
    try:
        return b"normgate.version" in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def write_tables(tables: Iterable[pa.Table], path: Path, schema: pa.Schema) -> None:
    """Write tables as one file, in groups of at least `ROW_GROUP` rows."""
    pending: list[pa.Table] = []
    with pq.ParquetWriter(path, schema, compression=COMPRESSION) as writer:
        for table in tables:
            pending.append(table)
            if sum(len(part) for part in pending) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(pending).combine_chunks())
                pending.clear()
        writer.write_table(pa.concat_tables([*pending, schema.empty_table()]).combine_chunks())


def rejected_ids(output: str | os.PathLike[str]) -> Iterator[str]:
    """The ids of the rejected images in a table of verdicts, in its order."""
    for table in read_tables(Path(output)):
        yield from table.filter(pc.invert(table["accepted"]))["id"].to_pylist()
