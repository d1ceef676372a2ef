"""Screening: a gate and a stream of images in, a table of verdicts out, in constant memory."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from normgate import __version__
from normgate.calibration import smallest_p_value
from normgate.calibration.conformal import check_share
from normgate.carrying import Carrier
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.loading import count, load_batches
from normgate.data.sources import open_source
from normgate.errors import NormgateError
from normgate.files import OutputError, check_output, names_in, whole_file, whole_folder
from normgate.progress import silent

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from normgate.carrying import Action
    from normgate.data.sources import Data, Source
    from normgate.gate import Gate, Verdicts
    from normgate.monitor import ShiftAlarm
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
_OTHER_TABLES = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".arrow", ".feather"})


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
        shift: what the shift alarm says of the run; None where it was not asked.
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
    shift: Shift | None = None


@dataclasses.dataclass(frozen=True)
class Shift:
    """What the shift alarm says of a finished run, whose images it was shown in random order.

    Attributes:
        delta: the chance, at most, of an alarm where the images come like the calibration images.
        raised: whether it was raised.
        after: how many images it took; None where it was not raised.
        log_martingale: the largest log S of the run; the alarm is raised at log 1/δ.
    """

    delta: float
    raised: bool
    after: int | None
    log_martingale: float


def screen(
    gate: Gate,
    data: Data,
    output: str | os.PathLike[str],
    *,
    fdr: float | None = None,
    rejected: Action | None = None,
    rejected_to: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    batch_size: int = 128,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    shift_delta: float | None = None,
    shift_seed: int = 0,
    written: Callable[[Summary], None] | None = None,
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
        shift_delta: ask the shift alarm whether these images come like the calibration images, at this chance of a
            false alarm. Files are often sorted by class or date, so that they are ranked in random order.
        shift_seed: of that order and of the alarm's ties.
        written: called once the table is written, while the rejected files are still where they were.
        progress: told how far it is.

    Raises:
        CarryingError: rejected files are to be copied or moved, but cannot be; see `Carrier`.
        ScreeningError: the output is what is to be screened, or has the suffix of another format.
        CalibrationError: `fdr` is not between 0 and 1.
        OutputError: the output exists or cannot be written.
    """
    started = time.perf_counter()
    target = Path(output)
    if target.suffix.lower() in _OTHER_TABLES:
        raise ScreeningError(
            f"verdicts are written as Parquet, not {target.suffix}: name the output {target.stem}.parquet"
        )
    check_output(target, overwrite=overwrite, foreign=None if _is_one_file(target) else _foreign)
    if fdr is not None:
        check_share(fdr, "the false-discovery rate")
    alarm = None if shift_delta is None else gate.shift_alarm(delta=shift_delta, seed=shift_seed)
    source = open_source(data, labelled=False)
    _check_apart(target, source)
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
        place = None if rejected_to is None else Path(rejected_to)
        carrier = None if rejected is None else Carrier(rejected, source, place, scratch / "paths")
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
                if carrier is not None:
                    carrier.note(record.payload for record in batch.records)
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
        summary = Summary(
            **counts,
            skipped=source.skipped,
            first_errors=tuple(first_errors),
            false_alarm_rate=gate.calibration.alpha if fdr is None else None,
            false_discovery_rate=fdr,
            cut=cut,
            smallest_p_value=smallest_p_value(max(gate.calibration.sizes)),
            shift=None if alarm is None else _shift(alarm, target, shift_seed),
            seconds=time.perf_counter() - started,
        )
        if written is not None:
            written(summary)
        if carrier is not None:
            accepted = (value for table in _tables(target) for value in table["accepted"].to_pylist())
            carrier.carry(value is False for value in accepted)
    return summary


def _shift(alarm: ShiftAlarm, target: Path, seed: int) -> Shift:
    """Show an alarm the scores of a finished table, 8 bytes an image in memory."""
    parts = [table["score"].drop_null().to_numpy() for table in _tables(target)]
    scores = np.concatenate(parts) if parts else np.empty(0)
    # Another stream of random numbers than the alarm's own.
    np.random.default_rng([seed, 1]).shuffle(scores)
    path = alarm.update(scores)
    largest = float(path.max()) if len(path) else alarm.log_martingale
    return Shift(alarm.delta, alarm.raised is not None, alarm.raised, largest)


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


def _check_apart(target: Path, source: Source) -> None:
    """Refuse to put verdicts in the place of the images, or of a folder that holds them."""
    place = getattr(source, "path", getattr(source, "root", None))
    if place is not None and target.resolve() in (Path(place).resolve(), *Path(place).resolve().parents):
        raise ScreeningError(f"the images to screen are in {target}; name another output")


def _foreign(folder: Path) -> str | None:
    """The name of something in a folder that is not a part of a table of verdicts; None where there is nothing else."""
    return next((name for name in names_in(folder) if not _is_part(folder / name)), None)


def _is_part(path: Path) -> bool:
    try:
        return b"normgate.version" in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


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
    with whole_folder(target, foreign=_foreign, overwrite=overwrite) as folder, contextlib.ExitStack() as stack:
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
