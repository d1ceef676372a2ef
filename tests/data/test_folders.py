from __future__ import annotations

import io
import itertools
import os

import pytest

from normgate.data.decoding import decode
from normgate.data.folders import ClassFolder, FlatFolder, PathList, listed_names
from normgate.data.sources import SourceError


def test_class_folders(save, tmp_path):
    for name in ("dog/2.png", "cat/deep/er/1.png", "cat/0.png", "dog/10.png", "loose.png"):
        save(name)
    (tmp_path / "cat" / "notes.txt").touch()
    (tmp_path / ".cache").mkdir()
    source = ClassFolder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert len(source) == 4
    records = list(source)
    assert [(record.id, record.label) for record in records] == [
        ("cat/0.png", "cat"),
        ("cat/deep/er/1.png", "cat"),
        ("dog/10.png", "dog"),
        ("dog/2.png", "dog"),
    ]
    assert source.skipped == 2  # loose.png has no class, notes.txt is no image
    assert decode(records[0].payload).size == (5, 4)
    assert [record.id for record in source] == [record.id for record in records]


def test_class_folders_that_are_not_there(save, tmp_path):
    file = save("image.png")
    with pytest.raises(SourceError, match=r"image\.png is not a folder; .*/<class>/<image>: one folder a class"):
        ClassFolder(file)
    with pytest.raises(SourceError, match=r"holds no class folders; .*/<class>/<image>"):
        ClassFolder(tmp_path)


def test_class_folders_without_images(save, tmp_path):
    save("cat/0.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "notes.txt").touch()
    with pytest.raises(SourceError, match=r"2 of the 3 class folders of .* hold no image: dog, owl; fill or remove"):
        ClassFolder(tmp_path)


def test_flat_folders(save, tmp_path):
    for name in ("b.png", "sub/a.png", "a.png"):
        save(name)
    (tmp_path / "notes.txt").touch()
    source = FlatFolder(tmp_path)
    assert source.classes is None
    assert len(source) == 3
    assert [(record.id, record.label) for record in source] == [
        ("a.png", None),
        ("b.png", None),
        ("sub/a.png", None),
    ]
    assert source.skipped == 1


def test_a_flat_folder_without_images(tmp_path):
    with pytest.raises(SourceError, match="holds no image "):
        FlatFolder(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceError, match="holds no image among its 1 files"):
        FlatFolder(tmp_path)


def test_a_single_file_whatever_its_name(save):
    file = save("folder/photo")
    source = FlatFolder(file)
    assert len(source) == 1
    assert [(record.id, record.payload) for record in source] == [("photo", file)]


def test_a_folder_is_a_stream(save, tmp_path):
    for name in ("a.png", "b.png"):
        save(name)
    stream = iter(FlatFolder(tmp_path))
    assert next(stream).id == "a.png"
    (tmp_path / "b.png").unlink()  # listed, but not held
    assert [record.id for record in stream] == ["b.png"]


def test_path_lists(save, tmp_path):
    paths = [save("b.png"), str(save("a.png")), tmp_path / "missing.png"]
    source = PathList(paths)
    assert len(source) == 3
    assert [record.id for record in source] == [str(path) for path in paths]
    assert [record.id for record in source] == [str(path) for path in paths]


def test_a_path_may_be_written_as_an_address(save):
    path = save("a.png")
    (record,) = PathList([f"file://{path}"])
    assert (record.id, record.payload) == (str(path), path)


def test_a_path_list_takes_a_path_at_a_time():
    source = PathList(f"{i}.png" for i in itertools.count())
    assert next(iter(source)).id == "0.png"
    with pytest.raises(TypeError, match="not known"):
        len(source)


class Dripping(io.BytesIO):
    """A pipe that gives few bytes at a time."""

    def __init__(self, content, size):
        super().__init__(content)
        self.size = size

    def read1(self, size=-1):
        return super().read1(min(size, self.size))


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_listed_names_end_with_a_line_or_with_nul(size):
    names = [b"a", b"b c", b"\xff.png", b"a longer one"]
    for content in (b"\n".join(names), b"\n".join(names) + b"\n", b"\n\r\n \n" + b"\r\n\n".join(names)):
        assert list(listed_names(Dripping(content, size))) == names
    names = [b"a", b"b\nc", b"d\r", b"\n", b" "]
    for content in (b"\0".join(names), b"\0".join(names) + b"\0", b"\0\0" + b"\0\0".join(names)):
        assert list(listed_names(Dripping(content, size))) == names
    assert list(listed_names(io.BytesIO())) == []


def test_names_come_before_the_list_has_ended():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as pipe:
        names = listed_names(stream)
        for name in (b"first", b"second"):
            pipe.write(name + b"\n")
            assert next(names) == name
