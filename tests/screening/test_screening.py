"""Screening: one row an image, in order, whatever the images are."""

from __future__ import annotations

import errno
import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import normgate
from normgate import Gate
from normgate.calibration import benjamini_hochberg
from normgate.carrying import Carrier, CarryingError
from normgate.data.preprocessing import Preprocessing
from normgate.errors import NormgateError
from normgate.files import OutputError
from normgate.screening import ScreeningError, rejected_ids
from normgate.verdicts import NOT_FINITE
from samples import FLAT, overflowing_network, random_records, small_network

screen = functools.partial(normgate.screen, runtime="torch")  # bit-equal to the gate's own verdicts


@pytest.fixture
def gate() -> Gate:
    return Gate.calibrate(
        small_network(),
        preprocessing=Preprocessing((8, 8)),
        calibration=random_records(40, 3),
        classes=["a", "b", "c"],
        false_alarm_rate=0.3,
    )


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    root = tmp_path / "in coming"
    (root / "ünter ördner").mkdir(parents=True)
    for i, record in enumerate(random_records(30, 4)):
        Image.fromarray(record.payload).save(root / ("ünter ördner" if i % 2 else ".") / f"{i:02d} ☃.png")
    (root / "broken.png").write_bytes(b"no image")
    (root / "notes.txt").write_text("no image, and not named like one")
    odd = os.fsencode(root) + b"/\xff\n.png"
    Image.fromarray(random_records(1, 5)[0].payload).save(root / "odd.png")
    os.rename(root / "odd.png", odd)  # noqa: PTH104
    return root


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_an_image_that_cannot_be_judged_has_a_row_with_an_error(runtime: str, incoming: Path, tmp_path: Path) -> None:
    Image.fromarray(FLAT).save(incoming / "flat.png")
    judge = Gate.calibrate(
        overflowing_network(),
        preprocessing=Preprocessing((8, 8)),
        calibration=random_records(40, 3),
        classes=["a", "b", "c"],
    )
    summary = normgate.screen(judge, incoming, tmp_path / "v.parquet", runtime=runtime, fdr=0.1)
    assert (summary.images, summary.unreadable) == (33, 2)
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "v.parquet").to_pylist()}
    assert rows["flat.png"]["error"] == NOT_FINITE
    assert not rows["flat.png"]["accepted"]
    assert [name for name, row in rows.items() if row["error"] is not None] == ["broken.png", "flat.png"]


def test_rows_are_the_gates_verdicts(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    summary = screen(gate, incoming, tmp_path / "v.parquet")
    rows, verdicts = pq.read_table(tmp_path / "v.parquet"), gate(incoming)
    assert rows.column_names == ["id", "label", "probability", "score", "p_value", "accepted", "error"]
    assert rows["id"].to_pylist() == list(verdicts.id)
    for row, verdict in zip(rows.to_pylist(), verdicts, strict=True):
        if verdict.error is None:
            assert (row["score"], row["p_value"], row["accepted"]) == (verdict.score, verdict.p_value, verdict.accepted)
        else:
            assert [row[name] for name in ("label", "probability", "score", "p_value", "accepted")] == [None] * 5
            assert row["error"] == verdict.error
    assert (summary.images, summary.unreadable, summary.skipped) == (32, 1, 1)
    assert summary.accepted == verdicts.accepted.sum()
    assert summary.accepted + summary.rejected + summary.unreadable == 32
    assert len(list(rejected_ids(tmp_path / "v.parquet"))) == summary.rejected > 0
    assert rows.schema.metadata[b"normgate.score"] == b"norm"


def test_parts(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    screen(gate, incoming, tmp_path / "whole.parquet", batch_size=5)
    screen(gate, incoming, tmp_path / "parts", batch_size=5, part_rows=10)
    parts = sorted((tmp_path / "parts").glob("*.parquet"))
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"_manifest.jsonl", *(part.name for part in parts)}
    assert [pq.read_metadata(part).num_rows for part in parts] == [10, 10, 10, 2]
    assert pq.read_table(tmp_path / "parts").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_false_discoveries_are_controlled_over_the_readable_images(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    screen(gate, incoming, tmp_path / "plain.parquet")
    p = np.array([value for value in pq.read_table(tmp_path / "plain.parquet")["p_value"].to_pylist() if value])
    for q in (0.05, 0.5, 0.9):
        summary = screen(gate, incoming, tmp_path / "v.parquet", fdr=q, overwrite=True)
        accepted = [
            value for value in pq.read_table(tmp_path / "v.parquet")["accepted"].to_pylist() if value is not None
        ]
        assert accepted == (p > benjamini_hochberg(p, q)).tolist()
        assert summary.cut == benjamini_hochberg(p, q)
        assert summary.smallest_p_value == 1 / 41


@pytest.mark.parametrize("action", ["copy", "move"])
def test_rejected_files_are_carried_off(gate: Gate, incoming: Path, tmp_path: Path, action: str) -> None:
    before = {path.relative_to(incoming) for path in incoming.rglob("*") if path.is_file()}
    rejected = {record.id for record in gate(incoming) if not record.accepted and record.error is None}
    screen(gate, incoming, tmp_path / "v.parquet", rejected=action, rejected_to=tmp_path / "out")
    carried = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert len(carried) == len(rejected) > 0
    after = {path.relative_to(incoming) for path in incoming.rglob("*") if path.is_file()}
    assert after == (before if action == "copy" else before - carried)
    if action == "copy":
        first, second, *_ = (tmp_path / "out" / path for path in sorted(carried))
        first.unlink()  # as after a run that was stopped while it copied
        screen(gate, incoming, tmp_path / "w.parquet", rejected=action, rejected_to=tmp_path / "out")
        assert first.read_bytes() == (incoming / first.relative_to(tmp_path / "out")).read_bytes()
        second.write_bytes(b"of somebody")
        with pytest.raises(CarryingError, match="is taken"):
            screen(gate, incoming, tmp_path / "x.parquet", rejected=action, rejected_to=tmp_path / "out")
        assert second.read_bytes() == b"of somebody"


def test_rejected_files_do_not_go_where_they_would_be_screened_again(
    gate: Gate, incoming: Path, tmp_path: Path
) -> None:
    for place in (incoming, incoming / "odd", incoming / "deep" / "odd"):
        with pytest.raises(CarryingError, match="screened with it the next time"):
            screen(gate, incoming, tmp_path / "v.parquet", rejected="copy", rejected_to=place)
    screen(gate, incoming, tmp_path / "v.parquet", rejected="copy", rejected_to=incoming / ".odd")
    assert len(gate(incoming)) == len(pq.read_table(tmp_path / "v.parquet"))
    # A pattern does not lead there.
    screen(gate, f"{incoming}/*.png", tmp_path / "w.parquet", rejected="copy", rejected_to=incoming / "odd")
    (tmp_path / "door").symlink_to(incoming)
    with pytest.raises(CarryingError, match="screened with it the next time"):
        screen(gate, incoming, tmp_path / "x.parquet", rejected="copy", rejected_to=tmp_path / "door" / "odd")


def test_a_file_is_no_copy_of_itself(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted(incoming.rglob("*.png"))]
    with pytest.raises(CarryingError, match="is taken"):
        screen(gate, paths, tmp_path / "v.parquet", rejected="copy", rejected_to=Path("/"))


def test_files_of_a_list_keep_their_paths_and_a_single_file_its_name(
    gate: Gate, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rejected = incoming / next(v.id for v in gate(incoming) if not v.accepted and v.error is None)
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate([rejected, Path("..", tmp_path.name) / rejected.relative_to(tmp_path)]):
        place = tmp_path / f"list{number}"
        screen(gate, [path], tmp_path / f"{number}.parquet", rejected="copy", rejected_to=place)
        (found,) = (found for found in place.rglob("*") if found.is_file())
        assert found.relative_to(place) == Path(*(part for part in path.parts if part not in ("/", "..")))
    screen(gate, rejected, tmp_path / "one.parquet", rejected="copy", rejected_to=tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == [rejected.name]


def test_what_cannot_work_is_said_before_any_image_is_read(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    def unread(task: str, done: int, total: int | None, /, **figures: float) -> None:
        raise AssertionError

    (tmp_path / "file").touch()
    for options, said in (
        ({"output": tmp_path / "v.csv"}, "v.parquet"),
        ({"fdr": 5.0}, "strictly between 0 and 1"),
        ({"rejected": "move"}, "say where"),
        ({"rejected_to": tmp_path / "out"}, "say rejected='copy' or 'move', too"),
        ({"rejected": "move", "rejected_to": tmp_path / "file"}, "is a file, not a folder"),
    ):
        with pytest.raises(NormgateError, match=said):
            screen(gate, incoming, **{"output": tmp_path / "v.parquet", "progress": unread, **options})


def test_only_files_can_be_carried_off(gate: Gate, tmp_path: Path) -> None:
    with pytest.raises(CarryingError, match="only folders and lists of files"):
        screen(gate, random_records(5, 4), tmp_path / "v.parquet", rejected="move", rejected_to=tmp_path / "out")
    assert not (tmp_path / "v.parquet").exists()


@pytest.mark.parametrize("action", ["copy", "move"])
def test_images_in_memory_and_in_tables_are_no_files(
    gate: Gate, incoming: Path, tmp_path: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow images have no path, and the paths that a table names are not its own."""
    monkeypatch.chdir(incoming)
    before = sorted(incoming.rglob("*"))
    pillow = [Image.fromarray(record.payload) for record in random_records(40, 4)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = [str(path) for path in before if path.name.isascii() and path.is_file()]
    named = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    pq.write_table(pa.table({"image": named}), tmp_path / "named.parquet")
    for images in (pillow, tmp_path / "named.parquet"):
        with pytest.raises(CarryingError, match="only folders and lists of files"):
            screen(gate, images, tmp_path / "v.parquet", rejected=action, rejected_to=tmp_path / "out")
    assert sorted(incoming.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_nothing_is_moved_where_two_files_would_be_in_one_place(
    gate: Gate, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rejected = incoming / next(v.id for v in gate(incoming) if not v.accepted and v.error is None)
    (tmp_path / "x").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("one.png", "x/one.png"):
        (tmp_path / name).write_bytes(rejected.read_bytes())
    monkeypatch.chdir(tmp_path / "other")
    files = [Path("..") / "one.png", Path("..") / "x" / ".." / "one.png"]
    screen(gate, files, tmp_path / "twice.parquet", rejected="move", rejected_to=tmp_path / "out")
    assert (tmp_path / "out" / "one.png").exists()
    with pytest.raises(CarryingError, match="no rejected file was touched"):
        files = [Path("..") / "x" / "one.png", Path("..") / "out" / "one.png"]
        screen(gate, files, tmp_path / "v.parquet", rejected="move", rejected_to=tmp_path)
    assert (tmp_path / "x" / "one.png").exists()


def test_an_output_that_exists_is_never_half_overwritten(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    target = tmp_path / "v.parquet"
    screen(gate, incoming, target)
    before = target.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        screen(gate, incoming, target)

    def interrupt(task: str, done: int, total: int | None, /, **figures: float) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen(gate, incoming, target, overwrite=True, batch_size=5, progress=interrupt)
    assert target.read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        screen(gate, incoming, tmp_path / "parts", batch_size=5, progress=interrupt)
    assert not (tmp_path / "parts").exists()
    for output in (target, tmp_path / "parts"):  # what was done is not lost
        assert screen(gate, incoming, output, overwrite=True, batch_size=5).resumed == 15
    assert pq.read_table(target).equals(pq.read_table(tmp_path / "parts"))
    assert {path.name for path in tmp_path.iterdir()} == {"v.parquet", "parts", "in coming"}


def test_a_folder_of_images_is_never_replaced_by_verdicts(gate: Gate, incoming: Path) -> None:
    before = sorted(incoming.rglob("*"))
    with pytest.raises(OutputError, match="not of an earlier output of this kind"):
        screen(gate, incoming, incoming, overwrite=True)
    assert sorted(incoming.rglob("*")) == before


def test_a_link_is_moved_as_the_image_it_shows(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    """Even where what it points to is moved, too."""
    rejected = incoming / next(v.id for v in gate(incoming) if not v.accepted and v.error is None)
    source = tmp_path / "source"
    source.mkdir()
    (source / "b.png").write_bytes(rejected.read_bytes())
    (source / "a.png").symlink_to("b.png")
    (source / "c.png").symlink_to("b.png")
    screen(gate, source, tmp_path / "v.parquet", rejected="move", rejected_to=tmp_path / "out")
    assert list(source.iterdir()) == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == dict.fromkeys(
        ("a.png", "b.png", "c.png"), rejected.read_bytes()
    )


def test_nothing_is_moved_out_of_a_folder_that_a_link_leads_to(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    rejected = incoming / next(v.id for v in gate(incoming) if not v.accepted and v.error is None)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(rejected.read_bytes())
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "b.png").write_bytes(rejected.read_bytes())
    (tmp_path / "source" / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(CarryingError, match=r"where a link leads, .* no rejected file was touched: copy them"):
        screen(gate, tmp_path / "source", tmp_path / "v.parquet", rejected="move", rejected_to=tmp_path / "out")
    assert (tmp_path / "photos" / "a.png").exists()
    assert (tmp_path / "source" / "b.png").exists()
    screen(gate, tmp_path / "source", tmp_path / "w.parquet", rejected="copy", rejected_to=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["a.png", "b.png"]
    # A source that is itself behind a link is its own home.
    (tmp_path / "door").symlink_to(tmp_path / "photos")
    screen(gate, tmp_path / "door", tmp_path / "x.parquet", rejected="move", rejected_to=tmp_path / "moved")
    assert (tmp_path / "moved" / "a.png").exists()


def test_nothing_is_moved_where_a_file_is_in_the_way(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    rejected = incoming / next(v.id for v in gate(incoming) if not v.accepted and v.error is None)
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "source" / name).parent.mkdir(parents=True)
        (tmp_path / "source" / name).write_bytes(rejected.read_bytes())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").touch()
    with pytest.raises(CarryingError, match="no rejected file was touched"):
        screen(gate, tmp_path / "source", tmp_path / "v.parquet", rejected="move", rejected_to=tmp_path / "out")
    assert len([*(tmp_path / "source").rglob("*.png")]) == 2


@pytest.mark.parametrize("moment", ["before a removal", "before a rename", "while it is copied"])
def test_what_others_write_while_files_are_carried_is_never_lost(
    moment: str, gate: Gate, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, target = tmp_path / "out", tmp_path / "v.parquet"
    screen(gate, incoming, target)
    first, second, *_ = sorted(rejected_ids(target))
    if moment == "before a removal":
        screen(gate, incoming, target, rejected="copy", rejected_to=out, overwrite=True)
    carried = Carrier._carry

    def meddling(self: Carrier, path: Path, place: Path) -> None:
        if path.name == Path(second).name:
            if moment == "before a rename":
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(b"of somebody")
            elif moment == "before a removal":
                path.write_bytes(b"of somebody")
            else:
                monkeypatch.setattr("normgate.carrying._renamed", lambda *_: False)
                monkeypatch.setattr("normgate.carrying._copy", lambda *_: path.write_bytes(b"of somebody"))
        carried(self, path, place)

    monkeypatch.setattr(Carrier, "_carry", meddling)
    with pytest.raises(CarryingError, match=r"there by now|changed while it was copied"):
        screen(gate, incoming, target, rejected="move", rejected_to=out, overwrite=True)
    assert (incoming / second).exists()
    place = out if moment == "before a rename" else incoming
    assert (place / second).read_bytes() == b"of somebody"
    assert (out / first).exists()


def test_a_file_that_comes_while_another_is_copied_is_not_replaced(
    gate: Gate, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen(gate, incoming, tmp_path / "v.parquet")
    rejected = next(rejected_ids(tmp_path / "v.parquet"))
    place, copied = tmp_path / "out" / rejected, shutil.copy2

    def copy2(source: Path, partial: Path) -> None:
        copied(source, partial)
        if source.name == place.name:
            place.write_bytes(b"of somebody")

    monkeypatch.setattr("normgate.carrying.shutil.copy2", copy2)
    with pytest.raises(CarryingError, match="File exists"):
        screen(gate, incoming, tmp_path / "w.parquet", rejected="copy", rejected_to=tmp_path / "out")
    assert place.read_bytes() == b"of somebody"
    assert not list(place.parent.glob(".*"))


def test_images_are_never_replaced_by_their_verdicts(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": b"no image", "path": "x"}], kind)}), tmp_path / "t.parquet")
    before = (tmp_path / "t.parquet").read_bytes()
    with pytest.raises(ScreeningError, match="name another output"):
        screen(gate, tmp_path / "t.parquet", tmp_path / "t.parquet", overwrite=True)
    assert (tmp_path / "t.parquet").read_bytes() == before


def test_parts_of_somebody_else_are_never_replaced(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    screen(gate, incoming, parts)
    screen(gate, incoming, parts, overwrite=True)
    pq.write_table(pa.table({"x": [1]}), parts / "part-00001.parquet")
    with pytest.raises(OutputError, match=r"holds part-00001\.parquet, which is not of an earlier output"):
        screen(gate, incoming, parts, overwrite=True)
    assert (parts / "part-00001.parquet").exists()


def test_rejected_files_are_copied_or_moved_and_nothing_else(gate: Gate, incoming: Path, tmp_path: Path) -> None:
    for word in ("delete", "Copy"):
        with pytest.raises(CarryingError, match="left alone"):
            screen(gate, incoming, tmp_path / "v.parquet", rejected=word, rejected_to=tmp_path / "out")
    assert not (tmp_path / "v.parquet").exists()


@pytest.mark.parametrize("action", ["copy", "move"])
def test_a_full_disk_leaves_no_part_of_a_rejected_file(
    gate: Gate, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """Also where a move goes to another file system, and so is a copy."""
    screen(gate, incoming, tmp_path / "v.parquet")
    rejected, copied = list(rejected_ids(tmp_path / "v.parquet")), []
    assert len(rejected) > 3

    def copy2(source: Path, place: Path) -> None:
        Path(place).write_bytes(b"half")
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        copied.append(shutil.copyfile(source, place))

    def elsewhere(self: Path, place: Path) -> Path:
        if self.parent != Path(place).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        os.rename(self, place)  # noqa: PTH104
        return Path(place)

    monkeypatch.setattr("normgate.carrying.shutil.copy2", copy2)
    monkeypatch.setattr(Path, "rename", elsewhere)
    before = {path: path.read_bytes() for path in incoming.rglob("*") if path.is_file()}
    with pytest.raises(CarryingError, match="No space left"):
        screen(gate, incoming, tmp_path / "w.parquet", rejected=action, rejected_to=tmp_path / "away")
    carried = [path for path in (tmp_path / "away").rglob("*") if path.is_file()]
    assert len(carried) == 3
    for path in carried:
        original = incoming / path.relative_to(tmp_path / "away")
        assert path.read_bytes() == before[original]
        assert original.exists() == (action == "copy")
        del before[original]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_shift_alarm_is_raised_by_images_that_come_otherwise_and_by_no_order(tmp_path: Path) -> None:
    gate = Gate.calibrate(
        small_network(),
        preprocessing=Preprocessing((8, 8)),
        train=random_records(90, 1),
        tuning=random_records(200, 2),
        calibration=random_records(400, 3),
        score="mahalanobis",
    )
    alike = random_records(400, 4)
    # Sorted by their scores, as names sorted by class or date might be.
    order = np.argsort(gate(alike).score)
    summary = screen(gate, alike.subset(order.tolist()), tmp_path / "v.parquet", shift_delta=0.01)
    assert summary.shift is not None
    assert not summary.shift.raised
    flat = alike.subset(order[:60].tolist())  # the least familiar ones alone
    shifted = screen(gate, flat, tmp_path / "w.parquet", shift_delta=0.01)
    assert shifted.shift is not None
    assert shifted.shift.raised
    assert 0 < (shifted.shift.after or 0) <= 60
    again = screen(gate, flat, tmp_path / "x.parquet", shift_delta=0.01)
    assert again.shift == shifted.shift
    assert screen(gate, flat, tmp_path / "y.parquet").shift is None
    lean = gate.recalibrate(random_records(400, 5), lean=True)
    with pytest.raises(NormgateError, match=r"--tuning DATA and without --lean"):
        screen(lean, flat, tmp_path / "z.parquet", shift_delta=0.01)
    with pytest.raises(NormgateError, match="chance of a false alarm is a share"):
        screen(gate, flat, tmp_path / "z.parquet", shift_delta=2)
    assert not (tmp_path / "z.parquet").exists()
