from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normgate.data import tars
from normgate.data.tars import DamagedTarError, members

FILES = {"a/000.jpg": b"x" * 700, "a/000.cls": b"3", "b" * 120 + ".jpg": b"", "ä.png": b"y" * 1536}


def written(name_mode: str = "w", files: dict[str, bytes] = FILES) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=name_mode) as file:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            file.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def read(path) -> tuple[list[tuple[str, bytes]], bool]:
    """The members that come, and whether the end does."""
    found = []
    try:
        for member in members(path):
            content = member.read()
            assert len(content) == member.size
            found.append((member.name, content))
    except DamagedTarError:
        return found, False
    return found, True


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_members_in_their_order(tmp_path, mode):
    path = tmp_path / "x.tar"
    path.write_bytes(written(mode))
    assert read(path) == (list(FILES.items()), True)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_is_cut_short_is_never_silently_short(tmp_path, mode):
    """Wherever it is cut: what comes is the beginning, and the end only where all has come."""
    whole = written(mode)
    path = tmp_path / "x.tar"
    for length in range(0, len(whole), 1 if mode == "w:gz" else 64):
        path.write_bytes(whole[:length])
        found, is_whole = read(path)
        assert found == list(FILES.items())[: len(found)]
        assert not is_whole or len(found) == len(FILES)
    assert read(path)[0]


def test_a_tar_that_is_cut_between_members(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(written()[: 512 + 1024])  # exactly after the first member
    stream = members(path)
    assert next(stream).name == "a/000.jpg"
    with pytest.raises(DamagedTarError, match="its end is missing"):
        next(stream)


def test_a_member_is_not_read_to_be_checked(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(written()[:900])
    with pytest.raises(DamagedTarError, match="unexpected end of data"):
        list(members(path))


@given(st.integers(0, 4000), st.binary(min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_damage_is_an_error_or_harmless(tmp_path_factory, at, junk):
    content = bytearray(written())
    content[at : at + len(junk)] = junk
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(content)
    found, is_whole = read(path)
    assert not is_whole or len(found) == len(FILES)


@pytest.mark.parametrize("content", [b"", b"no tar", b"\x1f\x8b\x08 no gzip" + b"x" * 600, bytes(100)])
def test_what_is_no_tar(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    assert read(path) == ([], False)
    assert read(tmp_path / "gone.tar") == ([], False)


def test_links_devices_folders_and_hidden_members(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
            ("null.jpg", tarfile.CHRTYPE),
            ("folder.jpg", tarfile.DIRTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type = kind
            header.linkname = "/etc/passwd"
            file.addfile(header)
        for name in ("._a.jpg", ".git/a.jpg", "./a.jpg", "../b.jpg", "/c.jpg"):
            file.addfile(tarfile.TarInfo(name))
    assert [name for name, _ in read(path)[0]] == ["./a.jpg", "../b.jpg", "/c.jpg"]


def header_of(name: bytes, kind: bytes, size: int) -> bytes:
    header = tarfile.TarInfo(name.decode())
    header.type, header.size = kind, size
    return header.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(tarfile.GNUTYPE_LONGNAME, 2**33), (tarfile.XHDTYPE, 2**33), (tarfile.REGTYPE, -512), (b"S", 512)],
)
def test_headers_that_would_take_memory_or_time_for_ever(tmp_path, kind, size):
    path = tmp_path / "x.tar"
    path.write_bytes(header_of(b"x.jpg", kind, size) + bytes(4096))
    with pytest.raises(DamagedTarError, match=r"claims|sparse"):
        list(members(path))


def test_headers_are_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "x.tar"
    path.write_bytes(written(files={f"{i}.jpg": b"" for i in range(300)}))
    true, opened = tars._opened, []
    monkeypatch.setattr(tars, "_opened", lambda stream: opened.append(true(stream)) or opened[0])
    kept = [len(opened[0].members) for _ in members(path)]
    assert len(kept) == 300
    assert max(kept) <= 1
