"""Screening on one machine or many through Ray Data: the same verdicts, in the same order.

One task reads the source and streams its records; actors decode and judge them; Ray holds the reader back while they
are busy, and repeats what was lost with a worker. Workers find the images under the names that the source gives them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from normgate.data.decoding import ImageError
from normgate.data.remote import RemoteFile
from normgate.data.sources import Record
from normgate.errors import NormgateError
from normgate.lazily import missing
from normgate.runtime import PortableGate
from normgate.screening.judged import judged
from normgate.screening.summary import ScreeningError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ray import ObjectRef
    from ray.data import Datasource

    from normgate.data.decoding import Payload
    from normgate.data.sources import Source
    from normgate.gate import Gate
    from normgate.judging import Judge
    from normgate.screening.finished import Finished

_RECORDS = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.binary()),
        ("bytes", pa.large_binary()),
        ("fs", pa.string()),
        ("address", pa.string()),
        ("size", pa.int64()),
        ("error", pa.string()),
    ]
)
_PATH = "_path"
_ROWS = 64  # of records packed at a time
# Small enough that all workers have something to do, large enough that Ray's own work does not count.
_BLOCK_OF_PATHS, _BLOCK_OF_IMAGES = 64 * 2**10, 4 * 2**20


def check_ray() -> None:
    """Say what is missing.

    Raises:
        ScreeningError: Ray is not installed.
    """
    if missing("ray"):
        raise ScreeningError("the engine 'ray' needs Ray: pip install 'normgate[ray]'")


def judged_by_ray(
    judge: Gate | PortableGate,
    source: Source,
    finished: Finished,
    *,
    batch_size: int,
    max_pixels: int,
    address: str | None,
    workers: int | None,
    gpus: int,
) -> Iterator[tuple[list[Payload], pa.Table]]:
    """What the records of a source are, and their verdicts, in order; see `judged`.

    Args:
        judge: sent to each worker.
        source: sent to the worker that reads.
        finished: images to leave out.
        batch_size: images in a forward pass.
        max_pixels: larger images are errors.
        address: of a running cluster; by default this machine.
        workers: processes that decode and judge; by default one a core, or one a GPU.
        gpus: of each of them; 0 is a core.

    Raises:
        ScreeningError: Ray is not there, the cluster cannot be reached, or a worker failed.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext, read_datasource

    mine = not ray.is_initialized()
    try:
        if mine:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        context.target_max_block_size = _block_size(source)
        resources = ray.cluster_resources()
        pool = workers or max(1, int(resources.get("GPU" if gpus else "CPU", 1)))
        # In a list, so that a worker that is started again finds it still there.
        sent = [ray.put(_sent(judge))]
        here = Path.cwd()
        with DataContext.current(context):
            # The reader takes no core: where workers have taken them all, it could not begin.
            table = read_datasource(_reader(source, finished, here), override_num_blocks=1, num_cpus=0).map_batches(
                _Worker,
                fn_constructor_args=(sent, here, batch_size, max_pixels),
                batch_size=batch_size,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(min_size=1, max_size=pool, initial_size=pool),
                num_cpus=0 if gpus else 1,
                num_gpus=gpus,
            )
        for found in table.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield _paths(found), found.drop_columns([_PATH])
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ScreeningError(f"Ray could not do it: {_reason(error)}") from error
    finally:
        if mine:
            ray.shutdown()


def _reason(error: BaseException) -> str:
    """What happened in a worker, without the ways that Ray took."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, NormgateError):
            return str(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    return str(error)


class _Worker:
    """Decodes and judges, in a process of its own."""

    def __init__(self, sent: list[ObjectRef[bytes | Gate]], here: Path, batch_size: int, max_pixels: int) -> None:
        import ray

        _enter(here)
        judge = ray.get(sent[0])
        self.judge: Judge = PortableGate.of(judge, threads=1) if isinstance(judge, bytes) else judge
        self.batch_size, self.max_pixels = batch_size, max_pixels

    def __call__(self, packed: pa.Table) -> pa.Table:
        options = {"batch_size": self.batch_size, "workers": 0, "max_pixels": self.max_pixels}
        found = [table for _, table in judged(self.judge, _unpacked(packed), **options)]
        return pa.concat_tables(found).append_column(_PATH, packed["path"])


def _sent(judge: Gate | PortableGate) -> bytes | Gate:
    """What a worker needs of a judge."""
    if isinstance(judge, PortableGate):
        return judge.content
    return dataclasses.replace(judge, kept={}, digests={})


def _enter(folder: Path) -> None:
    """Go where the driver is, so that relative paths mean the same."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


def _reader(source: Source, finished: Finished, here: Path) -> Datasource:
    """One task that streams the records of a source."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Reader(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            return [ReadTask(read, BlockMetadata(None, None, None))]

    def read() -> Iterator[pa.Table]:
        _enter(here)
        yield from _packed(finished.remaining(source))

    return Reader()


def _block_size(source: Source) -> int:
    first = next(iter(source), None)
    return _BLOCK_OF_IMAGES if first is not None and isinstance(first.payload, bytes) else _BLOCK_OF_PATHS


def _packed(records: Iterable[Record]) -> Iterator[pa.Table]:
    """Records as tables, a few at a time; the inverse of `_unpacked`."""
    empty = True
    while rows := [_row(record) for record in itertools.islice(records, _ROWS)]:
        empty = False
        yield pa.Table.from_pylist(rows, _RECORDS)
    if empty:
        yield _RECORDS.empty_table()


def _row(record: Record) -> dict[str, Any]:
    payload = record.payload
    if isinstance(payload, ImageError):
        return {"id": record.id, "path": b"", "error": str(payload)}
    if isinstance(payload, bytes):
        return {"id": record.id, "bytes": payload}
    if isinstance(payload, str | os.PathLike):
        return {"id": record.id, "path": os.fsencode(payload)}
    if isinstance(payload, RemoteFile):
        return {"id": record.id, "fs": payload.fs.to_json(), "address": payload.path, "size": payload.size}
    raise ScreeningError("the engine 'ray' takes files, tables and addresses, not images in memory; leave out --engine")


def _unpacked(table: pa.Table) -> Iterator[Record]:
    from fsspec import AbstractFileSystem

    for row in table.to_pylist():
        if row["error"] is not None:
            payload: Payload = ImageError(row["error"])
        elif row["bytes"] is not None:
            payload = row["bytes"]
        elif row["fs"] is not None:
            payload = RemoteFile(AbstractFileSystem.from_json(row["fs"]), row["address"], row["size"])
        else:
            payload = Path(os.fsdecode(row["path"]))
        yield Record(row["id"], payload)


def _paths(found: pa.Table) -> list[Payload]:
    """The files of the images; bytes where they have none, an error where a folder could not be read."""
    paths = found[_PATH].to_pylist()
    return [b"" if path is None else Path(os.fsdecode(path)) if path else ImageError("") for path in paths]
