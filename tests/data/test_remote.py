from __future__ import annotations

import pickle

import pytest

from normgate.data import patience, remote
from normgate.data.addresses import find
from normgate.data.decoding import ImageError, decode
from normgate.data.remote import RemoteFile

fsspec = pytest.importorskip("fsspec")


def test_a_file_elsewhere_is_small_and_can_be_pickled(memory, encode, noise):
    memory({"a/x.png": encode(noise(4, 5, 3))})
    place = find("memory://root/a/x.png")
    assert str(place) == "memory:///root/a/x.png"
    assert place.name == "x.png"
    again = pickle.loads(pickle.dumps(place))
    assert again == place
    assert decode(again).size == (5, 4)
    assert str(place.parent.below("y.png")) == "memory:///root/a/y.png"


@pytest.mark.parametrize("size", [None, 8])
def test_what_is_too_large_is_not_fetched(memory, monkeypatch, size):
    memory({"x.png": b"12345678"})
    place = RemoteFile(fsspec.filesystem("memory"), "/root/x.png", size)
    monkeypatch.setattr(remote, "MOST_BYTES", 8)
    assert place.fetch() == b"12345678"
    monkeypatch.setattr(remote, "MOST_BYTES", 7)
    with pytest.raises(ImageError, match="MiB, too many to be fetched"):
        place.fetch()


def test_what_is_gone(memory):
    memory({"x.png": b""})
    for size in (None, 8):
        with pytest.raises(ImageError, match="it cannot be fetched: there is no such file"):
            RemoteFile(fsspec.filesystem("memory"), "/root/gone.png", size).fetch()
    with pytest.raises(OSError, match="there is no such file"):
        find("memory://root/gone.png").open()


def test_an_image_in_an_archive(tmp_path, encode, noise):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/x.png", encode(noise(4, 5, 3)))
    place = find(f"zip://a/x.png::file://{tmp_path}/x.zip")
    assert decode(place).size == (5, 4)
    assert decode(pickle.loads(pickle.dumps(place))).size == (5, 4)


def test_a_web_server_that_fails_at_first(web):
    web.files["x.png"] = b"content"
    web.failing["x.png"] = 2
    assert find(f"{web.address}/x.png").fetch() == b"content"
    web.failing["x.png"] = 3
    with pytest.raises(ImageError, match="it cannot be fetched: the server answered 503"):
        find(f"{web.address}/x.png").fetch()
    assert len(web.asked) == 6


def test_a_file_of_the_web_takes_one_request(web):
    web.files["x.png"] = b"content"
    assert find(f"{web.address}/x.png").fetch() == b"content"
    assert web.asked == [("GET", "x.png")]


def test_what_is_not_there_is_asked_for_once(web):
    with pytest.raises(ImageError, match="it cannot be fetched: there is no such file"):
        find(f"{web.address}/gone.png").fetch()
    assert len(web.asked) == 1


def test_an_answer_that_breaks_off(web):
    web.files["x.png"] = b"content" * 100
    web.cut.add("x.png")
    with pytest.raises(ImageError, match="it cannot be fetched: ") as raised:
        find(f"{web.address}/x.png?token=secret").fetch()
    assert "secret" not in str(raised.value)
    assert len(web.asked) == 1 + len(patience.PAUSES)


def test_nobody_there(monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(patience.time, "sleep", lambda _: None)
    with pytest.raises(ImageError, match="it cannot be fetched: ") as raised:
        find("http://user:secret@127.0.0.1:1/x.png?token=secret").fetch()
    assert "secret" not in str(raised.value)


def test_a_stream_of_the_web_that_is_too_large_is_not_read_to_its_end(web, monkeypatch):
    web.files["x.png"] = bytes(1000)
    monkeypatch.setattr(remote, "MOST_BYTES", 999)
    with pytest.raises(ImageError, match="too many"):
        find(f"{web.address}/x.png").fetch()


def test_names_of_the_web():
    pytest.importorskip("aiohttp")
    place = find("https://u:p@host/a%20b/c%20d.jpg?token=secret")
    assert place.name == "c d.jpg"
    assert str(place) == "https://host/a%20b/c%20d.jpg?…"
    assert str(place.parent) == "https://host/a%20b"


def test_reading_parts_of_a_file(web):
    web.ranges = True
    web.files["x.bin"] = bytes(range(256)) * 40
    with find(f"{web.address}/x.bin").open() as file:
        assert file.seek(0, 2) == 256 * 40
        file.seek(300)
        web.failing["x.bin"] = 1
        assert file.read(4) == bytes([44, 45, 46, 47])
        assert file.tell() == 304


def test_connections_that_threads_must_not_share():
    assert RemoteFile(type("", (), {"protocol": "ftp"})(), "x").is_one_at_a_time
    assert RemoteFile(type("", (), {"protocol": ("sftp", "ssh")})(), "x").is_one_at_a_time
    assert not RemoteFile(type("", (), {"protocol": ("s3", "s3a")})(), "x").is_one_at_a_time
