from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normgate.data.decoding import ImageError, decode
from normgate.data.parquet import ParquetImages
from normgate.data.sources import SourceError

if TYPE_CHECKING:
    from pathlib import Path

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def png(encode, noise):
    def make(seed: int) -> bytes:
        return encode(noise(4, 5, 3, seed=seed))

    return make


@pytest.fixture
def write(tmp_path, png):
    """Write a table of `rows` images and other columns."""

    def make(name: str = "pack.parquet", rows: int = 4, images: Any = None, names: Any = None, **columns: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row_group_size = columns.pop("row_group_size", None)
        if images is None:
            images = pa.array([{"bytes": png(i), "path": None} for i in range(rows)], STRUCT)
        table = pa.table({"image": images, **columns})
        if names is not None:
            feature = {"_type": "ClassLabel", "names": names}
            metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
            table = table.replace_schema_metadata(metadata)
        pq.write_table(table, path, row_group_size=row_group_size)
        return path

    return make


def ids(source: ParquetImages) -> list[str]:
    return [record.id for record in source]


def labels(source: ParquetImages) -> list[str | None]:
    return [record.label for record in source]


def test_images_with_class_numbers(write, noise):
    source = ParquetImages(write(label=[1, 0, 2, 1], names=["cat", "bird", "owl"]))
    assert source.classes == ("cat", "bird", "owl")
    assert len(source) == 4
    records = list(source)
    assert ids(source) == [f"pack.parquet#{i}" for i in range(4)]
    assert [record.label for record in records] == ["bird", "cat", "owl", "bird"]
    for i, record in enumerate(records):
        np.testing.assert_array_equal(np.asarray(decode(record.payload)), noise(4, 5, 3, seed=i))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary())])])
def test_other_columns_of_images(write, png, kind):
    values = [{"bytes": png(i)} if pa.types.is_struct(kind) else png(i) for i in range(3)]
    source = ParquetImages(write(images=pa.array(values, kind)), label_column=None)
    assert [record.payload for record in source] == [png(i) for i in range(3)]
    assert source.classes is None
    assert labels(source) == [None] * 3


def test_a_path_instead_of_bytes_is_relative_to_the_table(write, save, noise):
    save("images/photo.png", seed=3)
    images = pa.array([{"bytes": None, "path": "images/photo.png"}], STRUCT)
    (record,) = ParquetImages(write(images=images), label_column=None)
    np.testing.assert_array_equal(np.asarray(decode(record.payload)), noise(4, 5, 3, seed=3))


@pytest.mark.parametrize("images", [pa.array([None], STRUCT), pa.array([None], pa.binary())])
def test_a_null_image_is_a_record_that_cannot_be_decoded(write, images):
    (record,) = ParquetImages(write(images=images), label_column=None)
    with pytest.raises(ImageError, match="the row holds no image"):
        decode(record.payload)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["b", "a", "b", "ä"], ("a", "b", "ä")),
        (pa.array(["b", "a", "b", "ä"]).dictionary_encode(), ("a", "b", "ä")),
        ([10, 9, 10, -1], ("-1", "9", "10")),
    ],
)
def test_labels_without_names(write, values, classes):
    source = ParquetImages(write(label=values))
    assert source.classes == classes
    expected = values.to_pylist() if isinstance(values, pa.Array) else values
    assert labels(source) == [str(value) for value in expected]


@pytest.mark.parametrize("metadata", [b"no json", b"[]", b"{}", b'{"info": {"features": {"label": {"names": 3}}}}'])
def test_metadata_that_means_nothing_is_passed_over(tmp_path, png, metadata):
    table = pa.table({"image": [png(0), png(1)], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "a.parquet")
    assert ParquetImages(tmp_path / "a.parquet").classes == ("0", "1")


@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_rows_can_be_selected(write, row_group_size):
    columns = {
        "label": ["a", "b", "c", "a", "b", "a"],
        "split": ["train", "test", None, "train", "test", "test"],
        "fold": [1, 1, 1, 2, 2, 1],
    }
    path = write(rows=6, row_group_size=row_group_size, **columns)
    test = ParquetImages(path, select="split=test")
    assert ids(test) == [f"pack.parquet#{i}" for i in (1, 4, 5)]
    assert len(test) == 3
    assert labels(test) == ["b", "b", "a"]
    assert test.classes == ("a", "b")  # no selected row is a c
    assert ids(ParquetImages(path, select="split=test&fold=1")) == ["pack.parquet#1", "pack.parquet#5"]
    assert ids(ParquetImages(path, select="fold=2")) == ["pack.parquet#3", "pack.parquet#4"]


def test_selecting_by_a_value_with_odd_characters(write):
    path = write(rows=2, split=["a&b=c+d é", "x"], label=["a", "b"])
    assert ids(ParquetImages(path, select="split=a%26b%3Dc+d é")) == ["pack.parquet#0"]


def test_selecting_what_is_not_there(write):
    path = write(split=["train", "train", "test", None], score=[0.5, 1.0, 1.5, 2.0], label=["a"] * 4)
    with pytest.raises(SourceError, match=r"no row of .* has split=val; split holds: None, test, train"):
        ParquetImages(path, select="split=val")
    with pytest.raises(SourceError, match="has no column 'spilt'; it has: image, split, score, label"):
        ParquetImages(path, select="spilt=train")
    with pytest.raises(SourceError, match=r"\?train is not understood at 'train'; write \?name=value"):
        ParquetImages(path, select="train")
    with pytest.raises(SourceError, match=r"cannot be selected by 'image'.*strings or whole numbers"):
        ParquetImages(path, select="image=1")


def test_columns_of_other_names(write, png):
    path = write(images=[b"no"] * 2, picture=[png(0), png(1)], kind=["a", "b"], person=[4, None])
    source = ParquetImages(path, image_column="picture", label_column="kind", group_column="person")
    assert labels(source) == ["a", "b"]
    assert [record.group for record in source] == ["4", None]
    assert [record.payload for record in source] == [png(0), png(1)]


def test_one_column_may_serve_twice(write):
    source = ParquetImages(write(rows=2, label=["a", "b"]), group_column="label", select="label=b")
    assert [(record.id, record.label, record.group) for record in source] == [("pack.parquet#1", "b", "b")]


def test_columns_that_are_missing_or_of_another_kind(write):
    path = write(label=[0.5] * 4, text=["a"] * 4)
    with pytest.raises(SourceError, match="has no column 'labels'; it has: image, label, text"):
        ParquetImages(path, label_column="labels")
    with pytest.raises(SourceError, match="has no column 'person'"):
        ParquetImages(path, label_column=None, group_column="person")
    with pytest.raises(SourceError, match="column 'label' holds double, not labels"):
        ParquetImages(path)
    with pytest.raises(SourceError, match=r"column 'text' holds string, not images; .*encoded bytes"):
        ParquetImages(path, image_column="text")


def test_labels_that_are_null_or_out_of_range(write):
    with pytest.raises(SourceError, match=r"a\.parquet#2 has no label \(label is null\); label or remove it"):
        ParquetImages(write("a.parquet", label=["a", "b", None, "a"]))
    with pytest.raises(SourceError, match=r"b\.parquet#3 has the label 2; there are 2 classes"):
        ParquetImages(write("b.parquet", label=[0, 1, 0, 2], names=["a", "b"]))
    with pytest.raises(SourceError, match=r"c\.parquet#0 has the label -1"):
        ParquetImages(write("c.parquet", label=[-1, 1, 0, 1], names=["a", "b"]))
    # Rows that are not selected may be unlabelled, and so may all where no labels are wanted.
    path = write("d.parquet", label=["a", None, "b", "a"], split=["x", "y", "x", "x"])
    assert labels(ParquetImages(path, select="split=x")) == ["a", "b", "a"]
    assert len(ParquetImages(path, label_column=None)) == 4


def test_parts_in_a_folder(write, tmp_path):
    write("data/b/1.parquet", rows=2, label=["b", "c"])
    write("data/a.parquet", rows=1, label=["a"])
    (tmp_path / "data" / "_SUCCESS").touch()
    source = ParquetImages(tmp_path / "data")
    assert ids(source) == ["a.parquet#0", "b/1.parquet#0", "b/1.parquet#1"]
    assert source.classes == ("a", "b", "c")
    assert len(source) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no Parquet files"):
        ParquetImages(tmp_path / "empty")


def test_more_rows_than_are_read_at_a_time(write, png):
    rows = 200
    path = write(images=[png(i % 3) for i in range(rows)], label=list(range(rows)), row_group_size=90)
    source = ParquetImages(path)
    assert ids(source) == [f"pack.parquet#{i}" for i in range(rows)]
    assert labels(source) == [str(i) for i in range(rows)]
    assert [record.payload for record in source] == [png(i % 3) for i in range(rows)]


def test_a_table_is_a_stream(write, png, monkeypatch):
    path = write(images=[png(0)] * 500)
    batches = []
    iter_batches = pq.ParquetFile.iter_batches

    def counted(self, *args, **kwargs):
        for batch in iter_batches(self, *args, **kwargs):
            batches.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    stream = iter(ParquetImages(path, label_column=None))
    next(stream)
    assert sum(batches) < 100
    stream.close()


def test_files_that_are_no_tables(tmp_path, write):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 rubbish")
    with pytest.raises(SourceError, match=r"bad\.parquet cannot be read as Parquet"):
        ParquetImages(tmp_path / "bad.parquet")
    path = write(rows=0, label=pa.array([], pa.string()))
    with pytest.raises(SourceError, match="holds no rows"):
        ParquetImages(path)


def test_damage_that_shows_while_reading(write, noise, tmp_path):
    rng = np.random.default_rng(0)
    path = write(images=[rng.bytes(2000) for _ in range(50)])
    data = bytearray(path.read_bytes())
    source = ParquetImages(path, label_column=None)
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        list(source)


def test_undecodable_names_of_files(write, tmp_path):
    path = write(rows=1)
    odd = tmp_path / os.fsdecode(b"p\xe4ck.parquet")
    try:
        path.rename(odd)
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    assert ids(ParquetImages(odd, label_column=None)) == ["p\\xe4ck.parquet#0"]


def test_a_real_pack(shared_data):
    source = ParquetImages(shared_data / "cifar10-test.parquet")
    assert source.classes[:2] == ("airplane", "automobile")
    assert len(source) == 10_000
    record = next(iter(source))
    assert record.id == "cifar10-test.parquet#0"
    assert decode(record.payload).size == (32, 32)
