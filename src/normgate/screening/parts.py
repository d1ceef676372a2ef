"""The verdicts of a run as parts under a manifest, so that a run that was killed at any moment goes on where it was.

    <output>.run/_manifest.jsonl      the job, then a line for each finished part; a torn last line does not count
    <output>.run/part-00000.parquet   verdicts, written under another name, synced and renamed
    <output>.run/_paths-00000         files of a part's images, where rejected ones are to be copied or moved
    <output>.run/_lock                held by the process that writes

A part counts once the manifest names it. So an image has a row once its part counts, and is judged again only if the
run was killed before that. The folder becomes the output, or its parts one file, when all images have a row. Where
rejected files are still to be copied or moved then, the output has copies, and the folder stays until that is done.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from normgate.files import OutputError, beside, check_output, explained, names_in, replace_folder, sync
from normgate.locks import take
from normgate.screening.finished import Finished
from normgate.screening.summary import OtherJobError, ScreeningError
from normgate.screening.tables import COMPRESSION, ROW_GROUP, decided, is_part, read_tables, write_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from normgate.carrying import Action

FORMAT = 1
MANIFEST = "_manifest.jsonl"
_LOCK = "_lock"
_OF_JOBS = {
    "images": "source of images",
    "fdr": "false-discovery rate",
    "max_pixels": "limit of pixels",
    "rejected": "use of rejected files",
    "version": "version of normgate",
}
"""What the keys of a job are called, where that is not their name."""
_BESIDE = (MANIFEST, _LOCK, "_paths-*")
_FILES = (*_BESIDE, "part-[0-9]*.parquet", ".*.partial")


class Parts:
    """A run's verdicts on disk; a context that holds the run's lock.

    What is pending when the block ends early, by Ctrl-C for one, is written as a last part; a folder without a finished
    part is removed.

    Args:
        target: the output: one file, or a folder of parts.
        job: what the verdicts depend on; a folder of the same job is gone on with. None: there is no going on.
        schema: of the table.
        one_file: whether the output is one.
        overwrite: whether an output, and a run of another job, may be replaced.
        part_rows: rows after which a part is finished.

    Attributes:
        rows: of finished and pending parts.
        resumed: of the parts that were there already.
        published: what was told of the run when its verdicts were published, if it is kept since; None before that.

    Raises:
        ScreeningError: on entering, the folder is in use, is damaged, or is of another job or not of a run.
        OutputError: it cannot be written.
    """

    def __init__(
        self,
        target: Path,
        job: Mapping[str, Any] | None,
        schema: pa.Schema,
        *,
        one_file: bool,
        overwrite: bool,
        part_rows: int,
    ) -> None:
        self.target = target
        self.folder = target.with_name(target.name + ".run")
        self.rows = self.resumed = 0
        self._job = None if job is None else dict(job)
        self._schema = schema
        self._one_file, self._overwrite, self._part_rows = one_file, overwrite, part_rows
        self._begun = False  # a new run, and not one to go on with
        self._names: list[str] = []
        self._pending: list[pa.Table] = []
        self._paths: list[bytes] = []
        self.published: dict[str, Any] | None = None
        self._is_out = False  # the output is there, and the folder, too
        self._over = False  # the folder is no longer this run's
        self._lock = FileLock(self.folder / _LOCK)

    def __enter__(self) -> Self:
        _check_own(self.folder)
        new = not self.folder.exists()
        try:
            with explained(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._take()
                self._open()
            return self
        except BaseException:
            if self._lock.is_locked and (new or self._begun):
                shutil.rmtree(self.folder, ignore_errors=True)
            elif new:  # it is another run's, or empty
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.folder.exists() and not self._over:
                if kind is not None and not issubclass(kind, OutputError) and self._pending:
                    with contextlib.suppress(OutputError):
                        self._finish_part()
                if not self._names:
                    shutil.rmtree(self.folder, ignore_errors=True)
                elif error is not None and not isinstance(error, OtherJobError):
                    error.add_note(self._how_to_go_on())
        finally:
            self._lock.release()

    def finished(self) -> Finished:
        """The images that have a row already."""
        return Finished(name for part in self.tables() for name in part["id"].to_pylist())

    def write(self, table: pa.Table, paths: bytes = b"") -> None:
        """Add rows, and whatever is noted of their files.

        Raises:
            OutputError: they cannot be written.
        """
        self._pending.append(table)
        self._paths.append(paths)
        self.rows += len(table)
        if sum(len(part) for part in self._pending) >= self._part_rows:
            self._finish_part()

    def close(self) -> None:
        """Finish the last part: every image has a row."""
        if self._pending or not self._names:
            self._finish_part()

    def tables(self) -> Iterator[pa.Table]:
        """The rows of the finished parts, in order."""
        for name in self._names:
            yield from read_tables(self.folder / name)

    def paths(self) -> Iterator[bytes]:
        """What was noted of the files of the finished parts, in order."""
        for name in self._names:
            if (notes := self._notes_of(name)).exists():
                yield notes.read_bytes()

    def publish(self, cut: float | None, *, keep: bool = False) -> None:
        """Put the verdicts in the output's place.

        Args:
            cut: reject anew, where p-values are up to this; None leaves the decisions.
            keep: something is still to be done with them: until `end`, the same job goes on.

        Raises:
            OutputError: they cannot be written.
        """
        check_output(self.target, overwrite=self._overwrite, foreign=None if self._one_file else foreign)
        if not keep:
            self._append(self._complete())
        # What is written is written in the folder, so that a kill leaves nothing beside the output but the folder.
        if self._one_file:
            with self._whole(self.target) as partial:
                write_tables((decided(table, cut) for table in self.tables()), partial, self._schema)
                check_output(self.target, overwrite=self._overwrite)  # what has come since is somebody's
            if not keep:
                self._over = True
                with explained(self.folder):
                    shutil.rmtree(self.folder)
        else:
            for name in () if cut is None else self._names:
                parts = [decided(table, cut) for table in read_tables(self.folder / name)]
                self._write_part(name, pa.concat_tables(parts))
            with explained(self.target):
                if not keep:
                    replace_folder(self.folder, self.target)
                    self._over = True
                    for file in (self.target / _LOCK, *self.target.glob("_paths-*")):
                        file.unlink(missing_ok=True)
                else:
                    self._publish_copies()
        self._is_out = keep

    def begin_carrying(self, action: Action, cut: float | None) -> None:
        """Note that rejected files are carried off from now on: what was decided on them stays.

        Raises:
            OutputError: it cannot be written.
        """
        if self.published is None:
            published = {"published": action, "cut": cut}
            self._append(published)
            self.published = published

    def end(self) -> None:
        """Nothing is left to be done: remove the folder.

        Raises:
            OutputError: it cannot be removed.
        """
        with explained(self.folder):
            # In one step: a run of which a part is left would begin anew.
            gone = Path(tempfile.mkdtemp(prefix=beside(self.folder.name), suffix=".old", dir=self.folder.parent))
            self.folder.rename(gone / "run")
        self._over = True
        shutil.rmtree(gone, ignore_errors=True)

    def _publish_copies(self) -> None:
        partial = self.folder / f"{beside(self.target.name)}partial"
        partial.mkdir()
        for name in (*self._names, MANIFEST):
            shutil.copyfile(self.folder / name, partial / name)
        self._append(self._complete(), partial)
        for name in self._names:
            sync(partial / name)
        replace_folder(partial, self.target)

    def _how_to_go_on(self) -> str:
        if self._is_out and self._job is None:
            return f"{self.target} is written; the rejected files that are left are where they were"
        if self._is_out or self.published is not None:
            return (
                f"{self.target} is written; the same command with --overwrite (overwrite=True) judges nothing again "
                "and goes on with the rejected files that are left"
            )
        if self._job is None:
            return (
                f"the verdicts so far are kept in {self.folder}; they can be read, but not gone on with, since these "
                "images or this network cannot be told from others"
            )
        return f"the verdicts so far are kept in {self.folder}; the same command goes on with them"

    def _take(self) -> None:
        if not take(self._lock):
            raise ScreeningError(f"another run is writing {self.target}; wait for it, or name another output")

    def _open(self) -> None:
        """Go on with what the manifest names, or begin anew, and remove what does not count."""
        for gone in self.folder.parent.glob(glob.escape(beside(self.folder.name)) + "*.old"):  # see `end`
            shutil.rmtree(gone, ignore_errors=True)
        lines = self._manifest()
        published = next((line for line in lines if "published" in line), None)
        if lines and self._job is not None and lines[0] == self._header():
            if not any("complete" in line for line in lines) or not self._has_output():
                self._names = list(dict.fromkeys(line["part"] for line in lines if "part" in line))
                self.published = published
        elif published is not None and published["published"] == "move":
            own = "" if lines[0].get("job") is None else ", or let its own command go on, with --overwrite"
            raise OtherJobError(
                f"{self.folder} is of a run of another job ({self._difference(lines[0])}) that was stopped while it "
                f"moved rejected files away: choose another output{own}. Without that folder the rows of what was "
                f"moved would be lost from {self.target}"
            )
        elif lines and lines[0].get("job") is not None and not self._overwrite:
            raise OtherJobError(
                f"{self.folder} holds verdicts of an unfinished run of another job ({self._difference(lines[0])}); "
                "remove it, choose another output, or pass --overwrite"
            )
        for path in self.folder.iterdir():
            number = path.name.removeprefix("_paths-").removeprefix("part-").removesuffix(".parquet")
            if path.name not in (MANIFEST, _LOCK) and f"part-{number}.parquet" not in self._names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not self._names:
            self._begun = True
            (self.folder / MANIFEST).write_bytes(b"")
            self._append(self._header())
        self.rows = self.resumed = sum(self._rows(name) for name in self._names)

    def _has_output(self) -> bool:
        """Whether a run that judged everything was killed only after its one file was written."""
        with contextlib.suppress(OSError):
            return self.target.stat().st_mtime_ns >= (self.folder / MANIFEST).stat().st_mtime_ns
        return False

    def _manifest(self) -> list[dict[str, Any]]:
        """Its whole lines; a line that was torn by a kill is cut off, so that the next one begins a line."""
        path = self.folder / MANIFEST
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise self._damaged(f"line {error}") from error
        if not all(isinstance(line, dict) for line in lines):
            raise self._damaged("it is no manifest")
        return lines

    def _header(self) -> dict[str, Any]:
        return {"format": FORMAT, "job": self._job}

    def _complete(self) -> dict[str, Any]:
        return {"complete": True, "rows": self.rows}

    def _difference(self, header: Mapping[str, Any]) -> str:
        theirs, ours = header.get("job") or {}, self._job or {}
        names = [_OF_JOBS.get(key, key) for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
        return f"another {', another '.join(names)}" if names and ours else "images that cannot be told from others"

    def _rows(self, name: str) -> int:
        try:
            return int(pq.read_metadata(self.folder / name).num_rows)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(f"{name}: {error}") from error

    def _damaged(self, what: str) -> ScreeningError:
        return ScreeningError(f"{self.folder} is damaged ({what}); remove it to begin anew")

    def _finish_part(self) -> None:
        # A signal may be raised anywhere: what is taken out here is never written twice.
        taken, self._pending = self._pending, []
        notes, self._paths = self._paths, []
        name = f"part-{len(self._names):05d}.parquet"
        table = pa.concat_tables([*taken, self._schema.empty_table()])
        self._write_part(name, table)
        if paths := b"".join(notes):
            with self._whole(self._notes_of(name)) as partial:
                partial.write_bytes(paths)
        self._names.append(name)
        self._append({"part": name, "rows": len(table)})

    def _notes_of(self, name: str) -> Path:
        return self.folder / name.replace("part-", "_paths-").removesuffix(".parquet")

    def _write_part(self, name: str, table: pa.Table) -> None:
        whole = table.replace_schema_metadata(self._schema.metadata).combine_chunks()
        with self._whole(self.folder / name) as partial:
            pq.write_table(whole, partial, compression=COMPRESSION, row_group_size=ROW_GROUP)

    @contextlib.contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """A file in the folder that takes the place of `path` when the block ends well."""
        partial = self.folder / f"{beside(path.name)}partial"
        try:
            with explained(path):
                yield partial
                sync(partial)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _append(self, line: Mapping[str, Any], folder: Path | None = None) -> None:
        with explained(self.folder), ((folder or self.folder) / MANIFEST).open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def is_being_carried(target: Path) -> bool:
    """Whether a run has written this output and was stopped before all rejected files were copied or moved."""
    with contextlib.suppress(OSError):
        return b'\n{"published": ' in (target.with_name(f"{target.name}.run") / MANIFEST).read_bytes()
    return False


def _is_ours(path: Path, manifest: bytes) -> bool:
    """Whether a run has written a file; others name parts alike."""
    if not any(fnmatch.fnmatchcase(path.name, own) for own in _FILES):
        return False
    return path.suffix != ".parquet" or f'"{path.name}"'.encode() in manifest or is_part(path)


def foreign(folder: Path) -> str | None:
    """The name of something in a folder that is not of a run's output; None where there is nothing else."""
    return next((name for name in names_in(folder) if not (_is_beside(name) or is_part(folder / name))), None)


def _is_beside(name: str) -> bool:
    """Whether a file of this name may lie beside the parts in a folder that a run has written."""
    return any(fnmatch.fnmatchcase(name, own) for own in _BESIDE)


def _check_own(folder: Path) -> None:
    """Refuse a folder that holds anything but what a run writes."""
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        raise ScreeningError(f"{folder} is no folder, and a run would keep its parts there; choose another output")
    with explained(folder):
        manifest = folder / MANIFEST
        listed = manifest.read_bytes() if manifest.is_file() else b""
        names = names_in(folder) if folder.is_dir() else []
        other = [name for name in names if not _is_ours(folder / name, listed)]
    if other:
        raise ScreeningError(
            f"{folder} holds {other[0]}, which no run has written, so it is left alone; choose another output"
        )
