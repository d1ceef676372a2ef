from __future__ import annotations

import sys

import pytest

from normgate.data.addresses import find, is_address, local_path
from normgate.data.sources import SourceError, open_source


@pytest.mark.parametrize(
    "text",
    [
        "s3://b/x",
        "https://h/x.jpg",
        "memory://",
        "hf://datasets/o/n",
        "zip://a.jpg::s3://b/x.zip",
        "simplecache::s3://b",
    ],
)
def test_addresses(text):
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    ["photos", "/a/b", "a::b", "C:/x", "c://x", "torchvision:CIFAR10?root=s3://b", "file:///a", "://x", "a b://c", ""],
)
def test_paths(text):
    assert not is_address(text)


def test_file_addresses_are_paths(save, tmp_path):
    save("a b#?.png")
    assert local_path("file:///a/b") == "/a/b"
    assert local_path("/a/b") == "/a/b"
    assert [record.id for record in open_source(f"file://{tmp_path}", labelled=False)] == ["a b#?.png"]


def test_an_unknown_scheme():
    with pytest.raises(SourceError, match=r"nonsense:// is no kind of address that is known"):
        find("nonsense://x")
    with pytest.raises(SourceError, match=r"nonsense:// is no kind"):
        find("zip://a.jpg::nonsense://x.zip")


@pytest.mark.parametrize(
    ("address", "module", "message"),
    [
        ("s3://b/x", "s3fs", r"pip install 'normgate\[s3\]'"),
        ("gs://b/x", "gcsfs", r"pip install 'normgate\[gcs\]'"),
        ("https://h/x.jpg", "aiohttp", r"pip install 'normgate\[http\]'"),
        ("zip://a.jpg::s3://b/x.zip", "s3fs", r"pip install 'normgate\[s3\]'"),
        ("abfs://b/x", "adlfs", "adlfs"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, address, module, message):
    pytest.importorskip("fsspec")
    known = sys.modules["fsspec.registry"]._registry
    for scheme in ("s3", "gs", "http", "https", "abfs"):
        monkeypatch.delitem(known, scheme, raising=False)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError, match=r"needs a library that is not installed: .*" + message):
        open_source(address, labelled=False)


def test_without_fsspec(monkeypatch, tmp_path, save):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SourceError, match=r"s3://b/x needs fsspec: pip install fsspec"):
        open_source("s3://b/x", labelled=False)
    save("a.png")
    assert len(open_source(tmp_path, labelled=False)) == 1


def test_secrets_are_not_shown():
    with pytest.raises(SourceError) as raised:
        find("ftp://user:secret@127.0.0.1:1/x.jpg")
    assert "secret" not in str(raised.value)
    assert "127.0.0.1" in str(raised.value)


def test_hugging_face_addresses_are_found_without_a_network():
    pytest.importorskip("huggingface_hub")
    place = find("hf://datasets/owner/name/data/train-0.parquet")
    assert str(place) == "hf://datasets/owner/name/data/train-0.parquet"
    assert place.name == "train-0.parquet"
