"""Screening: a gate and a stream of images in, a table of verdicts out, in constant memory."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from normgate import __version__
from normgate.calibration import smallest_p_value
from normgate.calibration.conformal import check_share
from normgate.carrying import Carrier, names_of
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.folders import PathList
from normgate.data.loading import count
from normgate.data.parquet import ParquetImages
from normgate.data.sources import open_source
from normgate.errors import NormgateWarning
from normgate.files import OutputError, check_output
from normgate.judging import check_runtime, choose_judge
from normgate.progress import silent
from normgate.runtime import PortableGate
from normgate.screening.judged import judged
from normgate.screening.parts import Parts, foreign, is_being_carried
from normgate.screening.ray_engine import check_ray, judged_by_ray
from normgate.screening.summary import OtherJobError, ScreeningError, Shift, Summary
from normgate.screening.tables import SCHEMA, decided, read_tables

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from normgate.carrying import Action
    from normgate.data.sources import Data, Source
    from normgate.judging import Chosen, Judge, Runtime
    from normgate.monitor import ShiftAlarm
    from normgate.progress import Progress
    from normgate.screening.finished import Finished

Engine: TypeAlias = Literal["local", "ray"]
PART_ROWS = 8192
_OTHER_TABLES = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".arrow", ".feather"})
_FIRST_ERRORS = 10


def screen(
    gate: Judge,
    data: Data,
    output: str | os.PathLike[str],
    *,
    fdr: float | None = None,
    rejected: Action | None = None,
    rejected_to: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    runtime: Runtime = "auto",
    engine: Engine = "local",
    address: str | None = None,
    batch_size: int = 128,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    part_rows: int = PART_ROWS,
    shift_delta: float | None = None,
    shift_seed: int = 0,
    written: Callable[[Summary], None] | None = None,
    progress: Progress = silent,
) -> Summary:
    """Judge every image of a source and write one row an image.

    A run that is stopped at any moment, even by `kill -9` or a full disk, leaves its finished parts in `<output>.run`;
    the same call goes on with them: every image has one row, and only those of the part in flight are judged again.
    While rejected files are copied or moved the output is there already, so that the same call wants `overwrite`, too;
    it judges nothing then.

    Args:
        gate: judges; a gate, or one that was exported.
        data: a folder, files, a Parquet table, …; see `open_source`.
        output: `name.parquet` for one file, any other name for a folder of parts; appears whole or not at all.
        fdr: control the false-discovery rate over the readable images of this run at this level (Benjamini-Hochberg)
            instead of the false-alarm rate. The promise holds on average over calibration sets, for independent images.
        rejected: copy or move the rejected files, once the table is written.
        rejected_to: where to; paths below the source are kept, and of a list of paths the paths themselves.
        overwrite: replace an output that exists.
        runtime: "onnx", "torch", or "auto": ONNX Runtime on a CPU where it is installed; see `normgate.judging`.
        engine: "local", or "ray" for Ray Data on this machine or a cluster, whose workers find the images under the
            names that they have here.
        address: of a running Ray cluster; by default one is started on this machine.
        batch_size: images in a forward pass; with ONNX Runtime, in those that go on at a time.
        workers: decoding threads, each of which judges, too, with ONNX Runtime, by one core; with Ray, processes that
            decode and judge, by default one a core or one a GPU.
        max_pixels: larger images are errors.
        part_rows: images after which a part is finished.
        shift_delta: ask the shift alarm whether these images come like the calibration images, at this chance of a
            false alarm. Files are often sorted by class or date, so that they are ranked in random order.
        shift_seed: of that order and of the alarm's ties.
        written: called once the table is written, while the rejected files are still where they were.
        progress: told how far it is.

    Raises:
        CarryingError: rejected files are to be copied or moved, but cannot be; see `Carrier`.
        ScreeningError: the output is what is to be screened or has the suffix of another format, an unfinished run
            of another job is in the way, or Ray is not installed, cannot be reached or fails.
        JudgingError: the runtime is not there.
        CalibrationError: `fdr` is not between 0 and 1.
        OutputError: the output exists or cannot be written.
    """
    started = time.perf_counter()
    if isinstance(gate, str | Path):
        raise ScreeningError(f"screen() takes a gate, and not its place: normgate.judging.load_judge({str(gate)!r})")
    target = Path(output)
    if target.suffix.lower() in _OTHER_TABLES:
        raise ScreeningError(
            f"verdicts are written as Parquet, not {target.suffix}: name the output {target.stem}.parquet"
        )
    if not overwrite and target.exists() and is_being_carried(target):
        raise OutputError(
            f"{target} is written, but its run was stopped while it copied or moved the rejected files; the same "
            "command with --overwrite (overwrite=True) goes on with them"
        )
    check_output(target, overwrite=overwrite, foreign=None if _is_one_file(target) else foreign)
    if fdr is not None:
        check_share(fdr, "the false-discovery rate")
    if part_rows < 1:
        raise ScreeningError(f"a part has at least 1 row, not {part_rows}")
    check_runtime(runtime, exported=isinstance(gate, PortableGate))
    check_engine(engine, address)
    alarm = None if shift_delta is None else gate.shift_alarm(delta=shift_delta, seed=shift_seed)
    source = open_source(data, labelled=False)
    if engine == "ray" and isinstance(source, PathList):
        source = PathList(list(source.paths))  # lines of a pipe cannot be read elsewhere
    _check_apart(target, source)
    if rejected_to is not None and rejected is None:
        raise ScreeningError("rejected_to= says where rejected files go; say rejected='copy' or 'move', too")
    place = None if rejected_to is None else Path(rejected_to)
    carrier = None if rejected is None else Carrier(rejected, source, place)
    chosen = choose_judge(gate, runtime, threads=1)
    job = _job(chosen, source, fdr, max_pixels, rejected)
    total = count(source)
    with Parts(
        target,
        job,
        SCHEMA.with_metadata(_metadata(gate, fdr, chosen)),
        one_file=_is_one_file(target),
        overwrite=overwrite,
        part_rows=part_rows,
    ) as parts:
        finished = parts.finished()
        options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}
        if parts.published is None:
            if isinstance(source, PathList) and isinstance(source.paths, Sized):
                finished.count_remaining(source)
                _check_same_paths(source, finished, parts)  # and not only once all are judged
            batches = (
                judged(chosen.judge, finished.remaining(source), **options)
                if engine == "local"
                else judged_by_ray(chosen.judge, source, finished, address=address, gpus=_gpus(chosen.judge), **options)
            )
            for payloads, table in batches:
                parts.write(table, b"" if carrier is None else carrier.noted(payloads))
                progress("screening", parts.rows, total)
            _check_same_paths(source, finished, parts)
            parts.close()
            cut = None if fdr is None else _cut(gate, fdr, parts.tables())
        else:  # what is left are files to carry off, and what was decided on them stays
            _say_unjudged(finished.count_remaining(source))
            cut = parts.published["cut"]
        parts.publish(cut, keep=carrier is not None)
        counts, first_errors = _counted(target)
        summary = Summary(
            **counts,
            skipped=source.skipped,
            first_errors=first_errors,
            false_alarm_rate=gate.calibration.alpha if fdr is None else None,
            false_discovery_rate=fdr,
            cut=gate.calibration.alpha if cut is None else cut,
            smallest_p_value=smallest_p_value(max(gate.calibration.sizes)),
            runtime=chosen.runtime,
            runtime_reason=chosen.reason,
            resumed=parts.resumed,
            shift=None if alarm is None else _shift(alarm, target, shift_seed),
            seconds=time.perf_counter() - started,
        )
        if written is not None:
            written(summary)
        if carrier is not None and rejected is not None:
            carrier.check(_rejected_names(parts, cut))
            parts.begin_carrying(rejected, cut)
            carrier.carry()
            parts.end()
    return summary


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an engine that does not exist or is not installed.

    Raises:
        ScreeningError: as said.
    """
    if engine not in get_args(Engine):
        raise ScreeningError(f"there is no engine {engine!r}; choose one of {', '.join(get_args(Engine))}")
    if engine == "ray":
        check_ray()
    elif address is not None:
        raise ScreeningError("an address is of a Ray cluster; pass the engine 'ray' (--engine ray), too")


def _gpus(judge: Judge) -> int:
    return int(not isinstance(judge, PortableGate) and judge.extractor.device.type == "cuda")


def _job(
    chosen: Chosen, source: Source, fdr: float | None, max_pixels: int, rejected: Action | None
) -> dict[str, Any] | None:
    """What the verdicts of a run depend on; None where the images or the network cannot be told from others."""
    place = getattr(source, "place", None)
    if chosen.digest is None or place is None:
        return None
    return {
        "gate": chosen.digest,
        "images": place,
        "runtime": chosen.runtime,
        "fdr": fdr,
        "max_pixels": max_pixels,
        "rejected": rejected,
        "version": __version__,
    }


def _cut(gate: Judge, fdr: float, tables: Iterable[pa.Table]) -> float:
    histogram = gate.calibration.histogram()
    for table in tables:
        histogram.add(table["p_value"].drop_null().to_numpy())
    return histogram.cut(fdr)


def _rejected_names(parts: Parts, cut: float | None) -> list[Path]:
    accepted = itertools.chain.from_iterable(decided(table, cut)["accepted"].to_pylist() for table in parts.tables())
    try:
        return [name for name, passed in zip(names_of(parts.paths()), accepted, strict=True) if passed is False]
    except ValueError as error:
        raise ScreeningError(
            f"{parts.folder} is damaged ({error}), so that no rejected file can be carried off; {parts.target} says "
            "which they are. Choose another output for the next run, or remove the folder"
        ) from error


def _check_same_paths(source: Source, finished: Finished, parts: Parts) -> None:
    """Refuse to mix lists of paths, of which one is not told from another before it is run through."""
    if isinstance(source, PathList) and finished.unseen:
        raise OtherJobError(
            f"{parts.folder} holds verdicts on {finished.unseen} images that are not among these paths; remove it, or "
            "choose another output"
        )


def _say_unjudged(images: int) -> None:
    if images:
        warnings.warn(
            f"{images} images that have come since are not judged: this run had judged all, and only went on with its "
            "rejected files; screen them in another run",
            NormgateWarning,
            stacklevel=3,
        )


def _counted(target: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """How many images of a finished table are what, and the first errors."""
    images = accepted = unreadable = 0
    first_errors: list[str] = []
    for table in read_tables(target):
        failed = table.filter(table["error"].is_valid())
        images += len(table)
        unreadable += len(failed)
        accepted += pc.sum(table["accepted"]).as_py() or 0
        first = failed.slice(0, _FIRST_ERRORS - len(first_errors)).to_pylist()
        first_errors += [f"{row['id']}: {row['error']}" for row in first]
    rejected = images - accepted - unreadable
    return {"images": images, "accepted": accepted, "rejected": rejected, "unreadable": unreadable}, tuple(first_errors)


def _shift(alarm: ShiftAlarm, target: Path, seed: int) -> Shift:
    """Show an alarm the scores of a finished table, 8 bytes an image in memory."""
    parts = [table["score"].drop_null().to_numpy() for table in read_tables(target)]
    scores = np.concatenate(parts) if parts else np.empty(0)
    # Another stream of random numbers than the alarm's own.
    np.random.default_rng([seed, 1]).shuffle(scores)
    path = alarm.update(scores)
    largest = float(path.max()) if len(path) else alarm.log_martingale
    return Shift(alarm.delta, alarm.raised is not None, alarm.raised, largest)


def _metadata(gate: Judge, fdr: float | None, chosen: Chosen) -> dict[str, str]:
    return {
        "normgate.version": __version__,
        "normgate.score": gate.score_name,
        "normgate.runtime": chosen.runtime,
        "normgate.thresholds": ",".join(repr(float(value)) for value in gate.calibration.thresholds),
        "normgate.calibration_images": str(gate.calibration.n),
        "normgate.false_alarm_rate": repr(gate.calibration.alpha) if fdr is None else "",
        "normgate.false_discovery_rate": "" if fdr is None else repr(fdr),
    }


def _check_apart(target: Path, source: Source) -> None:
    """Refuse to put verdicts in the place of the images, or of a folder that holds them."""
    place = getattr(source, "root", None)
    inside = place is not None and Path(place).resolve() in target.resolve().parents
    if inside and isinstance(source, ParquetImages):
        raise ScreeningError(f"{target} would be one of the tables to screen; name an output outside of {place}")
    if place is not None and target.resolve() in (Path(place).resolve(), *Path(place).resolve().parents):
        raise ScreeningError(f"the images to screen are in {target}; name another output")


def _is_one_file(target: Path) -> bool:
    return target.suffix.lower() in (".parquet", ".pq")
