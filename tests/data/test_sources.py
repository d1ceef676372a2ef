from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import normgate.data
from normgate.data.datasets import DatasetImages
from normgate.data.decoding import decode
from normgate.data.folders import ClassFolder, FlatFolder, PathList
from normgate.data.memory import ImageList
from normgate.data.parquet import ParquetImages
from normgate.data.sources import Record, Records, Source, SourceError, load, open_source


@pytest.fixture
def tree(save, tmp_path):
    for name in ("cat/0.png", "cat/1.png", "owl/0.png"):
        save(name)
    return tmp_path


@pytest.fixture
def table(tmp_path, encode, noise):
    path = tmp_path / "tables" / "pack.parquet"
    path.parent.mkdir()
    images = [encode(noise(4, 5, 3, seed=i)) for i in range(4)]
    columns = {
        "image": images,
        "label": ["a", "b", "a", "a"],
        "split": ["x", "x", "y", "y"],
        "who": [1, 2, 3, 4],
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_folders(tree, kind):
    labelled = open_source(kind(tree), labelled=True)
    assert isinstance(labelled, ClassFolder)
    assert labelled.classes == ("cat", "owl")
    flat = open_source(kind(tree), labelled=False)
    assert isinstance(flat, FlatFolder)
    assert [record.id for record in flat] == [record.id for record in labelled]
    assert {record.label for record in flat} == {None}


def test_a_single_file(tree):
    assert [record.id for record in open_source(tree / "cat/0.png", labelled=False)] == ["0.png"]
    with pytest.raises(SourceError, match="is not a folder; labelled images are wanted as"):
        open_source(tree / "cat/0.png", labelled=True)


def test_tables(table):
    for place in (table, table.parent):
        source = open_source(place, labelled=True, group_column="who")
        assert isinstance(source, ParquetImages)
        assert source.classes == ("a", "b")
        assert [record.group for record in source] == ["1", "2", "3", "4"]
    assert [r.id for r in open_source(f"{table}?split=x", labelled=True)] == [
        "pack.parquet#0",
        "pack.parquet#1",
    ]
    assert [r.id for r in open_source(f"{table.parent}?split=y", labelled=False)] == [
        "pack.parquet#2",
        "pack.parquet#3",
    ]


def test_columns_that_are_not_asked_for_are_not_needed(table):
    source = open_source(table, labelled=False, label_column="none such")
    assert source.classes is None
    with pytest.raises(SourceError, match="no column 'none such'"):
        open_source(table, labelled=True, label_column="none such")


def test_images_win_over_tables_in_a_folder(table, save):
    """Verdicts that were written among the images do not turn them into a table."""
    save("tables/deep/a.png")
    source = open_source(table.parent, labelled=False)
    assert [record.id for record in source] == ["deep/a.png"]
    assert source.skipped == 1


def test_a_question_mark_in_a_name(tmp_path, save):
    save("what?/0.png")
    assert [record.id for record in open_source(tmp_path / "what?", labelled=False)] == ["0.png"]
    with pytest.raises(SourceError, match=r"\?split=train selects rows of Parquet files"):
        open_source(f"{tmp_path}?split=train", labelled=False)


def test_torchvision():
    source = open_source("torchvision:FakeData?size=2&num_classes=2", labelled=False)
    assert [record.id for record in source] == ["FakeData#0", "FakeData#1"]


def test_what_is_missing_is_named_with_what_is_close(tree):
    with pytest.raises(SourceError, match=r"/cats does not exist; did you mean .*/cat\?"):
        open_source(tree / "cats", labelled=False)
    with pytest.raises(SourceError, match=r"/zzzzzz does not exist$"):
        open_source(tree / "zzzzzz", labelled=False)
    with pytest.raises(SourceError, match=r"no/where does not exist, and neither does .*no$"):
        open_source(tree / "no/where", labelled=False)
    with pytest.raises(SourceError, match=r"gone\.parquet does not exist"):
        open_source(f"{tree}/gone.parquet?split=train", labelled=False)


def test_a_link_to_nothing_is_said_to_be_one(tree):
    (tree / "link").symlink_to("gone")
    with pytest.raises(SourceError, match=r"/link is a link to gone, which does not exist$"):
        open_source(tree / "link", labelled=False)


def test_what_is_no_folder_is_not_its_own_correction(tree):
    (tree / "note").touch()
    with pytest.raises(SourceError, match=r"/note is no folder$"):
        open_source(f"{tree}/note/*.png", labelled=False)


def test_a_line_break_in_a_name_breaks_no_message(tree):
    (tree / "new\nline").mkdir()
    with pytest.raises(
        SourceError, match=r"new\N{REPLACEMENT CHARACTER}lime does not .* mean .*new\N{REPLACEMENT CHARACTER}line\?$"
    ):
        open_source(tree / "new\nlime", labelled=False)


def test_one_class_is_not_enough(save, tmp_path, table):
    save("only/cat/0.png")
    with pytest.raises(SourceError, match=r"only one class \(cat\); at least two"):
        open_source(tmp_path / "only", labelled=True)
    with pytest.raises(SourceError, match=r"only one class \(a\)"):
        open_source(f"{table}?split=y", labelled=True)
    with pytest.raises(SourceError, match="only one class"):
        open_source(([np.zeros((2, 2, 3), np.uint8)], ["a"]), labelled=True)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_encoded_bytes_are_one_image(noise, kind):
    buffer = io.BytesIO()
    Image.fromarray(noise(4, 5, 3)).save(buffer, "PNG")
    (record,) = open_source(kind(buffer.getvalue()), labelled=False)
    assert decode(record.payload).size == (5, 4)


def test_images_in_memory(noise, tree):
    batch = noise(3, 4, 5, 3)
    for images in (batch, list(batch), tuple(batch), [Image.fromarray(image) for image in batch]):
        source = open_source(images, labelled=False)
        assert isinstance(source, ImageList)
        assert [record.id for record in source] == ["array#0", "array#1", "array#2"]
        with pytest.raises(SourceError, match=r"pass \(images, labels\)"):
            open_source(images, labelled=True)
    paths = [tree / "cat/0.png", str(tree / "owl/0.png")]
    assert [record.id for record in open_source(paths, labelled=False)] == [str(path) for path in paths]


@pytest.mark.parametrize("make", [lambda a: a, lambda a: a[..., 0], Image.fromarray])
def test_one_image(noise, make):
    (record,) = open_source(make(noise(4, 5, 3)), labelled=False)
    assert decode(record.payload).size == (5, 4)


def test_images_with_labels(noise):
    batch = noise(3, 4, 5, 3)
    for images in (batch, list(batch), tuple(batch)):
        source = open_source((images, ["b", "a", "b"]), labelled=True)
        assert source.classes == ("a", "b")
        assert [record.label for record in source] == ["b", "a", "b"]
        unlabelled = open_source((images, ["b", "a", "b"]), labelled=False)
        assert unlabelled.classes is None
        assert len(unlabelled) == 3


def test_two_images_in_a_tuple_are_two_images(noise, tree):
    two = (noise(4, 5, 3), noise(4, 5, 3))
    assert len(open_source(two, labelled=False)) == 2
    assert len(open_source((tree / "cat/0.png", str(tree / "cat/1.png")), labelled=False)) == 2


def test_a_data_set():
    class Pairs:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Image.new("L", (2, 2)), index

    source = open_source(Pairs(), labelled=True)
    assert isinstance(source, DatasetImages)
    assert source.classes == ("0", "1")


@pytest.mark.parametrize("data", [None, 3, {"a": 1}, object(), iter([1])])
def test_what_is_no_source(data):
    with pytest.raises(SourceError, match="is no source of images; pass a folder"):
        open_source(data, labelled=False)


def test_a_source_is_returned_as_it_is(tree):
    for source in (FlatFolder(tree), ClassFolder(tree), PathList(["a.png"]), Records([])):
        assert isinstance(source, Source)
        assert open_source(source, labelled=False) is source
    with pytest.raises(SourceError, match="labels are needed, and this source has none"):
        open_source(FlatFolder(tree), labelled=True)
    assert not isinstance([], Source)


def test_records_are_split_by_number(tree):
    records = load(ClassFolder(tree))
    assert records.classes == ("cat", "owl")
    assert len(records) == 3
    assert records[2].id == "owl/0.png"
    part = records.subset(np.array([2, 0]))
    assert isinstance(part, Source)
    assert [record.id for record in part] == ["owl/0.png", "cat/0.png"]
    assert part.classes == ("cat", "owl")
    assert isinstance(records[1:], Records)
    assert [record.id for record in records[1:]] == ["cat/1.png", "owl/0.png"]


def test_loading_tells_what_was_left_out(tree):
    (tree / "cat" / "notes.txt").touch()
    assert load(ClassFolder(tree)).skipped == 1


def test_a_record_is_frozen():
    with pytest.raises(AttributeError):
        Record("a", b"").id = "b"


def test_relative_paths_and_trailing_slashes(tree, monkeypatch):
    monkeypatch.chdir(tree)
    for place in (".", "./", f"{tree}{os.sep}"):
        assert [record.id for record in open_source(place, labelled=False)] == [
            "cat/0.png",
            "cat/1.png",
            "owl/0.png",
        ]


def test_every_public_name_is_there():
    for name in normgate.data.__all__:
        assert getattr(normgate.data, name) is not None
    assert callable(normgate.data.demo_set)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        normgate.data.nothing  # noqa: B018 (the access is the test)


def test_folders_are_opened_without_torch_pyarrow_or_fsspec(tree):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'pyarrow', 'fsspec')));"
        "from normgate.data import open_source; print(len(open_source(sys.argv[1], labelled=True)))"
    )
    done = subprocess.run([sys.executable, "-c", code, tree], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


@pytest.mark.parametrize("labelled", [False, True])
def test_tensors_may_have_been_prepared(labelled):
    for tensor in (torch.zeros(2, 3, 8, 8), (torch.zeros(2, 3, 8, 8), [0, 1])):
        with pytest.raises(SourceError, match=r"pass uint8 arrays .* images.permute\(0, 2, 3, 1\).numpy\(\)"):
            open_source(tensor, labelled=labelled)


def test_grey_images_with_labels(noise):
    images = noise(4, 8, 8)
    for labels in ([0, 1, 0, 1], np.array([0, 1, 0, 1]), ("a", "b", "a", "b"), torch.tensor([0, 1, 0, 1])):
        records = load(open_source((images, labels), labelled=True))
        assert len(records) == 4
        assert decode(records[1].payload).convert("L").tobytes() == images[1].tobytes()
    for other in (noise(8, 8, 3), noise(8, 8), Image.fromarray(noise(8, 8, 3))):
        assert len(load(open_source((noise(9, 8, 3), other), labelled=False))) == 2
