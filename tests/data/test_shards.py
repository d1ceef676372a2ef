from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from normgate.data import shards, tars
from normgate.data.decoding import ImageError, decode
from normgate.data.shards import TarImages
from normgate.data.sources import NoLabelsError, Source, SourceError, load, open_source


@pytest.fixture
def png(noise, encode):
    return lambda seed=0: encode(noise(4, 5, 3, seed=seed))


def test_images_of_a_tar(tar, png):
    path = tar("t/x.tar", {"0.png": png(), "0.json": b"{}", "a/1.PNG": png(1), "a/1.txt": b"", "2.json": b"{}"})
    source = open_source(str(path), labelled=False)
    assert isinstance(source, TarImages)
    assert isinstance(source, Source)
    records = list(source)
    assert [record.id for record in records] == ["x.tar#0.png", "x.tar#a/1.PNG"]
    assert np.array_equal(decode(records[1].payload), decode(png(1)))
    assert source.skipped == 1  # 2.json is a sample without an image; the others belong to theirs
    assert [record.id for record in source] == [record.id for record in records]
    with pytest.raises(TypeError, match="only reading"):
        len(source)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_labels_before_and_after_the_image(tar, png, mode):
    name = "x.tar" if mode == "w" else "x.tar.gz"
    first = [("0.png", png()), ("0.cls", b"owl\n"), ("1.cls", b"cat"), ("1.left.png", png()), ("1.right.png", png())]
    path = tar(name, [*first, ("2.txt", b"")], mode)
    source = open_source(path, labelled=True)
    assert source.classes == ("cat", "owl")
    expected = [("0.png", "owl"), ("1.left.png", "cat"), ("1.right.png", "cat")]
    assert [(record.id, record.label) for record in source] == [(f"{name}#{one}", label) for one, label in expected]
    assert source.skipped == 1
    assert {record.label for record in open_source(path, labelled=False)} == {None}


def test_class_numbers_are_in_the_order_of_numbers(tar, png):
    path = tar(
        "x.tar",
        [(f"{i}.{end}", png() if end == "png" else f"{i}".encode()) for i in (10, 9, 2) for end in ("png", "cls")],
    )
    source = TarImages(path, labelled=True)
    assert source.classes == ("2", "9", "10")
    assert [record.label for record in source] == ["10", "9", "2"]


def test_labels_that_are_missing(tar, png):
    with pytest.raises(NoLabelsError, match=r"hold no \.cls"):
        TarImages(tar("x.tar", {"0.png": png()}), labelled=True)
    with pytest.raises(SourceError, match=r"y\.tar#1\.png has no label"):
        TarImages(tar("y.tar", {"0.png": png(), "0.cls": b"a", "1.png": png()}), labelled=True)
    with pytest.raises(SourceError, match=r"z\.tar#1\.png has no label"):
        TarImages(tar("z.tar", {"0.png": png(), "0.cls": b"a", "1.png": png(), "1.cls": b" "}), labelled=True)


def test_one_class_is_not_enough(tar, png):
    with pytest.raises(SourceError, match="only one class"):
        open_source(tar("x.tar", {"0.png": png(), "0.cls": b"a"}), labelled=True)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_tar_that_is_cut_short_ends_in_an_error(tar, png, tmp_path, labelled):
    members = [
        (f"{i}.{end}", png(i) if end == "png" else b"ab"[i % 2 : i % 2 + 1]) for i in range(4) for end in ("cls", "png")
    ]
    tar("s/1.tar", members)
    (tmp_path / "s" / "0.tar").write_bytes((tmp_path / "s" / "1.tar").read_bytes()[: 512 * 10])
    source = open_source(tmp_path / "s", labelled=labelled)
    for _ in range(2):
        records = list(source)
        assert [record.id for record in records][:3] == ["0.tar#0.png", "0.tar#1.png", "0.tar"]
        assert [record.id for record in records][3:] == [f"1.tar#{i}.png" for i in range(4)]
        with pytest.raises(ImageError, match=r"the tar .*0\.tar is damaged or cut short after 2 images: "):
            decode(records[2].payload)
        assert all(decode(record.payload) for record in records if record.id != "0.tar")


def test_a_member_that_is_too_large_is_an_error(tar, png, monkeypatch):
    monkeypatch.setattr(shards, "MOST_BYTES", len(png()) + 1)
    path = tar("x.tar", {"0.png": png(), "1.png": png() + b"xx", "2.png": png()})
    first, second, third = TarImages(path)
    assert decode(first.payload).size == decode(third.payload).size == (5, 4)
    with pytest.raises(ImageError, match="MiB, too many to be read from a tar"):
        decode(second.payload)


def test_names_that_make_one_sample_of_everything(tar, png, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_SAMPLE_BYTES", 3 * len(png()))
    path = tar("x.tar", {f"img.{i}.png": png() for i in range(5)} | {"img.cls": b"a"})
    assert len(load(open_source(path, labelled=False))) == 5
    with pytest.raises(SourceError, match=r"the images /img\.\* are one sample .* up to their first dot"):
        open_source(path, labelled=True)


def test_a_tar_without_images(tar):
    with pytest.raises(SourceError, match="holds no image"):
        open_source(tar("x.tar", {"0.json": b"{}"}), labelled=False)


def test_an_image_that_cannot_be_decoded_is_a_record(tar, png):
    first, second = TarImages(tar("x.tar", {"0.png": b"junk", "1.png": png()}))
    with pytest.raises(ImageError, match="not an image"):
        decode(first.payload)
    assert decode(second.payload).size == (5, 4)


def test_names_that_are_not_utf8(tar, png, tmp_path):
    path = tar("x.tar", {"caf\udce9.png": png()})
    (record,) = TarImages(path)
    assert record.id == "x.tar#caf\\xe9.png"


def test_a_stream_is_not_read_ahead(tar, png, monkeypatch):
    path = tar("x.tar", {f"{i}.png": png() for i in range(50)})
    taken = 0
    true = tars.members

    def counted(place):
        nonlocal taken
        for member in true(place):
            taken += 1
            yield member

    monkeypatch.setattr(shards, "members", counted)
    source = TarImages(path)
    taken = 0
    stream = iter(source)
    next(stream)
    next(stream)
    assert taken == 2


def test_what_webdataset_writes(tmp_path, noise):
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "x.tar")) as sink:
        for i in range(4):
            sink.write({"__key__": f"{i:03d}", "png": Image.fromarray(noise(4, 5, 3, seed=i)), "cls": i % 2})
    source = open_source(tmp_path / "x.tar", labelled=True)
    assert source.classes == ("0", "1")
    records = list(source)
    assert [record.id for record in records] == [f"x.tar#{i:03d}.png" for i in range(4)]
    assert [record.label for record in records] == ["0", "1", "0", "1"]
    assert np.array_equal(decode(records[3].payload), noise(4, 5, 3, seed=3))
