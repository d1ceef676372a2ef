"""Screening: a gate and a stream of images in, a table of verdicts out, in constant memory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from normgate import __version__
from normgate.calibration import smallest_p_value
from normgate.calibration.conformal import check_share
from normgate.data.decoding import DEFAULT_MAX_PIXELS, ImageError
from normgate.data.loading import count, load_batches
from normgate.data.parquet import ParquetImages
from normgate.data.sources import open_source
from normgate.errors import NormgateError
from normgate.files import OutputError, check_output, explained, whole_file, whole_folder
from normgate.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from normgate.data.sources import Data
    from normgate.gate import Gate, Verdicts
    from normgate.progress import Progress

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
PART_ROWS = 262_144
PARTS = ("part-*.parquet",)
_OTHER_TABLES = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".arrow", ".feather"})


NO_FILES = "only folders and lists of files have rejected files to copy or move; this source has none"


class ScreeningError(NormgateError):
    """Screening cannot do what is asked of it."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a screening run found.

    Attributes:
        images: seen in all; the sum of the next three.
        accepted: passed the threshold.
        rejected: did not.
        unreadable: have an error instead of a score.
        skipped: files left out because their names are not those of images; not among the images.
        first_errors: `id: message` of the first few unreadable images.
        false_alarm_rate: α, or None where the false-discovery rate was controlled instead.
        false_discovery_rate: Q, or None.
        cut: largest p-value that is rejected; 0 where nothing could be rejected.
        smallest_p_value: 1/(n+1), the smallest that the calibration set allows.
        seconds: wall-clock time.
    """

    images: int
    accepted: int
    rejected: int
    unreadable: int
    skipped: int
    first_errors: tuple[str, ...]
    false_alarm_rate: float | None
    false_discovery_rate: float | None
    cut: float
    smallest_p_value: float
    seconds: float


def screen(
    gate: Gate,
    data: Data,
    output: str | os.PathLike[str],
    *,
    fdr: float | None = None,
    rejected: Literal["copy", "move"] | None = None,
    rejected_to: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    batch_size: int = 128,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress = silent,
) -> Summary:
    """Judge every image of a source and write one row an image.

    Args:
        gate: judges.
        data: a folder, files, a Parquet table, …; see `open_source`.
        output: `name.parquet` for one file, any other name for a folder of parts; appears whole or not at all.
        fdr: control the false-discovery rate over the readable images of this run at this level (Benjamini-Hochberg)
            instead of the false-alarm rate. The promise holds on average over calibration sets, for independent images.
        rejected: copy or move the rejected files, once the table is written.
        rejected_to: where to; paths below the source are kept, and of a list of paths the paths themselves.
        overwrite: replace an output that exists.
        batch_size: images in a forward pass.
        workers: decoding threads.
        max_pixels: larger images are errors.
        progress: told how far it is.

    Raises:
        ScreeningError: rejected files are to be copied or moved, but the source holds no files.
        CalibrationError: `fdr` is not between 0 and 1.
        OutputError: the output exists or cannot be written.
    """
    started = time.perf_counter()
    target = Path(output)
    if target.suffix.lower() in _OTHER_TABLES:
        raise ScreeningError(
            f"verdicts are written as Parquet, not {target.suffix}: name the output {target.stem}.parquet"
        )
    check_output(target, overwrite=overwrite, holds=() if _is_one_file(target) else PARTS)
    if fdr is not None:
        check_share(fdr, "the false-discovery rate")
    if rejected is not None:
        if rejected_to is None:
            raise ScreeningError(f"say where to {rejected} the rejected files")
        check_output(Path(rejected_to) / "rejected", overwrite=True)
    if rejected not in (None, "copy", "move"):
        raise ScreeningError(
            f"rejected files are left alone (None), copied ('copy') or moved ('move'), not {rejected!r}"
        )
    source = open_source(data, labelled=False)
    if rejected is not None and isinstance(source, ParquetImages):
        raise ScreeningError(NO_FILES)  # not even those that a table names: they belong to whoever made the table
    schema = SCHEMA.with_metadata(_metadata(gate, fdr))
    histogram = gate.calibration.histogram()
    counts = {"images": 0, "accepted": 0, "rejected": 0, "unreadable": 0}
    first_errors: list[str] = []
    total = count(source)
    batches = load_batches(
        source, gate.extractor.preprocessing, batch_size=batch_size, workers=workers, max_pixels=max_pixels
    )
    with contextlib.ExitStack() as stack:
        # With control of false discoveries the decisions wait for all p-values.
        scratch = stack.enter_context(_scratch_folder())
        paths = stack.enter_context((scratch / "paths").open("wb"))
        with contextlib.ExitStack() as writing:
            write = writing.enter_context(
                _writer(target, schema, overwrite)
                if fdr is None
                else _file_writer(scratch / "verdicts.parquet", schema)
            )
            for batch in batches:
                verdicts = gate.judge_batch(batch)
                write(verdict_table(verdicts, schema))
                counts["images"] += len(verdicts)
                counts["unreadable"] += len(verdicts) - int(batch.readable.sum())
                counts["accepted"] += int(verdicts.accepted.sum())
                histogram.add(verdicts.p_value[batch.readable])
                first_errors += [
                    f"{name}: {error}"
                    for name, error in zip(verdicts.id, verdicts.error, strict=True)
                    if error is not None
                ][: 10 - len(first_errors)]
                if rejected is not None:
                    _note_paths(paths, [record.payload for record in batch.records])
                progress("screening", counts["images"], total)
        cut = gate.calibration.alpha if fdr is None else histogram.cut(fdr)
        if fdr is not None:
            counts["accepted"] = 0
            with _writer(target, schema, overwrite) as write:
                for table in _tables(scratch / "verdicts.parquet"):
                    decided = _decided(table, cut)
                    counts["accepted"] += pc.sum(decided["accepted"]).as_py() or 0
                    write(decided)
        counts["rejected"] = counts["images"] - counts["accepted"] - counts["unreadable"]
        if rejected is not None and rejected_to is not None:
            paths.flush()
            _carry(rejected, scratch / "paths", target, getattr(source, "root", None), Path(rejected_to))
    return Summary(
        **counts,
        skipped=source.skipped,
        first_errors=tuple(first_errors),
        false_alarm_rate=gate.calibration.alpha if fdr is None else None,
        false_discovery_rate=fdr,
        cut=cut,
        smallest_p_value=smallest_p_value(max(gate.calibration.sizes)),
        seconds=time.perf_counter() - started,
    )


def verdict_table(verdicts: Verdicts, schema: pa.Schema = SCHEMA) -> pa.Table:
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
        schema=schema,
    )


def rejected_ids(output: str | os.PathLike[str]) -> Iterator[str]:
    """The ids of the rejected images in a table of verdicts, in its order."""
    for table in _tables(Path(output)):
        yield from table.filter(pc.invert(table["accepted"]))["id"].to_pylist()


def _decided(table: pa.Table, cut: float) -> pa.Table:
    accepted = pc.greater(table["p_value"], cut)
    return table.set_column(table.schema.get_field_index("accepted"), "accepted", accepted)


def _metadata(gate: Gate, fdr: float | None) -> dict[str, str]:
    return {
        "normgate.version": __version__,
        "normgate.score": gate.score.name,
        "normgate.thresholds": ",".join(repr(float(value)) for value in gate.calibration.thresholds),
        "normgate.calibration_images": str(gate.calibration.n),
        "normgate.false_alarm_rate": repr(gate.calibration.alpha) if fdr is None else "",
        "normgate.false_discovery_rate": "" if fdr is None else repr(fdr),
    }


def _is_one_file(target: Path) -> bool:
    return target.suffix.lower() in (".parquet", ".pq")


def _writer(
    target: Path, schema: pa.Schema, overwrite: bool
) -> contextlib.AbstractContextManager[Callable[[pa.Table], None]]:
    if _is_one_file(target):
        return _whole_file_writer(target, schema, overwrite)
    return _parts_writer(target, schema, overwrite)


@contextlib.contextmanager
def _whole_file_writer(target: Path, schema: pa.Schema, overwrite: bool) -> Iterator[Callable[[pa.Table], None]]:
    with whole_file(target, overwrite=overwrite) as partial, _file_writer(partial, schema) as write:
        yield write


@contextlib.contextmanager
def _parts_writer(target: Path, schema: pa.Schema, overwrite: bool) -> Iterator[Callable[[pa.Table], None]]:
    with whole_folder(target, holds=PARTS, overwrite=overwrite) as folder, contextlib.ExitStack() as stack:
        part, rows = -1, PART_ROWS
        write: Callable[[pa.Table], None]

        def write_part(table: pa.Table) -> None:
            nonlocal part, rows, write
            if rows >= PART_ROWS:
                stack.pop_all().close()
                part, rows = part + 1, 0
                write = stack.enter_context(_file_writer(folder / f"part-{part:05d}.parquet", schema))
            write(table)
            rows += len(table)

        write_part(schema.empty_table())
        yield write_part


@contextlib.contextmanager
def _file_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Collects rows into groups of `ROW_GROUP`."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        pending: list[pa.Table] = []

        def flush() -> None:
            writer.write_table(pa.concat_tables(pending).combine_chunks())
            pending.clear()

        def write(table: pa.Table) -> None:
            pending.append(table)
            if sum(len(part) for part in pending) >= ROW_GROUP:
                flush()

        yield write
        if pending:
            flush()


def _tables(path: Path) -> Iterator[pa.Table]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(ROW_GROUP):
                yield pa.Table.from_batches([batch])


@contextlib.contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder for what has to wait until all images are seen."""
    try:
        with tempfile.TemporaryDirectory(prefix="normgate-") as name:
            yield Path(name)
    except OSError as error:
        raise OutputError(
            f"temporary files cannot be written: {error.strerror or error}; set TMPDIR to a folder with room"
        ) from error


def _note_paths(file: Any, payloads: list[Any]) -> None:
    for payload in payloads:
        if not isinstance(payload, str | os.PathLike | ImageError):
            raise ScreeningError(NO_FILES)
        file.write((b"" if isinstance(payload, ImageError) else os.fsencode(payload)) + b"\0")


def _carry(action: Literal["copy", "move"], paths: Path, table: Path, root: Path | None, destination: Path) -> None:
    """Copy or move the rejected files, all or, where two would have one name or one is there already, none."""
    places: dict[Path, Path] = {}
    seen: set[Path] = set()
    for path in _rejected_paths(paths, table):
        if path.resolve() in seen:  # listed twice
            continue
        seen.add(path.resolve())
        place = destination / _below(path, root)
        if os.path.lexists(place) or places.setdefault(place, path) is not path:
            raise ScreeningError(
                f"{place} exists, or two rejected files would be there; the table is written, but no rejected file "
                f"was touched: name another folder than {destination}"
            )
    for place, path in places.items():
        with explained(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            if action == "copy":
                shutil.copy2(path, place)
            else:
                shutil.move(path, place)


def _rejected_paths(paths: Path, table: Path) -> Iterator[Path]:
    names = _nul_separated(paths)
    for part in _tables(table):
        for accepted in part["accepted"].to_pylist():
            path = next(names)
            if accepted is False:
                yield Path(os.fsdecode(path))


def _below(path: Path, root: Path | None) -> Path:
    """Where a file goes below the destination: as below the source, or as its path was given."""
    if root is not None:
        return Path(path.name) if path == root else path.relative_to(root)
    return Path(*(part for part in path.parts if part not in (path.anchor, "..")))


def _nul_separated(path: Path) -> Iterator[bytes]:
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 16):
            *whole, rest = (rest + chunk).split(b"\0")
            yield from whole
