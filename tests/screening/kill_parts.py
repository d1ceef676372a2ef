"""Run by test_parts: a run that is killed at each of its operations on files, and started again until it ends."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from normgate.data.sources import Record
from normgate.screening.parts import Parts
from normgate.screening.tables import SCHEMA

pa.set_cpu_count(1)
pa.set_io_thread_count(1)
IDS = [f"{i % 8}" for i in range(11)]  # three are listed twice
PART_ROWS, BATCH = 4, 2


def rows(ids: list[str]) -> pa.Table:
    missing = [None] * len(ids)
    columns = dict.fromkeys(SCHEMA.names, missing) | {"id": ids, "p_value": [0.5] * len(ids)}
    return pa.table(columns, schema=SCHEMA)


def run(target: Path, judged: Path, cut: float | None, then: str | None) -> None:
    job = {"gate": "same"}
    options = {"one_file": target.suffix == ".parquet", "overwrite": True, "part_rows": PART_ROWS}
    with Parts(target, job, SCHEMA.with_metadata({"normgate.version": "1"}), **options) as parts:
        left = [record.id for record in parts.finished().remaining(Record(name, b"") for name in IDS)]
        for start in range(0, len(left), BATCH):
            ids = left[start : start + BATCH]
            with judged.open("a") as file:
                file.write("".join(f"{name}\n" for name in ids))
            parts.write(rows(ids), b"x" * len(ids))
        parts.close()
        assert b"".join(parts.paths()) == b"x" * len(IDS)
        parts.publish(cut, keep=then is not None)
        if then is not None:
            parts.begin_carrying(then, cut)
            assert parts.folder.exists()
            assert parts.published == {"published": then, "cut": cut}
            with judged.with_name("carried").open("a") as file:
                file.write("carried\n")
            parts.end()
    assert not parts.folder.exists()


def child(target: Path, judged: Path, cut: float | None, then: str | None, deadly: int) -> int:
    """The exit code of a process that dies at its operation number `deadly` on the run's files."""
    if (process := os.fork()) == 0:
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            touched = any(isinstance(a, str | os.PathLike) and target.name in os.fspath(a) for a in arguments)
            if touched and event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
                seen += 1
                if seen == deadly:
                    os._exit(9)

        sys.addaudithook(watch)
        try:
            run(target, judged, cut, then)
        finally:
            code = 0 if sys.exc_info()[0] is None else 1
            traceback.print_exc() if code else None
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(suffix: str, cut: float | None, old: bool, then: str | None, deadly: int) -> bool:
    """Whether a run was killed at its operation `deadly`; what comes of it and of a second one is right."""
    with tempfile.TemporaryDirectory() as name:
        target, judged = Path(name) / f"verdicts{suffix}", Path(name) / "judged"
        if old:
            if not suffix:
                target.mkdir()
            earlier = rows(["old"]).replace_schema_metadata({"normgate.version": "1"})
            pq.write_table(earlier, target if suffix else target / "part-00000.parquet")
        code = child(target, judged, cut, then, deadly)
        assert code in (0, 9), code
        carried = judged.with_name("carried")
        # What has taken its place already is there; a user would not ask again, unless something is still to be done.
        is_there = target.exists() and ids(target) != ["old"]
        is_kept = then is not None and target.with_name(f"{target.name}.run").exists()
        if code == 9 and (not is_there or is_kept):
            assert child(target, judged, cut, then, 0) == 0, deadly
        assert carried.exists() == (then is not None)
        assert Counter(ids(target)) == Counter(IDS), deadly
        assert pq.read_table(target)["accepted"].to_pylist() == [None if cut is None else False] * len(IDS)
        twice = len(judged.read_text().split()) - len(IDS)
        assert 0 <= twice <= PART_ROWS, (deadly, twice)
        return code == 9


def ids(target: Path) -> list[str]:
    return pq.read_table(target)["id"].to_pylist()


def main() -> None:
    kinds = ((".parquet", None, False), (".parquet", 0.7, True), ("", 0.7, False), ("", None, True))
    for then, (suffix, cut, old) in itertools.product((None, "move"), kinds):
        deadly = 1
        while killed(suffix, cut, old, then, deadly):
            deadly += 1
        assert deadly > 20


if __name__ == "__main__":
    main()
