from __future__ import annotations

import io
import os
import shutil
import threading
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normgate.data.decoding import ImageError, decode
from normgate.data.fetching import FETCHES
from normgate.data.folders import ClassFolder, FlatFolder, PathList
from normgate.data.loading import load_batches
from normgate.data.parquet import ParquetImages
from normgate.data.preprocessing import Preprocessing
from normgate.data.shards import TarImages
from normgate.data.sources import NoLabelsError, SourceError, load, open_source

fsspec = pytest.importorskip("fsspec")


def ids(place, labelled: bool = False, **options) -> list[str]:
    return [record.id for record in open_source(place, labelled=labelled, **options)]


@pytest.fixture
def png(noise, encode):
    return encode(noise(4, 5, 3))


@pytest.fixture
def table(png):
    def make(rows: int = 2, **columns) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(pa.table({"image": [png] * rows, **columns}), buffer)
        return buffer.getvalue()

    return make


# Elsewhere


def test_folders_elsewhere(memory, png):
    names = ["cat/0.png", "cat/deep/1.jpg", "owl/0.png"]
    place = memory(
        dict.fromkeys(names, png) | {"cat/x.txt": b"", "loose.png": png, ".hidden/a.png": png, "owl/.b.png": b""}
    )
    flat = open_source(place, labelled=False)
    assert isinstance(flat, FlatFolder)
    for _ in range(2):
        assert [record.id for record in flat] == [*names[:2], "loose.png", names[2]]
    assert flat.skipped == 1
    labelled = open_source(place + "/", labelled=True)
    assert isinstance(labelled, ClassFolder)
    assert labelled.classes == ("cat", "owl")
    assert [(record.id, record.label) for record in labelled] == [(name, name[:3]) for name in names]
    assert labelled.skipped == 2
    assert all(decode(record.payload).size == (5, 4) for record in load(labelled))
    with pytest.raises(TypeError, match="as they come"):
        len(labelled)


def test_listing_downloads_nothing(memory, png, monkeypatch):
    place = memory({"a.png": png, "b.png": png})
    for name in ("cat_file", "open", "_open"):
        monkeypatch.setattr(fsspec.get_filesystem_class("memory"), name, None)
    source = open_source(place, labelled=False)
    assert [(record.id, record.payload.size) for record in source] == [("a.png", len(png)), ("b.png", len(png))]


def test_new_files_are_seen(memory, png):
    source = open_source(memory({"a.png": png}), labelled=False)
    assert [record.id for record in source] == ["a.png"]
    memory({"b.png": png})
    assert [record.id for record in source] == ["a.png", "b.png"]


def test_layouts_that_are_wrong_elsewhere(memory, png):
    place = memory({"a.txt": b"", "cat/x.txt": b"", "owl/a.png": png})
    with pytest.raises(
        NoLabelsError, match=r"memory:///root/owl holds no class folders; .*memory:///root/owl/<class>/"
    ):
        open_source(f"{place}/owl", labelled=True)
    with pytest.raises(SourceError, match="1 of the 2 class folders of memory:///root hold no image: cat"):
        open_source(place, labelled=True)
    with pytest.raises(SourceError, match="memory:///root/cat holds no image among its 1 files"):
        open_source(f"{place}/cat", labelled=False)
    with pytest.raises(SourceError, match="memory:///root/gone does not exist"):
        open_source(f"{place}/gone", labelled=False)


def test_single_files_elsewhere(memory, png, table):
    place = memory({"a.png": png, "photo": png, "x.parquet": table(label=["a", "b"])})
    for name in ("a.png", "photo"):
        (record,) = open_source(f"{place}/{name}", labelled=False)
        assert record.id == name
        assert decode(record.payload).size == (5, 4)
    source = open_source(f"{place}/x.parquet", labelled=True)
    assert isinstance(source, ParquetImages)
    assert [(record.id, record.label) for record in source] == [("x.parquet#0", "a"), ("x.parquet#1", "b")]
    assert ids(f"{place}/x.parquet?label=b") == ["x.parquet#1"]
    with pytest.raises(SourceError, match="selects rows of Parquet files"):
        open_source(f"{place}/a.png?split=x", labelled=False)


def test_a_folder_that_cannot_be_read_is_a_record(memory, png, monkeypatch):
    place = memory({"a.png": png, "locked/b.png": png, "z.png": png})
    kind = fsspec.get_filesystem_class("memory")
    true = kind.ls

    def guarded(self, path, *arguments, **options):
        if path.endswith("locked"):
            raise PermissionError("secret")
        return true(self, path, *arguments, **options)

    monkeypatch.setattr(kind, "ls", guarded)
    records = list(open_source(place, labelled=False))
    assert [record.id for record in records] == ["a.png", "locked", "z.png"]
    with pytest.raises(ImageError, match="memory:///root/locked cannot be read: access is denied"):
        decode(records[1].payload)


def test_tables_in_folders_elsewhere(memory, table):
    place = memory({"split=a/0.parquet": table(), "split=b%20c/0.parquet": table(), "readme.md": b""})
    assert ids(place) == [f"{folder}/0.parquet#{row}" for folder in ("split=a", "split=b%20c") for row in (0, 1)]
    assert ids(f"{place}?split=b%20c") == ["split=b%20c/0.parquet#0", "split=b%20c/0.parquet#1"]
    assert open_source(place, labelled=True, label_column="split").classes == ("a", "b c")
    with pytest.raises(SourceError, match="no row of memory:///root has split=x; split holds: a, b c"):
        open_source(f"{place}?split=x", labelled=False)
    with pytest.raises(SourceError, match=r"has no column 'none'; it has: image, split"):
        open_source(f"{place}?none=x", labelled=False)


def test_paths_in_a_table_elsewhere_stay_elsewhere(memory, png):
    buffer = io.BytesIO()
    rows = [{"bytes": None, "path": "a/x.png"}, {"bytes": None, "path": "/etc/passwd"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), buffer)
    place = memory({"t/x.parquet": buffer.getvalue(), "t/a/x.png": png})
    first, second = open_source(f"{place}/t/x.parquet", labelled=False)
    assert decode(first.payload).size == (5, 4)
    assert str(second.payload) == "memory:///root/t/etc/passwd"


def test_tars_elsewhere(memory, png, tar):
    path = tar("0.tar", {"0.png": png, "0.cls": b"a", "1.png": png, "1.cls": b"b"})
    place = memory({"0.tar": path.read_bytes(), "1.tar": path.read_bytes()[:1536]})
    assert isinstance(open_source(place, labelled=False), TarImages)
    assert ids(place) == ["0.tar#0.png", "0.tar#1.png", "1.tar#0.png", "1.tar"]
    assert ids(f"{place}/0.tar", labelled=True) == ["0.tar#0.png", "0.tar#1.png"]
    assert ids(f"{place}/{{0..2}}.tar")[-2:] == ["1.tar", "2.tar"]  # a shard that is missing is an error


def test_archives(tmp_path, png):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("b/1.png", "a/2.png", "a/x.txt"):
            archive.writestr(name, png)
    place = f"zip://::file://{tmp_path}/x.zip"
    source = open_source(place, labelled=True)
    assert [(record.id, record.label) for record in source] == [("a/2.png", "a"), ("b/1.png", "b")]
    assert all(decode(record.payload).size == (5, 4) for record in source)
    assert ids(f"zip://*/1.png::file://{tmp_path}/x.zip") == ["b/1.png"]


def test_lists_of_addresses(memory, png):
    place = memory({"a.png": png})
    given = [f"{place}/a.png", f"{place}/gone.png", "nonsense://x.png", "here.png"]
    for source in (open_source(given, labelled=False), PathList(given)):
        records = list(source)
        assert [record.id for record in records] == given
        assert decode(records[0].payload).size == (5, 4)
        for record in records[1:]:
            with pytest.raises(ImageError, match=r"cannot be|no kind of address"):
                decode(record.payload)


PARTS = st.text(st.sampled_from("ab .-/0é!%~["), min_size=1, max_size=6).filter(lambda s: s.strip("/"))


@given(st.lists(PARTS, max_size=12), st.sampled_from(["*.png", "**/*.png", "a*/**", "*/[ab]*/*.png", "**/ax.png"]))
@settings(max_examples=60, deadline=None)
def test_a_tree_elsewhere_is_listed_as_it_is_here(tmp_path_factory, parts, pattern):
    root = tmp_path_factory.mktemp("tree")
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    for part in parts:
        relative = "/".join(piece for piece in part.split("/") if piece.strip(".")) + "x.png"
        file = root / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        fs.pipe_file(f"/t/{relative}", b"")
    (root / "x.txt").touch()
    fs.pipe_file("/t/x.txt", b"")

    def outcome(place: str):
        try:
            source = open_source(place, labelled=False)
            return [record.id for record in source], source.skipped
        except SourceError as error:
            return str(error).partition(" ")[2]

    assert outcome("memory://t") == outcome(str(root))
    assert outcome(f"memory://t/{pattern}") == outcome(f"{root}/{pattern}")
    fs.store.clear()


# Patterns


def test_patterns_here(save, tmp_path):
    for name in ("2024-01/a.png", "2024-02/x/b.png", "2024-02/x/c.jpg", "2023/d.png", "2024-02/.e.png"):
        save(name)
    (tmp_path / "2024-02" / "notes.txt").touch()
    assert ids(f"{tmp_path}/2024-*/**/*.png") == ["2024-01/a.png", "2024-02/x/b.png"]
    assert ids(f"{tmp_path}/2024-02/**/*.png") == ["x/b.png"]
    assert ids(f"{tmp_path}/{{2023,2024-01}}/*.png") == ["2023/d.png", "2024-01/a.png"]
    source = open_source(f"{tmp_path}/2024-*/**", labelled=False)
    assert [record.id for record in source] == ["2024-01/a.png", "2024-02/x/b.png", "2024-02/x/c.jpg"]
    assert source.skipped == 1
    assert source.root == tmp_path
    assert len(source) == 3


def test_patterns_relative_to_where_one_is(save, tmp_path, monkeypatch):
    save("a.png")
    save("x/b.png")
    monkeypatch.chdir(tmp_path)
    assert ids("*.png") == ["a.png"]
    assert ids("**/*.png") == ["a.png", "x/b.png"]
    assert ids("x/*") == ["b.png"]
    assert ids("./*/*") == ["x/b.png"]


def test_labels_of_a_pattern_are_the_first_folders(save, tmp_path):
    for name in ("cat/good/0.png", "cat/bad/1.png", "owl/good/2.png", "rat/bad/3.png", "4.png"):
        save(name)
    source = open_source(f"{tmp_path}/*/good/*.png", labelled=True)
    assert source.classes == ("cat", "owl")
    assert [(record.id, record.label) for record in source] == [("cat/good/0.png", "cat"), ("owl/good/2.png", "owl")]
    with pytest.raises(NoLabelsError, match="holds no class folders"):
        open_source(f"{tmp_path}/cat/good/*.png", labelled=True)


@pytest.mark.parametrize("name", ["a[1].png", "what?.png", "a*.png", "{a,b}.png", "x{0..3}"])
def test_a_file_that_is_named_like_a_pattern(save, tmp_path, name):
    save(name)
    save("a1.png")
    assert ids(tmp_path / name) == [name]
    assert ids(f"file://{tmp_path}/{name}") == [name]


def test_a_file_elsewhere_that_is_named_like_a_pattern(memory, png):
    place = memory({"a[1].png": png, "a1.png": png})
    assert ids(f"{place}/a[1].png") == ["a[1].png"]
    assert ids(f"{place}/a[12].png") == ["a1.png"]


def test_patterns_of_tables_and_tars(tmp_path, table, tar, png):
    for i in range(3):
        (tmp_path / f"part-{i}.parquet").write_bytes(table(label=["a", "b"]))
        tar(f"t-00{i}.tar", {f"{i}.png": png})
    assert ids(f"{tmp_path}/part-[01].parquet") == [f"part-{i}.parquet#{row}" for i in (0, 1) for row in (0, 1)]
    assert ids(f"{tmp_path}/part-?.parquet?label=b") == [f"part-{i}.parquet#1" for i in range(3)]
    assert ids(f"{tmp_path}/t-{{000..002}}.tar") == [f"t-00{i}.tar#{i}.png" for i in range(3)]
    assert ids(f"{tmp_path}/t-*.tar") == ids(f"{tmp_path}/t-{{000..002}}.tar")
    source = open_source(f"{tmp_path}/part-*.parquet", labelled=True)
    assert isinstance(source, ParquetImages)
    assert source.root == tmp_path


def test_patterns_that_mean_several_kinds(save, tmp_path, table, tar, png):
    save("a.png")
    (tmp_path / "b.parquet").write_bytes(table())
    with pytest.raises(SourceError, match=r"/\* matches images and Parquet files; end it in the extension"):
        open_source(f"{tmp_path}/*", labelled=False)
    tar("c.tar", {"0.png": png})
    with pytest.raises(SourceError, match="matches images and tars"):
        open_source(f"{tmp_path}/{{a.png,c.tar}}", labelled=False)


def test_patterns_that_match_nothing(save, tmp_path):
    save("x/a.png")
    with pytest.raises(
        SourceError, match=r"\*\.jpg matches no image, Parquet file or tar; .*\*\* goes through folders"
    ):
        open_source(f"{tmp_path}/x/*.jpg", labelled=False)
    with pytest.raises(SourceError, match="gone is no folder"):
        open_source(f"{tmp_path}/gone/*.jpg", labelled=False)


def test_a_pattern_walks_only_where_it_leads(save, tmp_path, monkeypatch):
    save("a/x.png")
    save("b/y.png")
    scandir, seen = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: (seen.append(Path(path).name), scandir(path))[1])
    assert ids(f"{tmp_path}/a*/*.png") == ["a/x.png"]
    assert "b" not in seen


# The web


def test_images_of_the_web(web, png):
    web.files = {"p/a b.png": png, "p/sub/c.png": png, "p/x.txt": b"", "q/d.png": png, "0001": png}
    records = list(open_source(f"{web.address}/p/", labelled=False))
    assert [record.id for record in records] == ["a b.png", "sub/c.png"]
    assert all(decode(record.payload).size == (5, 4) for record in records)
    assert open_source(f"{web.address}/", labelled=True).classes == ("p", "q")
    (record,) = open_source(f"{web.address}/p/a%20b.png?token=secret", labelled=False)
    assert record.id == "a b.png"
    assert decode(record.payload).size == (5, 4)
    assert ids(f"{web.address}/p/*.png") == ["a b.png"]


def test_a_web_address_whose_name_says_nothing(web, png):
    web.files = {"p/0001": png}
    (record,) = open_source(f"{web.address}/p/0001", labelled=False)
    assert record.id == "0001"
    assert decode(record.payload).size == (5, 4)
    with pytest.raises(SourceError, match="/gone does not exist"):
        open_source(f"{web.address}/gone", labelled=False)


def test_tables_and_tars_of_the_web(web, table, tar, png):
    shard = tar("0.tar", {"0.png": png, "1.png": png}).read_bytes()
    web.files = {"x.parquet": table(), "s/0.tar": shard, "s/1.tar": shard[:1536]}
    web.files["big.tar"] = tar("big.tar", {f"{i}.png": png + bytes(200_000) for i in range(40)}).read_bytes()
    assert ids(f"{web.address}/s/{{0..2}}.tar") == ["0.tar#0.png", "0.tar#1.png", "1.tar#0.png", "1.tar", "2.tar"]
    assert len(ids(f"{web.address}/big.tar")) == 40
    web.cut.add("big.tar")
    broken = ids(f"{web.address}/big.tar")
    assert broken == [*(f"big.tar#{i}.png" for i in range(len(broken) - 1)), "big.tar"]
    assert len(broken) < 40
    web.ranges = True
    assert ids(f"{web.address}/x.parquet") == ["x.parquet#0", "x.parquet#1"]


def test_parquet_of_a_web_server_that_serves_whole_files_only(web, table):
    web.files["x.parquet"] = table() + bytes(6 * 2**20)
    with pytest.raises(SourceError, match=r"x\.parquet cannot be read as Parquet"):
        open_source(f"{web.address}/x.parquet", labelled=False)


def test_images_of_the_web_come_many_at_once(web, png):
    """The server answers none of them before all are asked for."""
    web.files = {f"{i:02d}.png": png for i in range(FETCHES)}
    web.gate = threading.Barrier(FETCHES)
    source = open_source(f"{web.address}/", labelled=False)
    batches = load_batches(source, Preprocessing((4, 4)), batch_size=FETCHES // 2, workers=2)
    assert [error for batch in batches for error in batch.errors] == [None] * FETCHES
    assert len([path for _, path in web.asked if path]) == FETCHES


# The local code


def test_a_pattern_and_a_folder_give_the_same_images(save, tmp_path):
    for name in ("a/0.png", "b/1.png"):
        save(name)
    assert ids(f"{tmp_path}/**") == ids(tmp_path) == ["a/0.png", "b/1.png"]
    shutil.rmtree(tmp_path / "a")
    assert ids(f"{tmp_path}/**") == ["b/1.png"]


def test_only_tables_have_columns_of_groups(tmp_path: Path, png: bytes) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png)
    with pytest.raises(SourceError, match="which alone have columns of groups"):
        open_source(tmp_path, labelled=True, group_column="person")
