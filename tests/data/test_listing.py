from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normgate.data.decoding import ImageError, decode
from normgate.data.kinds import IMAGE_EXTENSIONS
from normgate.data.listing import Listing, is_empty
from normgate.data.names import utf8_name
from normgate.data.sources import SourceError


def names(root: Path) -> list[str]:
    return [name for name, _ in Listing(root)]


def test_files_are_found_at_any_depth_in_the_order_of_their_ids(save, tmp_path):
    # "a.png" < "a/…" and "a b/…" < "a/…" as whole strings, though "a" < "a b" as names.
    files = ["a/z.png", "a b/c.png", "a.png", "b/c/d/e.png", "b/c.png", "Z.png", "a/b/c.png", "a-b.png"]
    for name in files:
        save(name)
    assert names(tmp_path) == sorted(files)


PARTS = st.text(st.sampled_from("ab .-/0é"), min_size=1, max_size=6).filter(lambda s: s.strip("/"))


@given(st.lists(PARTS, max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_order_is_that_of_sorted_ids(tmp_path_factory, parts):
    root = tmp_path_factory.mktemp("tree")
    made = set()
    for part in parts:
        relative = "/".join(piece for piece in part.split("/") if piece) + "x.png"
        if any(piece.startswith(".") for piece in relative.split("/")):
            continue
        file = root / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        made.add(relative)
    assert names(root) == sorted(made)


@pytest.mark.parametrize("extension", [*sorted(IMAGE_EXTENSIONS), ".JPG", ".Png", ".TIFF"])
def test_extensions_in_any_case(tmp_path, extension):
    (tmp_path / f"photo{extension}").touch()
    assert names(tmp_path) == [f"photo{extension}"]


def test_other_files_are_counted_and_hidden_ones_are_not(save, tmp_path):
    save("a.png")
    for name in ("notes.txt", "no-extension", "png", "sub/data.csv", ".hidden.png", ".git/x.png", "._a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = Listing(tmp_path)
    assert list(listing) == [("a.png", tmp_path / "a.png")]
    assert listing.skipped == 4
    assert listing.count() == 1
    assert listing.skipped == 4
    assert not is_empty(listing)


def test_names_of_every_kind_have_ids_in_utf8(save, tmp_path):
    for name in ("ä ö/日本.png", "line\nbreak.png", "tab\t'\".png"):
        save(name)
    undecodable = os.fsdecode(b"caf\xe9.png")
    try:
        save(undecodable)
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    found = dict(Listing(tmp_path))
    assert set(found) == {"ä ö/日本.png", "line\nbreak.png", "tab\t'\".png", "caf\\xe9.png"}
    for name, path in found.items():
        name.encode("utf-8")
        assert decode(path).size == (5, 4)


def test_utf8_name():
    assert utf8_name("plain ä") == "plain ä"
    assert utf8_name(os.fsdecode(b"\xff\xfe")) == "\\xff\\xfe"


def test_links_are_followed_but_never_round_in_circles(save, tmp_path):
    save("album/a.png")
    save("elsewhere/b.png")
    root = tmp_path / "album"
    (root / "back").symlink_to(root)
    (root / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(root)
    (root / "file.png").symlink_to(root / "a.png")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "gone.png").symlink_to(root / "nothing")
    found = dict(Listing(root))
    assert list(found) == ["a.png", "file.png", "gone.png", "other/b.png", "self.png"]
    for name in ("gone.png", "self.png"):
        with pytest.raises(ImageError, match="cannot be read"):
            decode(found[name])


def test_pipes_are_skipped(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    listing = Listing(tmp_path)
    assert list(listing) == []
    assert listing.skipped == 1


def test_a_folder_that_cannot_be_read(save, tmp_path, monkeypatch):
    save("a.png")
    save("locked/b.png")
    save("z.png")
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = dict(Listing(tmp_path))
    assert list(found) == ["a.png", "locked", "z.png"]
    with pytest.raises(ImageError, match="locked cannot be read: Permission denied"):
        decode(found["locked"])
    with pytest.raises(SourceError, match="locked cannot be read: Permission denied"):
        list(Listing(tmp_path / "locked"))
