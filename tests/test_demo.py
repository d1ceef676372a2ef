"""One real run of the demo, from the built wheel, outside the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from normgate import Gate
from normgate.demo import demo
from normgate.files import OutputError


def test_figures(demo_run: tuple[Path, dict[str, Any]]) -> None:
    _, figures = demo_run
    assert figures["accuracy"] >= 0.985
    for by_set in figures["auroc"].values():
        assert set(by_set) == {"near", "far-satellite", "far-waste"}
        assert all(0 <= value <= 1 for value in by_set.values())
    alarms = figures["false_alarm_rate"]
    assert 0.04 < alarms["promised"] <= 0.05
    assert alarms["band"][0] <= alarms["realised"] <= alarms["band"][1]
    assert figures["seconds"] > 0


def test_files(demo_run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = demo_run
    assert {path.name for path in folder.iterdir()} == {
        "gate",
        "incoming",
        "verdicts.parquet",
        "report.html",
        "demo.json",
    }
    rows = pq.read_table(folder / "verdicts.parquet").to_pylist()
    files = {path.relative_to(folder / "incoming").as_posix() for path in (folder / "incoming").rglob("*.webp")}
    assert {row["id"] for row in rows} == files
    assert [row["id"] for row in rows if row["error"]] == ["broken.webp"]
    verdicts = Gate.load(folder / "gate")(folder / "incoming")
    for row, verdict in zip(rows, verdicts, strict=True):
        if not row["error"]:
            assert row["label"] == verdict.label
            assert row["score"] == pytest.approx(verdict.score, rel=1e-4)


def test_a_file_that_somebody_put_into_an_earlier_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "mine.png").touch()
    (tmp_path / "demo.json").write_text(json.dumps({"files": ["incoming/known/000.webp"]}))
    with pytest.raises(OutputError, match=r"holds incoming/mine\.png, which is not of an earlier output"):
        demo(tmp_path)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError, match="is no earlier demo"):
        demo(tmp_path / "mine")
