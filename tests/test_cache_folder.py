"""Folders of what can be computed again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from normgate.cache_folder import default_folder, trim
from normgate.files import whole_file


def entry(folder: Path, number: int, used: int) -> Path:
    path = folder / f"{number:064x}.graph"
    path.write_bytes(b"x" * 10)
    os.utime(path, ns=(used, used))
    return path


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    paths = [entry(tmp_path, number, used) for number, used in enumerate([3, 1, 2, 0])]
    trim(tmp_path, ".graph", limit=40, newest=paths[3])
    assert all(path.exists() for path in paths)
    trim(tmp_path, ".graph", limit=25, newest=paths[3])
    assert [path.exists() for path in paths] == [True, False, False, True]
    trim(tmp_path, ".graph", limit=0, newest=paths[3])
    assert [path.exists() for path in paths] == [False, False, False, True]


def test_what_a_killed_run_leaves_goes_and_files_of_others_stay(tmp_path: Path) -> None:
    newest = entry(tmp_path, 0, 0)
    others = [tmp_path / name for name in ("mine.graph", f"{'0' * 64}.onnx", "notes.txt", f"{'g' * 64}.graph")]
    for path in others:
        path.write_bytes(b"x")
    with pytest.raises(KeyboardInterrupt), whole_file(newest, overwrite=True) as partial:
        partial.write_bytes(b"half")
        left = partial
        raise KeyboardInterrupt
    left.write_bytes(b"half")  # as after kill -9, which nobody clears up
    trim(tmp_path, ".graph", limit=0, newest=newest)
    assert not left.exists()
    assert newest.exists()
    assert all(path.exists() for path in others)


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "normgate"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_folder() == tmp_path / "home" / ".cache" / "normgate"
