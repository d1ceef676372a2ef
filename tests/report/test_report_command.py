"""`--report`, `--figures` and `--with-neighbours` on the command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import normgate
from normgate import Recipe, cli

SMALL = {"width": 2, "model_args": {"layers": [1, 1, 1, 1]}, "false_alarm_rate": 0.2, "score": "norm"}


@pytest.fixture
def gate(class_folders: Path, tmp_path: Path) -> Path:
    normgate.train(class_folders, tmp_path / "gate", recipe=Recipe(epochs=1, batch_size=8), **SMALL)
    return tmp_path / "gate"


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def test_evaluate(gate: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--id", class_folders, "--ood", f"cats={class_folders / 'cat'}"]
    page, figures = tmp_path / "r.html", tmp_path / "figures"
    near = ["--with-neighbours", class_folders]
    assert run("evaluate", gate, *data, "--report", page, *near, "--figures", figures) == 0
    printed = capsys.readouterr().out
    assert f"written: {page}" in printed
    assert f"written: {figures}" in printed
    assert "training image cat/" in page.read_text(encoding="utf-8")
    assert (figures / "roc.pdf").read_bytes().startswith(b"%PDF")
    assert run("evaluate", gate, *data, "--report", page, "--figures", figures) == 2
    assert run("evaluate", gate, *data, "--report", page, "--figures", figures, "--overwrite", "--json") == 0
    assert json.loads(capsys.readouterr().out)["gate_score"] == "norm"
    assert "training image cat/" not in page.read_text(encoding="utf-8")


def test_screen(gate: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (class_folders / "cat" / "broken.png").write_bytes(b"no image")
    out, page = tmp_path / "v.parquet", tmp_path / "r.html"
    assert run("screen", gate, class_folders, "-o", out, "--report", page, "--move-rejected", tmp_path / "away") == 1
    text = page.read_text(encoding="utf-8")
    assert "cannot be read any more" not in text  # it was written before they were moved
    assert "broken.png" in text
    paths = "\n".join(map(str, sorted(class_folders.rglob("0?.png"))))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(paths.encode())))
    assert run("screen", gate, "-", "-o", tmp_path / "w.parquet", "--report", tmp_path / "s.html") == 0
    assert "cannot be read any more" not in (tmp_path / "s.html").read_text(encoding="utf-8")


def test_what_cannot_be_is_said_before_anything_is_read(
    gate: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = ["--id", class_folders], tmp_path / "v.parquet"
    (tmp_path / "file").write_text("mine")
    for said, arguments in {
        "name it r.html": ["evaluate", gate, *data, "--report", tmp_path / "r.pdf"],
        "are of one gate": ["evaluate", gate, gate, *data, "--report", tmp_path / "r.html"],
        "--report PAGE": ["evaluate", gate, *data, "--with-neighbours", class_folders],
        "is a file": ["evaluate", gate, *data, "--report", tmp_path / "file" / "r.html"],
        "say where to write the verdicts": [
            "screen",
            gate,
            class_folders / "cat" / "00.png",
            "--report",
            tmp_path / "r.html",
        ],
        "name it s.html": ["screen", gate, class_folders, "-o", out, "--report", tmp_path / "s.txt"],
    }.items():
        assert run(*arguments) == 2
        assert said in capsys.readouterr().err
    assert not out.exists()
    other = tmp_path / "other"
    other.mkdir()
    (class_folders / "cat" / "00.png").rename(other / "00.png")
    assert (
        run("screen", gate, class_folders, "-o", out, "--report", tmp_path / "r.html", "--with-neighbours", other) == 2
    )
    assert "that the gate was trained on" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_results_are_kept_where_a_report_fails_and_missing_libraries_are_named(
    gate: Path,
    class_folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = ["--id", class_folders, "--ood", f"cats={class_folders / 'cat'}"]
    (class_folders.parent / "other").mkdir()
    (class_folders / "cat" / "00.png").rename(class_folders.parent / "other" / "00.png")
    near = ["--report", tmp_path / "r.html", "--with-neighbours", class_folders.parent / "other"]
    assert run("evaluate", gate, *data, *near, "-o", tmp_path / "r.json") == 2
    assert "that the gate was trained on" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()  # it was said before anything was evaluated

    def fail(*_: object, **__: object) -> None:
        raise normgate.NormgateError("no room")

    monkeypatch.setattr("normgate.report.writing._write", fail)
    assert run("evaluate", gate, *data, "--report", tmp_path / "r.html", "-o", tmp_path / "r.json") == 2
    assert json.loads((tmp_path / "r.json").read_text())["gate_score"] == "norm"
    monkeypatch.setattr("normgate.report.checks.NEEDED", ("altair", "a_library_that_is_not_there"))
    capsys.readouterr()
    for arguments in (
        ["evaluate", gate, *data, "--figures", tmp_path / "f"],
        ["evaluate", gate, *data, "--report", tmp_path / "r.html"],
        ["figure", "probes", gate, "-o", tmp_path / "p.svg"],
    ):
        assert run(*arguments) == 2
        assert "need a_library_that_is_not_there: pip install 'normgate[report]'" in capsys.readouterr().err


def test_a_name_that_is_not_utf8_loses_nothing(gate: Path, class_folders: Path, tmp_path: Path) -> None:
    data = ["--id", class_folders, "--ood", f"caf\udce9={class_folders / 'cat'}", "--score", "norm"]
    for name in ("r.json", "r.csv", "r.md"):
        assert run("evaluate", gate, *data, "-o", tmp_path / name, "--report", tmp_path / f"{name}.html") == 0
        assert b"caf\\udce9" in (tmp_path / name).read_bytes()


def test_without_the_chart_library_it_is_named(gate: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['altair'] = None; from normgate.cli import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "figure", "norms-by-class", gate, "-o", tmp_path / "n.svg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'normgate[report]'" in done.stderr


def test_without_the_chart_library_the_checks_can_be_imported() -> None:
    code = (
        "import sys; sys.modules['altair'] = None; import normgate.report.checks, normgate.report as r; r.check_figures"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
