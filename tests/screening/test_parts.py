"""Runs that are stopped: every image one row, none judged again but those in flight, and nothing mixed."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import normgate
from normgate import Gate
from normgate.carrying import CarryingError
from normgate.data.folders import PathList
from normgate.data.sources import Record, Records, load, open_source
from normgate.errors import NormgateWarning, UnreadableWarning
from normgate.files import OutputError
from normgate.judging import Chosen, choose_judge
from normgate.screening import ScreeningError, running
from normgate.screening.finished import Finished
from normgate.screening.parts import MANIFEST, Parts
from normgate.screening.tables import part_files
from samples import PREPROCESSING, random_records, small_network

screen = functools.partial(normgate.screen, runtime="torch", batch_size=4, part_rows=8)


class CountingJudge:
    """Judges, and remembers of whom."""

    def __init__(self, gate: Gate, after: int | None = None) -> None:
        self.gate, self.after, self.preprocessing = gate, after, gate.preprocessing
        self.ids: list[str] = []

    def judge_batch(self, batch: Any) -> Any:
        self.ids += [record.id for record in batch.records]
        if self.after is not None and len(self.ids) > self.after:
            raise RuntimeError("the cable was pulled")
        return self.gate.judge_batch(batch)


@functools.cache
def gate() -> Gate:
    return Gate.calibrate(
        small_network(),
        preprocessing=PREPROCESSING,
        calibration=random_records(40, 3),
        classes=["a", "b", "c"],
        false_alarm_rate=0.3,
    )


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i, record in enumerate(random_records(30, 4)):
        Image.fromarray(record.payload).save(tmp_path / "in" / f"{i:02d}.png")
    return tmp_path / "in"


def judged_by(judge: CountingJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(gate: Gate, runtime: str, *, threads: int) -> Chosen:
        return dataclasses.replace(choose_judge(gate, "torch"), judge=judge)

    monkeypatch.setattr(running, "choose_judge", chosen)


def ids(path: Path) -> list[str]:
    return pq.read_table(path)["id"].to_pylist()


def test_killed_at_every_operation() -> None:
    script = Path(__file__).with_name("kill_parts.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["v.parquet", "parts"])
def test_a_failed_run_goes_on(name: str, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = CountingJudge(gate(), after=18), CountingJudge(gate())
    judged_by(first, monkeypatch)
    with pytest.raises(RuntimeError):
        screen(gate(), incoming, tmp_path / name)
    assert not (tmp_path / name).exists()
    judged_by(second, monkeypatch)
    summary = screen(gate(), incoming, tmp_path / name)
    assert summary.resumed == 16
    assert (summary.images, summary.accepted + summary.rejected) == (30, 30)
    assert sorted(second.ids) == [f"{i:02d}.png" for i in range(16, 30)]
    assert not (tmp_path / f"{name}.run").exists()
    judged_by(CountingJudge(gate()), monkeypatch)
    screen(gate(), incoming, tmp_path / "whole.parquet")
    assert pq.read_table(tmp_path / name).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_images_that_came_or_went_meanwhile(incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(CountingJudge(gate(), after=18), monkeypatch)
    with pytest.raises(RuntimeError):
        screen(gate(), incoming, tmp_path / "v.parquet")
    (incoming / "00 new.png").write_bytes((incoming / "03.png").read_bytes())
    (incoming / "05.png").unlink()
    (incoming / "25.png").unlink()
    judged_by(second := CountingJudge(gate()), monkeypatch)
    screen(gate(), incoming, tmp_path / "v.parquet")
    assert sorted(ids(tmp_path / "v.parquet")) == sorted(
        ["00 new.png", *(f"{i:02d}.png" for i in range(30) if i != 25)]
    )
    assert "00 new.png" in second.ids


@given(st.lists(st.sampled_from("abcdeé")), st.lists(st.sampled_from("abcdeé")))
def test_what_remains_is_the_difference_of_multisets(done: list[str], listed: list[str]) -> None:
    remaining = [record.id for record in Finished(done).remaining(Record(name, b"") for name in listed)]
    for name in "abcdeé":
        assert remaining.count(name) == max(0, listed.count(name) - done.count(name))
    rest = iter(listed)
    assert all(name in rest for name in remaining)  # in their order


def test_every_id_of_many_is_found_again() -> None:
    """Whatever bytes its digest has."""
    names = [f"{i}.png" for i in range(5000)]
    assert [r.id for r in Finished(names[:-1]).remaining(Record(name, b"") for name in names)] == names[-1:]


def test_paths_listed_twice_have_two_rows(incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [incoming / f"{i % 10:02d}.png" for i in range(30)]
    judged_by(CountingJudge(gate(), after=18), monkeypatch)
    with pytest.raises(RuntimeError):
        screen(gate(), PathList(paths), tmp_path / "v.parquet")
    judged_by(second := CountingJudge(gate()), monkeypatch)
    screen(gate(), PathList(paths), tmp_path / "v.parquet")
    assert sorted(ids(tmp_path / "v.parquet")) == sorted(path.as_posix() for path in paths)
    assert len(second.ids) == 14


def test_another_job_is_not_mixed_in(incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "v.parquet"
    judged_by(CountingJudge(gate(), after=18), monkeypatch)
    with pytest.raises(RuntimeError):
        screen(gate(), incoming, target)
    monkeypatch.undo()
    other = gate().recalibrate(false_alarm_rate=0.2)
    for changed, said in (
        (lambda: screen(other, incoming, target), "another gate"),
        (lambda: screen(gate(), incoming.parent, target), "another source of images"),
        (lambda: screen(gate(), incoming, target, fdr=0.1), "another false-discovery rate"),
        (lambda: screen(gate(), random_records(5, 4), target), "cannot be told"),
    ):
        with pytest.raises(ScreeningError, match=said):
            changed()
    assert (tmp_path / "v.parquet.run" / MANIFEST).exists()
    assert screen(other, incoming, target, overwrite=True).resumed == 0
    assert not (tmp_path / "v.parquet.run").exists()


def test_images_without_names_of_their_own_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(CountingJudge(gate(), after=18), monkeypatch)
    with pytest.raises(RuntimeError):
        screen(gate(), random_records(30, 4), tmp_path / "v.parquet")
    monkeypatch.undo()
    assert screen(gate(), random_records(30, 5), tmp_path / "v.parquet").resumed == 0


def test_damage_is_said_and_a_torn_line_is_not_damage(
    incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> Path:
        judged_by(CountingJudge(gate(), after=18), monkeypatch)
        with pytest.raises(RuntimeError):
            screen(gate(), incoming, tmp_path / "parts", overwrite=True)
        monkeypatch.undo()
        return tmp_path / "parts.run"

    folder = stopped()
    manifest = (folder / MANIFEST).read_bytes()
    lines = manifest.splitlines(keepends=True)
    (folder / MANIFEST).write_bytes(b"".join(lines[:2]) + lines[2][:-4])
    assert screen(gate(), incoming, tmp_path / "parts").resumed == 8
    assert sorted(ids(tmp_path / "parts")) == sorted(path.name for path in incoming.iterdir())
    assert all(json.loads(line) for line in (tmp_path / "parts" / MANIFEST).read_text().splitlines())

    folder = stopped()
    (folder / "part-00001.parquet").write_bytes(b"")
    with pytest.raises(ScreeningError, match=r"part-00001\.parquet.*remove it to begin anew"):
        screen(gate(), incoming, tmp_path / "parts", overwrite=True)
    (folder / "part-00001.parquet").unlink()
    (folder / MANIFEST).write_bytes(b"{}}\n")
    with pytest.raises(ScreeningError, match="remove it to begin anew"):
        screen(gate(), incoming, tmp_path / "parts", overwrite=True)
    (folder / "letter.txt").touch()
    with pytest.raises(ScreeningError, match=r"letter\.txt, which no run has written"):
        screen(gate(), incoming, tmp_path / "parts", overwrite=True)


def test_one_run_at_a_time(incoming: Path, tmp_path: Path) -> None:
    def another(task: str, done: int, total: int | None, /, **figures: float) -> None:
        with pytest.raises(ScreeningError, match="another run is writing"):
            screen(gate(), incoming, tmp_path / "v.parquet")

    assert screen(gate(), incoming, tmp_path / "v.parquet", progress=another).images == 30


def test_a_full_disk_loses_nothing(incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = pq.write_table, []

    def full(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            Path(arguments[1]).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        whole(*arguments, **options)

    monkeypatch.setattr("normgate.screening.parts.pq.write_table", full)
    with pytest.raises(OutputError, match="No space left"):
        screen(gate(), incoming, tmp_path / "v.parquet")
    assert not [path for path in (tmp_path / "v.parquet.run").iterdir() if "partial" in path.name]
    judged_by(second := CountingJudge(gate()), monkeypatch)
    assert screen(gate(), incoming, tmp_path / "v.parquet").resumed == 16
    assert len(second.ids) == 14


@pytest.mark.parametrize("action", ["copy", "move"])
def test_rejected_files_of_both_runs_are_carried(
    action: str, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rejected = {v.id for v in gate()(incoming) if not v.accepted}
    options = {"rejected": action, "rejected_to": tmp_path / "out", "fdr": 0.9}
    judged_by(CountingJudge(gate(), after=18), monkeypatch)
    with pytest.raises(RuntimeError):
        screen(gate(), incoming, tmp_path / "parts", **options)
    monkeypatch.undo()
    screen(gate(), incoming, tmp_path / "parts", **options)
    rejected = set(normgate.screening.rejected_ids(tmp_path / "parts"))
    assert rejected
    assert {path.name for path in (tmp_path / "out").iterdir()} == rejected
    assert {path.name[0] for path in (tmp_path / "parts").iterdir()} == {"_", "p"}


@pytest.mark.parametrize("name", ["v.parquet", "parts"])
@pytest.mark.parametrize("way", ["copy", "move", "move elsewhere"])
def test_stopped_while_rejected_files_are_carried(
    name: str, way: str, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every rename and removal of it; the rows of what has been moved stay."""
    (incoming / "29 link.png").symlink_to("29.png")
    before = {path.name: path.read_bytes() for path in incoming.iterdir()}
    renamed, unlinked, linked = Path.rename, Path.unlink, Path.hardlink_to
    stop = steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise KeyboardInterrupt

    def rename(self: Path, place: Path) -> Path:
        if tmp_path / "out" in Path(place).parents:
            if way == "move elsewhere" and self.parent == incoming:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            step()
        return renamed(self, place)

    def link(self: Path, partial: Path) -> None:
        if tmp_path / "out" in self.parents:
            step()
        linked(self, partial)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.parent == incoming:
            step()
        unlinked(self, missing_ok=missing_ok)

    options = {"rejected": way.split()[0], "rejected_to": tmp_path / "out", "fdr": 0.9}
    for deadly in range(1, 100):
        steps, stop = 0, deadly
        (tmp_path / "out").mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            patch.setattr(Path, "unlink", unlink)
            patch.setattr(Path, "hardlink_to", link)
            again = notes = None
            try:
                screen(gate(), incoming, tmp_path / name, **options)
            except KeyboardInterrupt as stopped:
                notes = stopped.__notes__
        if notes is not None:
            assert "goes on with the rejected files that are left" in notes[0]
            with pytest.raises(OutputError, match="stopped while it copied or moved the rejected files"):
                screen(gate(), incoming, tmp_path / name, **options)
            again = screen(gate(), incoming, tmp_path / name, overwrite=True, **options)
        rejected = set(normgate.screening.rejected_ids(tmp_path / name))
        assert len(rejected) > 3
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
            path: before[path] for path in rejected
        }
        left = before if way == "copy" else {path: before[path] for path in before.keys() - rejected}
        assert {path.name: path.read_bytes() for path in incoming.iterdir()} == left
        assert sorted(ids(tmp_path / name)) == sorted(before)
        assert not (tmp_path / f"{name}.run").exists()
        if again is None:
            break
        assert (again.images, again.resumed, again.rejected) == (31, 31, len(rejected))
        shutil.rmtree(tmp_path / "out")
        shutil.rmtree(tmp_path / name) if name == "parts" else (tmp_path / name).unlink()
        for path, content in before.items():
            if not os.path.lexists(incoming / path):
                (incoming / path).symlink_to("29.png") if "link" in path else (incoming / path).write_bytes(content)
    else:
        raise AssertionError


def test_rejected_files_that_cannot_be_carried_are_not_judged_again(incoming: Path, tmp_path: Path) -> None:
    options = {"rejected": "move", "fdr": 0.9}
    screen(gate(), incoming, tmp_path / "first.parquet", fdr=0.9)
    first = next(iter(normgate.screening.rejected_ids(tmp_path / "first.parquet")))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / first).write_bytes(b"of somebody")
    with pytest.raises(CarryingError, match="name another folder"):
        screen(gate(), incoming, tmp_path / "v.parquet", rejected_to=tmp_path / "out", **options)
    summary = screen(
        gate(), incoming, tmp_path / "v.parquet", rejected_to=tmp_path / "other", overwrite=True, **options
    )
    assert (summary.images, summary.resumed) == (30, 30)
    assert len(list((tmp_path / "other").iterdir())) == summary.rejected
    assert (tmp_path / "out" / first).read_bytes() == b"of somebody"


def stopped_while_moving(
    data: Any, output: Path, monkeypatch: pytest.MonkeyPatch, out: Path, files: int = 2, **options: Any
) -> None:
    """A run that is stopped after it has moved some files."""
    renamed, moved = Path.rename, 0

    def rename(self: Path, place: Path) -> Path:
        nonlocal moved
        if out in Path(place).parents:
            moved += 1
            if moved > files:
                raise KeyboardInterrupt
        return renamed(self, place)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", rename)
        screen(gate(), data, output, rejected="move", rejected_to=out, **options)


def names_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.png")}


@pytest.mark.parametrize("kind", ["all of them", "those that are left", "a pipe"])
def test_lists_of_paths_go_on_with_their_rejected_files(
    kind: str, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = sorted(map(str, incoming.iterdir()))

    def paths() -> Any:
        left = (path for path in every if Path(path).exists())
        return every if kind == "all of them" else PathList(left) if kind == "a pipe" else list(left)

    out, target = tmp_path / "out", tmp_path / "v.parquet"
    stopped_while_moving(paths(), target, monkeypatch, out, fdr=0.9)
    again = screen(gate(), paths(), target, rejected="move", rejected_to=out, fdr=0.9, overwrite=True)
    assert (again.images, again.resumed) == (30, 30)
    assert ids(target) == every
    assert names_below(out) == {Path(name).name for name in normgate.screening.rejected_ids(target)}
    assert len(names_below(out)) == again.rejected > 2


def test_another_job_does_not_take_the_place_of_one_that_has_moved_files(
    incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, target = tmp_path / "out", tmp_path / "v.parquet"
    stopped_while_moving(incoming, target, monkeypatch, out)
    for options in ({"max_pixels": 10**6}, {"fdr": 0.5}, {"rejected": None, "rejected_to": None}):
        given = {"rejected": "move", "rejected_to": out, "overwrite": True, **options}
        with pytest.raises(ScreeningError, match="would be lost from"):
            screen(gate(), incoming, target, **given)
    assert len(ids(target)) == 30
    # A copy has taken nothing away.
    other = tmp_path / "w.parquet"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("normgate.carrying._copy", lambda *_: (_ for _ in ()).throw(RuntimeError))
        screen(gate(), incoming, other, rejected="copy", rejected_to=tmp_path / "copies")
    assert screen(gate(), incoming, other, overwrite=True).resumed == 0


def test_what_comes_while_files_are_moved_waits_and_what_goes_is_said(
    incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, target = tmp_path / "out", tmp_path / "v.parquet"
    stopped_while_moving(incoming, target, monkeypatch, out, fdr=0.9)
    before = pq.read_table(target)
    rejected = set(normgate.screening.rejected_ids(target))
    (lost,) = sorted(rejected - names_below(out))[-1:]
    (incoming / lost).unlink()
    for i, record in enumerate(random_records(200, 3)):  # which would change what is rejected
        Image.fromarray(record.payload).save(incoming / f"new {i}.png")
    monkeypatch.chdir(tmp_path)  # the same folder by another name
    with pytest.warns() as said:
        again = screen(
            gate(), Path("in"), target, rejected="move", rejected_to=tmp_path / "other", fdr=0.9, overwrite=True
        )
    assert [type(warning.message) for warning in said] == [NormgateWarning, UnreadableWarning]
    assert str(said[0].message).startswith("200 images that have come since are not judged")
    assert str(said[1].message).startswith("3 rejected files are no longer where they were screened")
    assert all(warning.filename == __file__ for warning in said)
    assert pq.read_table(target).equals(before)
    assert again.rejected == len(rejected)
    assert names_below(out) | names_below(tmp_path / "other") == rejected - {lost}
    assert not (tmp_path / "v.parquet.run").exists()
    assert screen(gate(), incoming, tmp_path / "w.parquet").images == 30 - len(rejected) + 200


def test_a_run_that_is_over_leaves_the_next_one_alone(tmp_path: Path) -> None:
    """Images in memory: what is left of a run of theirs would be removed."""
    target = tmp_path / "v.parquet"

    def another(_: object) -> None:
        def stop(task: str, done: int, total: int | None, /, **figures: float) -> None:
            if done > 20:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            screen(gate(), random_records(30, 5), target, overwrite=True, progress=stop)

    screen(gate(), random_records(30, 4), target, written=another)
    assert list((tmp_path / "v.parquet.run").glob("part-*"))


def test_what_was_killed_while_it_was_removed_goes_with_the_next_run(tmp_path: Path) -> None:
    for name in (".v.parquet.run.ab12.old", ".v.parquet.run.cd34.old", ".w.parquet.run.ab12.old"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "part-00000.parquet").touch()
    screen(gate(), random_records(3, 4), tmp_path / "v.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".w.parquet.run.ab12.old", "v.parquet"]


def test_files_of_images_that_cannot_be_told_from_others_are_not_lost_either(
    incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images() -> Records:
        return load(open_source(incoming, labelled=False))

    out, target = tmp_path / "out", tmp_path / "v.parquet"
    stopped_while_moving(images(), target, monkeypatch, out)
    for again in (images(), incoming):
        with pytest.raises(ScreeningError, match=r"choose another output\. Without that folder the rows"):
            screen(gate(), again, target, rejected="move", rejected_to=out, overwrite=True)
    assert len(ids(target)) == 30
    other = screen(gate(), images(), tmp_path / "w.parquet", rejected="move", rejected_to=out)
    assert other.images == 28
    assert names_below(out) == {
        *normgate.screening.rejected_ids(target),
        *normgate.screening.rejected_ids(tmp_path / "w.parquet"),
    }


def test_what_could_not_be_moved_can_be_copied(incoming: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rejected = next(v.id for v in gate()(incoming) if not v.accepted)
    (incoming / rejected).rename(tmp_path / "photos" / rejected)
    (incoming / "link").symlink_to(tmp_path / "photos")
    target = tmp_path / "v.parquet"
    with pytest.raises(CarryingError, match="copy them instead"):
        screen(gate(), incoming, target, rejected="move", rejected_to=tmp_path / "out")
    screen(gate(), incoming, target, rejected="copy", rejected_to=tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "link" / rejected).exists()


def test_links_to_links_and_to_nothing(incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rejected = sorted(v.id for v in gate()(incoming) if not v.accepted)
    content = (incoming / rejected[0]).read_bytes()
    (incoming / "chain a.png").symlink_to(rejected[0])
    (incoming / "chain b.png").symlink_to("chain a.png")
    (tmp_path / "elsewhere.png").write_bytes(content)
    (incoming / "lost.png").symlink_to(tmp_path / "elsewhere.png")
    (incoming / "rejected").mkdir()
    (incoming / "rejected" / "0.png").write_bytes(content)
    out, target = tmp_path / "out", tmp_path / "v.parquet"
    # Links are brought without a rename: it stops at the first file.
    stopped_while_moving(incoming, target, monkeypatch, out, files=0)
    assert (out / "lost.png").exists()
    (out / "lost.png").unlink()
    (incoming / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UnreadableWarning, match=r"1 rejected files are no longer .*lost\.png"):
        again = screen(gate(), incoming, target, rejected="move", rejected_to=out, overwrite=True)
    assert again.rejected == len(rejected) + 4
    left = {"chain a.png", "chain b.png", "0.png", *rejected}
    assert {path.name for path in out.rglob("*.png")} == left
    assert (out / "chain b.png").read_bytes() == (out / "rejected" / "0.png").read_bytes() == content
    assert not names_below(incoming) & left


def test_a_torn_list_of_files_is_damage(incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, target = tmp_path / "out", tmp_path / "v.parquet"
    stopped_while_moving(incoming, target, monkeypatch, out)
    (notes, *_) = sorted((tmp_path / "v.parquet.run").glob("_paths-*"))
    notes.write_bytes(notes.read_bytes()[:10])
    with pytest.raises(ScreeningError, match="is damaged"):
        screen(gate(), incoming, target, rejected="move", rejected_to=out, overwrite=True)


def test_images_in_memory_cannot_be_gone_on_with_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(CountingJudge(gate(), after=18), monkeypatch)
    with pytest.raises(RuntimeError) as stopped:
        screen(gate(), random_records(30, 4), tmp_path / "v.parquet")
    (note,) = stopped.value.__notes__
    assert "can be read, but not gone on with" in note
    assert len(pq.read_table(list((tmp_path / "v.parquet.run").glob("part-*")))) == 16


def test_kill_dash_nine(incoming: Path, tmp_path: Path) -> None:
    backbone = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]})
    Gate.calibrate(
        backbone.build(),
        preprocessing=PREPROCESSING,
        calibration=random_records(40, 3),
        classes=["a", "b", "c"],
        backbone=backbone,
    ).save(tmp_path / "gate")
    command = [sys.executable, "-m", "normgate.cli", "screen", str(tmp_path / "gate"), str(incoming)]
    command += ["-o", str(tmp_path / "parts"), "--batch-size", "1", "--part-rows", "1", "--runtime", "torch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "parts.run").glob("part-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if (tmp_path / "parts.run").exists():  # else it was faster than the signal
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
        assert done.returncode == 0, done.stderr
        assert "were judged by an earlier run that was stopped" in done.stdout
    assert ids(tmp_path / "parts") == sorted(path.name for path in incoming.iterdir())


def test_verdicts_of_a_network_that_cannot_be_told_are_not_gone_on_with(
    incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = dataclasses.replace(gate())
    strange.extractor.model.secret = (i for i in ())
    try:
        judged_by(CountingJudge(strange, after=18), monkeypatch)
        with pytest.raises(RuntimeError):
            screen(strange, incoming, tmp_path / "v.parquet")
        monkeypatch.undo()
        assert screen(strange, incoming, tmp_path / "v.parquet").resumed == 0
    finally:
        del strange.extractor.model.secret


@pytest.mark.parametrize("name", ["v.parquet", "parts"])
def test_a_signal_at_any_sync_doubles_nothing(
    name: str, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = os.fsync
    for stop in range(1, 20):
        count = 0

        def interrupted(descriptor: int, stop: int = stop) -> None:
            nonlocal count
            count += 1
            synced(descriptor)
            if count == stop:
                raise KeyboardInterrupt

        target = tmp_path / f"{stop} {name}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupted)
            try:
                screen(gate(), incoming, target)
            except KeyboardInterrupt:
                pass
            else:
                assert count < stop
                break
        if not target.exists():
            left = target.with_name(f"{target.name}.run")
            assert not left.exists() or '"part"' in (left / MANIFEST).read_text()
            screen(gate(), incoming, target)
        assert ids(target) == sorted(path.name for path in incoming.iterdir())
    else:
        raise AssertionError


def test_a_signal_while_it_begins_leaves_nothing(tmp_path: Path) -> None:
    """At every line of the beginning."""
    begun = {Parts.__enter__.__code__, Parts._open.__code__}
    target, schema = tmp_path / "v.parquet", pa.schema([("id", pa.string())])
    for stop in range(1, 100):
        lines = 0

        def interrupted(frame: FrameType, event: str, _: object, stop: int = stop) -> Any:
            nonlocal lines
            if frame.f_code not in begun:
                return None
            lines += event == "line"
            if lines == stop and event == "line":
                raise KeyboardInterrupt
            return interrupted

        parts = Parts(target, {"a": 1}, schema, one_file=True, overwrite=False, part_rows=8)
        try:
            sys.settrace(interrupted)
            parts.__enter__()
        except KeyboardInterrupt:
            assert list(tmp_path.iterdir()) == []
        else:
            assert lines < stop
            break
        finally:
            sys.settrace(None)
    else:
        raise AssertionError
    assert stop > 10
    parts.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_lists_of_paths_are_told_apart(incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(incoming)
    names = [path.name for path in sorted(incoming.iterdir())]
    for number, (first, second) in enumerate(((names[:25], names[20:]), (iter(names[:25]), iter(names[20:])))):
        target = tmp_path / f"{number}.parquet"
        judged_by(CountingJudge(gate(), after=18), monkeypatch)
        with pytest.raises(RuntimeError) as stopped:
            screen(gate(), PathList(first), target)
        kept = f"the verdicts so far are kept in {target}.run; the same command goes on with them"
        assert stopped.value.__notes__ == [kept]
        judged_by(judge := CountingJudge(gate()), monkeypatch)
        with pytest.raises(ScreeningError, match="holds verdicts on 16 images that are not among these") as refused:
            screen(gate(), PathList(second), target)
        assert len(judge.ids) == (0 if number == 0 else 10)  # of a pipe it is not known before
        assert not hasattr(refused.value, "__notes__")
        assert not target.exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScreeningError, match="another source of images"):  # the same names mean other files here
        screen(gate(), PathList(iter(names)), target)


def test_tables_that_were_written_anew_are_another_job(
    incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"bytes": path.read_bytes(), "path": None} for path in sorted(incoming.iterdir())]
    for some in (rows, rows[::-1]):
        pq.write_table(pa.table({"image": some}), tmp_path / "t.parquet")
        os.utime(tmp_path / "t.parquet", ns=(0, len(some) if some is rows else 1))
        judged_by(CountingJudge(gate(), after=18), monkeypatch)
        with pytest.raises(RuntimeError if some is rows else ScreeningError):
            screen(gate(), tmp_path / "t.parquet", tmp_path / "v.parquet")


def test_parts_and_tables_of_others_are_left_alone(incoming: Path, tmp_path: Path) -> None:
    (tmp_path / "v.run").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "v.run" / "part-00000.parquet")
    with pytest.raises(ScreeningError, match="which no run has written"):
        screen(gate(), incoming, tmp_path / "v", overwrite=True)
    assert (tmp_path / "v.run" / "part-00000.parquet").exists()
    (tmp_path / "w.run").symlink_to(incoming)
    with pytest.raises(ScreeningError, match="is no folder"):
        screen(gate(), incoming, tmp_path / "w")
    (tmp_path / "packs").mkdir()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([None], kind)}), tmp_path / "packs" / "a.parquet")
    with pytest.raises(ScreeningError, match="name an output outside"):
        screen(gate(), tmp_path / "packs", tmp_path / "packs" / "v.parquet")


def test_parts_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["part-00002.parquet", "part-99999.parquet", "part-100000.parquet"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in part_files(tmp_path)] == names
