"""Entries on disk: whole, verified, bounded, private, and never an error."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from normgate.evaluation import CacheError, FeatureCache
from normgate.evaluation.cache import Entry
from normgate.files import OutputError
from samples import random_features

SIZE = {"count": 6, "width": 12, "outputs": 3}


def entry(seed: int = 0) -> Entry:
    """Four images of six; the second and the fifth cannot be read."""
    return Entry.of(random_features(4, seed), [None, "cut off", None, None, "no image", None])


def same(a: Entry | None, b: Entry) -> bool:
    return (
        a is not None
        and a.errors == b.errors
        and a.rows.keys() == b.rows.keys()
        and all(torch.equal(a.rows[name], b.rows[name]) for name in a.rows)
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "c")
    cache.write("key", entry())
    assert same(cache.read("key", **SIZE), entry())
    assert cache.read("another key", **SIZE) is None
    nothing = Entry.of(None, ["bad", "worse"])
    cache.write("nothing", nothing)
    assert same(cache.read("nothing", count=2, width=12, outputs=3), nothing)


def test_reordering_is_undone_by_its_inverse() -> None:
    order = [4, 2, 0, 5, 1, 3]
    moved = entry().reordered(order)
    assert moved.errors == ("no image", None, None, None, "cut off", None)
    assert torch.equal(moved.rows["z"], entry().rows["z"][[1, 0, 3, 2]])
    inverse = sorted(range(6), key=order.__getitem__)
    assert same(moved.reordered(inverse), entry())


def test_the_folder_is_the_users_alone(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "c")
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_what_was_there_before_stays_as_it_was(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "normgate-features").symlink_to(shared)
    theirs = ["my_model.safetensors", ".mine.partial.safetensors", f"{'0' * 63}.safetensors", f"{'g' * 64}.safetensors"]
    for name in theirs:
        (shared / name).write_bytes(b"x" * 1000)
        os.utime(shared / name, ns=(0, 0))
    cache = FeatureCache(tmp_path / "c", limit=1)
    cache.write("a", entry())
    cache.write("b", entry())
    assert all((shared / name).exists() for name in theirs)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert len(list(shared.iterdir())) == len(theirs) + 1


def only_file(cache: FeatureCache) -> Path:
    (path,) = cache.folder.iterdir()
    return path


def rewritten(path: Path, **changes: str) -> None:
    """The same tensors with other words beside them."""
    with safe_open(path, framework="pt") as file:
        metadata, rows = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(rows, path, metadata=metadata | changes)


def test_damaged_and_foreign_files_are_not_used(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.write("key", entry())
    path = only_file(cache)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    foreign = FeatureCache(tmp_path / "other")
    foreign.write("other key", entry(1))
    damaged = [b"", whole[:10], whole[:-40], bytes(flipped), b"{}" * 500, only_file(foreign).read_bytes()]
    for content in damaged:
        path.write_bytes(content)
        assert cache.read("key", **SIZE) is None
    for changes in (
        {"key": "another"},
        {"errors": json.dumps([None] * 6)},
        {"errors": "["},
        {"errors": "[" * 100_000},
        {"digest": ""},
    ):
        path.write_bytes(whole)
        rewritten(path, **changes)
        assert cache.read("key", **SIZE) is None
    path.unlink()
    path.mkdir()
    assert cache.read("key", **SIZE) is None
    path.rmdir()
    cache.write("key", entry())
    assert same(cache.read("key", **SIZE), entry())


@pytest.mark.parametrize("size", [{"count": 5}, {"width": 11}, {"outputs": 4}])
def test_entries_of_another_shape_are_not_used(tmp_path: Path, size: dict[str, int]) -> None:
    cache = FeatureCache(tmp_path)
    cache.write("key", entry())
    assert cache.read("key", **{**SIZE, **size}) is None


def test_features_that_are_not_finite_are_not_used(tmp_path: Path) -> None:
    cache, bad = FeatureCache(tmp_path), entry()
    bad.rows["z"][0, 0] = torch.nan
    cache.write("key", bad)
    assert cache.read("key", **SIZE) is None


def test_entries_that_were_used_longest_ago_go_first(tmp_path: Path) -> None:
    FeatureCache(tmp_path).write("probe", entry())
    size = only_file(FeatureCache(tmp_path)).stat().st_size
    cache = FeatureCache(tmp_path / "bounded", limit=int(2.5 * size))
    for number, key in enumerate("ab"):
        cache.write(key, entry())
        for path in cache.folder.iterdir():
            os.utime(path, ns=(0, path.stat().st_mtime_ns if number else 10))
    left_behind = cache.folder / f".{'0' * 64}.safetensors.ab_1c2d3.partial.safetensors"
    left_behind.write_bytes(b"x" * size)
    os.utime(left_behind, ns=(0, 0))
    assert cache.read("a", **SIZE) is not None  # used now
    foreign = cache.folder / "notes.txt"
    foreign.write_text("mine")
    cache.write("c", entry())
    assert not left_behind.exists()
    assert [cache.read(key, **SIZE) is not None for key in "abc"] == [True, False, True]
    assert foreign.exists()
    tiny = FeatureCache(tmp_path / "tiny", limit=1)
    tiny.write("a", entry())
    tiny.write("b", entry())
    assert [tiny.read(key, **SIZE) is not None for key in "ab"] == [False, True]


def test_a_folder_that_cannot_be_used_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="--no-cache"):
        FeatureCache(tmp_path / "file")
    cache = FeatureCache(tmp_path / "c")
    cache.folder.rmdir()
    cache.folder.write_text("")
    with pytest.raises(OutputError):
        cache.write("key", entry())
