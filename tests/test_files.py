"""Outputs appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from normgate.files import OutputError, check_output, names_in, whole_file, whole_folder


def nothing(folder: Path) -> None:
    """Whatever lies there may be replaced."""


def other_than_parts(folder: Path) -> str | None:
    return next((name for name in names_in(folder) if not name.startswith("part-")), None)


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.txt"
    with whole_file(target) as partial:
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["x.txt"]


def test_outputs_have_the_permissions_that_new_files_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody asks for the umask, which can be asked for only by setting it, in all threads."""

    def asked(_: int) -> int:
        raise AssertionError

    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", asked)
        with whole_file(tmp_path / "x.txt") as partial:
            partial.unlink()
            partial.touch(mode=0o600)  # as some libraries write
        with whole_folder(tmp_path / "folder", foreign=nothing) as folder:
            (folder / "deep").mkdir(mode=0o700)
            (folder / "deep" / "x").touch(mode=0o600)
    finally:
        monkeypatch.undo()
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"x.txt": 0o640, "folder": 0o750, "deep": 0o750, "x": 0o640}


def test_a_failure_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "x.txt", overwrite=True) as partial:
        partial.write_text("half")
        raise RuntimeError
    with (
        pytest.raises(OutputError, match="No space left"),
        whole_folder(tmp_path / "folder", foreign=nothing, overwrite=True) as folder,
    ):
        (folder / "a").write_text("half")
        raise OSError(28, "No space left on device")
    assert (tmp_path / "x.txt").read_text() == "old"
    assert (tmp_path / "folder" / "a").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"x.txt", "folder"}


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with whole_folder(tmp_path / "folder", foreign=nothing, overwrite=True) as folder:
            (folder / text).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    for name in ("part-0.parquet", "mine.png", ".DS_Store", "._mine.png"):
        (tmp_path / name).touch()
    for overwrite in (True, False):
        refused = pytest.raises(OutputError, match=r"holds mine\.png, which is not of an earlier output")
        with refused, whole_folder(tmp_path, foreign=other_than_parts, overwrite=overwrite):
            raise AssertionError
    (tmp_path / "mine.png").unlink()
    check_output(tmp_path, overwrite=True, foreign=other_than_parts)
    with pytest.raises(OutputError, match=r"exists; .* pass --overwrite \(overwrite=True\)"):
        check_output(tmp_path, overwrite=False, foreign=other_than_parts)
    with pytest.raises(OutputError, match="is a folder, and the output is a file"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="in use"):
        check_output(Path(), overwrite=True, foreign=nothing)
    with pytest.raises(OutputError, match="is a file, and the output is a folder"):
        check_output(tmp_path / "part-0.parquet", overwrite=True, foreign=other_than_parts)


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(OutputError, match="--overwrite"):
        check_output(tmp_path / "x", overwrite=False)
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "x" / "y", overwrite=False)
    with pytest.raises(OutputError, match="name too long"):
        check_output(tmp_path / ("x" * 300), overwrite=False)


def test_what_has_come_while_an_output_was_made_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "new", foreign=other_than_parts) as folder:
        (folder / "part-0").touch()
    with (
        pytest.raises(OutputError, match="holds notes, which is not of an earlier output"),
        whole_folder(tmp_path / "new", foreign=other_than_parts, overwrite=True),
    ):
        (tmp_path / "new" / "notes").touch()
    with (
        pytest.raises(OutputError, match="exists"),
        whole_folder(tmp_path / "other", foreign=other_than_parts),
    ):
        (tmp_path / "other").mkdir()
    assert names_in(tmp_path / "new") == ["notes", "part-0"]
    assert names_in(tmp_path) == ["new", "other"]


def test_a_file_that_has_come_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"), whole_file(tmp_path / "x") as partial:
        partial.write_text("ours")
        (tmp_path / "x").write_text("theirs")
    assert (tmp_path / "x").read_text() == "theirs"
    assert names_in(tmp_path) == ["x"]


def test_a_signal_while_a_folder_is_replaced_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def interrupted(path: Path, to: Path) -> Path:
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(target, foreign=nothing, overwrite=True) as folder:
        (folder / "new").touch()
    assert names_in(target) == ["old"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.parametrize("letter", ["q", "手"])
def test_names_may_be_as_long_as_a_file_system_takes(letter: str, tmp_path: Path) -> None:
    name = letter * (250 // len(letter.encode()))
    with whole_file(tmp_path / name) as partial:
        partial.write_text("x")
    assert names_in(tmp_path) == [name]
    (tmp_path / name).unlink()
    for _ in range(2):
        with whole_folder(tmp_path / name, foreign=nothing, overwrite=True):
            pass
    assert names_in(tmp_path) == [name]
