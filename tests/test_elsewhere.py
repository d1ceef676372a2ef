"""The same images here, elsewhere and in tars: the same verdicts, features and reports."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from normgate import Gate, evaluate, screen
from normgate.carrying import CarryingError
from normgate.data.preprocessing import Preprocessing
from normgate.data.remote import RemoteFile
from normgate.report import screening_report
from samples import random_records, small_network


@pytest.fixture
def gate() -> Gate:
    return Gate.calibrate(
        small_network(),
        preprocessing=Preprocessing((8, 8)),
        calibration=random_records(40, 3),
        classes=["a", "b", "c"],
        false_alarm_rate=0.3,
    )


@pytest.fixture
def files() -> dict[str, bytes]:
    found = {}
    for i, record in enumerate(random_records(30, 4)):
        buffer = io.BytesIO()
        Image.fromarray(record.payload).save(buffer, "PNG")
        found[f"{'abc'[i // 10]}/{i:02d}.png"] = buffer.getvalue()
    return found | {"c/broken.png": b"no image"}


@pytest.fixture
def places(files: dict[str, bytes], tmp_path: Path, memory: Callable[[dict[str, bytes]], str]) -> dict[str, str]:
    shard = tmp_path / "x.tar"
    with tarfile.open(shard, "w") as file:
        for name, content in files.items():
            (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "here" / name).write_bytes(content)
            header = tarfile.TarInfo(name)
            header.size = len(content)
            file.addfile(header, io.BytesIO(content))
    elsewhere = memory(files)
    return {
        "here": f"{tmp_path}/here",
        "pattern": f"{tmp_path}/here/*/*.png",
        "elsewhere": elsewhere,
        "tar": str(shard),
    }


def test_verdicts(gate: Gate, places: dict[str, str], tmp_path: Path) -> None:
    tables = {}
    for name, place in places.items():
        summary = screen(gate, place, tmp_path / f"{name}.parquet", batch_size=7)
        assert (summary.images, summary.unreadable) == (31, 1)
        tables[name] = pq.read_table(tmp_path / f"{name}.parquet")
    for name, table in tables.items():
        prefix = "x.tar#" if name == "tar" else ""
        assert table["id"].to_pylist() == [prefix + image for image in tables["here"]["id"].to_pylist()]
        assert table.drop(["id"]).equals(tables["here"].drop(["id"]))


@pytest.mark.parametrize("name", ["elsewhere", "tar"])
def test_there_are_no_files_to_carry_off(gate: Gate, places: dict[str, str], tmp_path: Path, name: str) -> None:
    with pytest.raises(CarryingError, match="on this machine"):
        screen(gate, places[name], tmp_path / "v.parquet", rejected="move", rejected_to=tmp_path / "out")
    assert not (tmp_path / "v.parquet").exists()


def test_files_of_a_pattern_are_carried_off(gate: Gate, places: dict[str, str], tmp_path: Path) -> None:
    summary = screen(gate, places["pattern"], tmp_path / "v.parquet", rejected="copy", rejected_to=tmp_path / "out")
    carried = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png")]
    assert len(carried) == summary.rejected > 0
    assert all((tmp_path / "here" / path).exists() for path in carried)


def test_a_cached_evaluation_fetches_once_and_finds_what_was_read_here(
    gate: Gate, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches: list[str] = []
    true = RemoteFile.fetch
    monkeypatch.setattr(RemoteFile, "fetch", lambda file: fetches.append(file.path) or true(file))
    found = evaluate(gate, places["elsewhere"], {"u": random_records(9, 8)}, cache=tmp_path / "cache")
    assert len(fetches) == len(set(fetches)) == 31
    calls = len(list((tmp_path / "cache").rglob("*")))
    here = evaluate(gate, places["here"], {"u": random_records(9, 8)}, cache=tmp_path / "cache")
    assert here.metrics == found.metrics
    assert len(list((tmp_path / "cache").rglob("*"))) == calls  # nothing new had to be kept


@pytest.mark.parametrize("name", ["elsewhere", "tar"])
def test_a_report_shows_the_images(gate: Gate, places: dict[str, str], tmp_path: Path, name: str) -> None:
    pytest.importorskip("altair")
    summary = screen(gate, places[name], tmp_path / "v.parquet")
    screening_report(gate, tmp_path / "v.parquet", places[name], summary, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().count("data:image/webp") >= 16
