"""`normgate evaluate`: what it prints, writes and keeps."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import normgate
from normgate import Gate, Recipe, cli, console, scores
from normgate.evaluation import Evaluation, EvaluationError, evaluate_features
from normgate.evaluation.words import summary_lines
from normgate.tables import print_evaluation
from samples import random_features


@pytest.fixture
def gates(class_folders: Path, tmp_path: Path) -> list[Path]:
    options = {"width": 2, "model_args": {"layers": [1, 1, 1, 1]}, "false_alarm_rate": 0.2, "score": "norm"}
    for seed in (0, 1):
        normgate.train(
            class_folders, tmp_path / f"s{seed}", recipe=Recipe(epochs=1, batch_size=8), seed=seed, **options
        )
    return [tmp_path / "s0", tmp_path / "s1"]


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def test_files_caches_groups_and_seeds(
    gates: list[Path],
    class_folders: Path,
    tmp_path: Path,
    cache_home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ["--id", class_folders, "--ood", f"cats={class_folders / 'cat'}", "--ood", f"owls={class_folders / 'owl'}"]
    data += ["--group", "near=cats", "--group", "far=cats, owls"]
    assert run("evaluate", gates[0], *data, "--no-cache", "-o", tmp_path / "r.json") == 0
    assert not cache_home.exists()
    capsys.readouterr()
    assert run("evaluate", gates[0], *data, "-o", tmp_path / "r.csv", "--json") == 0
    printed, written = json.loads(capsys.readouterr().out), json.loads((tmp_path / "r.json").read_text())
    assert printed["metrics"] == written["metrics"]
    assert set(printed["means"]["norm"]) == {"near", "far"}
    kept = len(list(cache_home.iterdir()))
    assert kept == 3
    limit = ["--cache", tmp_path / "small", "--cache-limit", "0"]
    assert run("evaluate", gates[0], *data, *limit, "--score", "all", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == written["metrics"]
    assert len(list((tmp_path / "small" / "normgate-features").iterdir())) == 1
    assert run("evaluate", gates[0], *data, "-o", tmp_path / "r.md", "--cache", tmp_path / "own") == 0
    assert len(list((tmp_path / "own" / "normgate-features").iterdir())) == kept
    out = capsys.readouterr().out
    assert "norm ◂ gate" in out
    assert "promised" in out
    assert "together weigh as much" in out
    assert "mean far" in (tmp_path / "r.md").read_text()
    assert run("evaluate", *gates, *data, "-o", tmp_path / "s.csv", "--score", "norm", "--score", "energy") == 0
    out = capsys.readouterr().out
    assert "2 gates" in out
    assert re.search(r"near −\s+far −\n.*gate\s+gate\n", out)
    assert "95 % interval over seeds leaves out 0" in " ".join(out.split())
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["score"] for row in rows} == {"norm", "energy"}
    assert all(float(row["min"]) <= float(row["mean"]) <= float(row["max"]) for row in rows)
    settings = ["--score", "knn", "--score", "knn:k=2", "--score", "react:quantile=0.5"]
    assert run("evaluate", gates[0], *data, *settings, "--per-image", tmp_path / "i.parquet", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["metrics"]) == ["knn", "knn:k=2", "react:quantile=0.5"]
    assert printed["gate"]["run"]["seed"] == 0
    assert pq.read_table(tmp_path / "i.parquet").column_names == ["set", "id", "wrong", *printed["metrics"], "norm"]
    assert run("calibrate", gates[0], "--score", "knn:k=2", "-o", tmp_path / "knn") == 0
    assert Gate.load(tmp_path / "knn").score.settings["k"] == 2
    capsys.readouterr()
    assert run("evaluate", *gates, *data, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["evaluations"]) == 2


def test_gates_against_others(
    gates: list[Path],
    class_folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = ["--id", class_folders, "--ood", f"cats={class_folders / 'cat'}", "--ood", f"owls={class_folders / 'owl'}"]
    data += ["--score", "norm", "--score", "energy"]
    assert run("calibrate", gates[1], "--score", "energy", "-o", tmp_path / "energy") == 0
    against = ["--against", tmp_path / "energy"]
    capsys.readouterr()
    assert run("evaluate", gates[0], *data, *against, "-o", tmp_path / "r.json") == 0
    out = capsys.readouterr().out
    assert f"AUROC in points, less that of {tmp_path / 'energy'}" in out
    assert "norm − energy ◂ gate" in out
    assert run("evaluate", gates[0], *data, *against, "--json", "-o", tmp_path / "r.csv") == 0
    written, printed = json.loads((tmp_path / "r.json").read_text()), json.loads(capsys.readouterr().out)
    assert written["against"] == printed["against"]
    assert printed["against"]["gates"] == [str(tmp_path / "energy")]
    own = printed["against"]["comparisons"][0]
    assert (own["a"], own["b"]) == ("norm", "energy")
    there = printed["metrics"]["norm"]["cats"]["auroc"] - own["sets"]["cats"]["difference"]
    assert run("evaluate", tmp_path / "energy", *data, "--json") == 0
    assert there == pytest.approx(json.loads(capsys.readouterr().out)["metrics"]["energy"]["cats"]["auroc"], abs=1e-12)
    seeds = [*gates, "--against", gates[0], "--against", gates[1]]
    assert run("evaluate", *seeds, *data) == 0
    out = capsys.readouterr().out
    assert "norm ◂ gate" in out
    assert "the 95 % interval over seeds" in " ".join(out.split())
    assert run("evaluate", gates[0], *data, *against, "-o", tmp_path / "s.csv") == 0
    assert "no room for what --against finds; a .json, .md or .tex has" in " ".join(capsys.readouterr().err.split())

    def apart(*_: object) -> None:
        raise EvaluationError("60 images of id in one evaluation and 59 in another")

    monkeypatch.setattr("normgate.evaluation.against", apart, raising=False)
    assert run("evaluate", gates[0], *data, *against, "-o", tmp_path / "kept.json") == 2
    captured = capsys.readouterr()
    assert "60 images of id in one evaluation and 59 in another" in captured.err
    assert "norm ◂ gate" in captured.out
    assert "against" not in json.loads((tmp_path / "kept.json").read_text())


def test_mistakes_name_the_fix_before_any_work(
    gates: list[Path], class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [gates[0], "--id", class_folders, "--ood", f"cats={class_folders / 'cat'}"]
    (tmp_path / "file").write_text("")
    pq.write_table(pa.table({"image": [(class_folders / "cat" / "00.png").read_bytes()]}), tmp_path / "t.parquet")
    for arguments, said in (
        (["-o", tmp_path / "r.xlsx"], ".json, .csv, .md or .tex"),
        (["-o", tmp_path / "file"], ".json, .csv, .md or .tex"),
        (["--per-image", tmp_path / "i.xlsx"], ".parquet or .csv"),
        ([gates[1], "--per-image", tmp_path / "i.csv"], "leave out --per-image"),
        (["--per-image", tmp_path / "r.csv", "-o", tmp_path / "r.csv"], "two outputs have the same name"),
        (["--figures", tmp_path / "f", "-o", tmp_path / "f" / "r.csv"], "would lie among the figures"),
        ([gates[1], "--against", gates[1]], "name 2 with --against, not 1"),
        (["--against", tmp_path / "nothing"], "nothing is no gate"),
        (["--score", "knn:5"], "knn:k=5"),
        (["--score", "knn,norm"], "repeat it: --score knn --score norm"),
        (["--score", "auto"], "'evaluate' compares those that it is given"),
        (["--score", "knn:n=5"], "knn has no setting 'n'; it has k"),
        (["--group", "far"], "NAME=SET,SET"),
        (["--group", "far=dogs"], "a list of: cats"),
        (["--ood", f"cats={class_folders / 'dog'}"], "given twice"),
        (["--cache", tmp_path / "file"], "--no-cache"),
        (["--cache-limit", "inf"], "--no-cache"),
        (["--cache", tmp_path / "c", "--no-cache"], "leave one out"),
        (["--score", "nrm"], "'norm'"),
        (["--label-column", "lable", "--id", tmp_path / "t.parquet"], "no column 'lable'"),
        (["--group", "far=cats,"], "names a set without a name"),
        (["--ood", f"a,b={class_folders / 'dog'}", "--group", "far=a,b"], "the set 'a,b' needs a name without one"),
        (["--ood", f"mean={class_folders / 'dog'}"], "'mean' is the name of a mean"),
    ):
        assert run("evaluate", *data, *arguments) == 2
        assert said in capsys.readouterr().err
    assert run("evaluate", *data[:3], "--against", gates[1]) == 2
    assert "name these with --ood" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_to_costs_no_evaluation(
    gates: list[Path],
    class_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert run("evaluate", gates[0], "--id", class_folders, "--score", "norm") == 0
    said = capsys.readouterr()
    assert "features cannot be cached" in " ".join(said.err.split())
    assert "accuracy" in said.out


def crowded() -> Evaluation:
    """Thirty-five scores on five sets, one of them the gate's."""
    names = ["near", "far-satellite", "tinyimagenet-val-noclash", "textures", "places365"]
    features = {name: random_features(40, i) for i, name in enumerate(["id", *names])}
    found = evaluate_features(None, features, scores=["norm", "energy"])
    object.__setattr__(found, "gate_score", "norm")
    object.__setattr__(found, "refused", {"dice": "it is lean", "react": "it is lean", "norm_gain": "no stages"})
    for part in (found.metrics, found.means, found.values, found.aurc_wrong):
        part.update({f"relative_mahalanobis_{i}": part["energy"] for i in range(33)})
    return found


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "_width", width)
    print_evaluation(crowded())
    lines = capsys.readouterr().out.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if "the gate's score, in points" in line) - 1]
    assert max(map(len, table)) <= width
    assert sum("relative_mahalanobis_" in line for line in table) == 33
    assert "…" not in "\n".join(table)
    assert any(("–" in line) == (width == 160) for line in table if "norm ◂ gate" in line)
    assert "left out: dice, react: it is lean" in lines


@pytest.mark.parametrize("width", [80, 160])
def test_names_are_shown_as_they_are(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["id", "[/b]x", "[b]", ":cat:", "\x1b[31m"]
    features = {name: random_features(40, i) for i, name in enumerate(names)}
    gaussian = scores.create("norm")
    gaussian.name = "[/i]y"
    found = evaluate_features(None, features, scores=[gaussian, "energy"], groups={"[/u]z": names[1:3]})
    object.__setattr__(found, "gate_score", "[/i]y")
    monkeypatch.setattr(console.out, "_width", width)
    print_evaluation(found)
    out = capsys.readouterr().out
    assert all(name in out for name in ("[/b]x", "[b]", ":cat:", "[/i]y ◂ gate", "[/u]z"))
    assert "\x1b" not in out


def test_reasons_are_said_once() -> None:
    assert [line for line in summary_lines(crowded()) if line.startswith("left out")] == [
        "left out: dice, react: it is lean",
        "left out: norm_gain: no stages",
    ]
