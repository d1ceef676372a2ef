"""Scores of other detectors, from arrays and from tables of images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import normgate
from normgate import cli, metrics
from normgate.errors import NormgateWarning
from normgate.evaluation import EvaluationError, against, evaluate_features, evaluate_scores, read_image_scores
from samples import random_features


def found_of() -> normgate.evaluation.Evaluation:
    features = {name: random_features(60, seed) for seed, name in enumerate(("id", "near", "far"))}
    return evaluate_features(None, features, scores=["msp", "energy"], groups={"both": ["near", "far"]})


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def write(path: Path, **columns: Any) -> Path:
    """A table of two known images and two unknown ones."""
    table = {"set": ["id", "id", "near", "near"], "id": ["a", "b", "a", "c"], **columns}
    pq.write_table(pa.table({name: column for name, column in table.items() if column is not None}), path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_was_written_is_evaluated_to_the_same_figures(tmp_path: Path, suffix: str) -> None:
    found = found_of()
    found.save_images(tmp_path / f"images{suffix}")
    again = evaluate_scores(read_image_scores(tmp_path / f"images{suffix}"), groups=found.groups)
    assert (again.metrics, again.means, again.aurc_wrong) == (found.metrics, found.means, found.aurc_wrong)
    assert (again.accuracy, again.images, again.ids, again.risks) == (
        found.accuracy,
        found.images,
        found.ids,
        found.risks,
    )
    assert again.compare("msp", "energy") == found.compare("msp", "energy")
    assert again.gate_score is None
    assert again.errors == ()


def test_arrays_of_any_detector_have_every_figure() -> None:
    rng = np.random.default_rng(0)
    values = {name: {"id": rng.normal(1, 1, 50), "near": rng.normal(0, 1, 30)} for name in ("mine", "theirs")}
    wrong = rng.random(50) < 0.3
    found = evaluate_scores(values, wrong=wrong)
    ours = metrics.ood_metrics(values["mine"]["id"], values["mine"]["near"])
    assert vars(ours).items() <= vars(found.metrics["mine"]["near"]).items()
    assert found.accuracy == 1 - wrong.mean()
    assert found.compare("mine", "theirs").sets["near"] == metrics.paired_auroc_difference(
        *values["mine"].values(), *values["theirs"].values()
    )
    assert "mine" in found.table()


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ({}, {}, "holds no score"),
        ([1, 2], {}, "by score and set"),
        ({"a": [1, 2]}, {}, "by score and set"),
        ({"a": {"near": [1]}}, {}, "wanted under 'id'; there are only: near"),
        ({"a": {"id": [1], "": [1]}}, {}, "no name of a set"),
        ({"a": {"id": [1]}, "b": {"id": [1, 2]}}, {}, "a is of 1 images of id, and b of 2 images of id"),
        ({"a": {"id": [1], "x": [1]}}, {"wrong": [0]}, "True or False"),
        ({"a": {"id": [1], "x": [1]}}, {"wrong": [True, False]}, "True or False"),
        ({"a": {"id": [1], "x": [1]}}, {"wrong": [[True], [True, False]]}, "wrong is no array"),
        ({"a": {"id": [1], "x": [1]}}, {"ids": {"id": ["a", "b"]}}, "names 2 images of id"),
        ({"a": {"id": [1], "x": [1]}}, {"ids": {"y": ["a"]}}, "names the set 'y'; the sets are: id, x"),
        ({"a": {"id": [1], "x": [1]}}, {"ids": ["a"]}, "by set, and is no list"),
        ({"a": {"id": [1], "x": [1]}}, {"ids": {"id": None}}, "names by set: "),
        ({"set": {"id": [1], "x": [1]}}, {}, "'set' is no name for a score"),
        ({1: {"id": [1], "x": [1]}}, {}, "1 is no name for a score"),
        ({"a": {"id": [1], "x": [1]}}, {"groups": {"far": ["y"]}}, "names y; a group is a list of: x"),
    ],
)
def test_arrays_that_make_no_evaluation(values: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(normgate.NormgateError, match=said):
        evaluate_scores(values, **options)
    with pytest.raises(metrics.MetricError, match="a of id has 1 NaN"):
        evaluate_scores({"a": {"id": [1.0, np.nan], "x": [0.0]}})


@pytest.mark.filterwarnings("ignore:.*does not say on which images")
def test_tables_are_joined_by_set_and_image_whatever_the_order(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.parquet", knn=[4.0, 3.0, 2.0, 1.0], wrong=[False, True, None, None])
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("id,set,knn,odin\nc,near,1.5,1.5\na,near,2.5,2.5\nb,id,3.5,3.5\na,id,4.5,4.5\n")
    found = read_image_scores([mine, theirs], scores=["mine:knn", "theirs:knn", "odin"])
    assert found.values["mine:knn"]["id"].tolist() == [4, 3]
    assert found.values["theirs:knn"]["id"].tolist() == [4.5, 3.5]
    assert found.values["odin"]["near"].tolist() == [2.5, 1.5]
    assert found.ids == {"id": ("a", "b"), "near": ("a", "c")}
    assert found.wrong is not None
    assert found.wrong.tolist() == [False, True]
    turned = read_image_scores([mine, theirs], negate=["odin"])
    assert turned.values["odin"]["near"].tolist() == [-2.5, -1.5]


def test_images_that_one_table_lacks_or_has_no_number_of_are_listed(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.parquet", a=[4.0, 3.0, None, 1.0])
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("set,id,b\nid,a,0.5\nnear,a,0.5\nnear,c,0.5\nnear,d,0.5\n")
    found = evaluate_scores(read_image_scores([mine, theirs]))
    assert found.images == {"id": 1, "near": 1}
    assert sorted(found.errors) == [
        ("id", "b", f"is not in {theirs}"),
        ("near", "a", f"a is no number in {mine}"),
        ("near", "d", f"is not in {mine}"),
    ]
    with pytest.raises(EvaluationError, match=r"the tables say wrong= and ids= themselves"):
        evaluate_scores(read_image_scores([mine, theirs]), wrong=[False])
    theirs.write_text("set,id,b\nid,a,0.5\nfar,a,0.5\n")
    with pytest.warns(NormgateWarning, match=r"left out: near \(not in .*theirs.csv\), far \(not in .*mine.parquet\)"):
        assert list(read_image_scores([mine, theirs]).ids) == ["id"]
    theirs.write_text("set,id,b\nid,a,0.5\nnear,x,0.5\nfar,a,0.5\n")
    with (
        pytest.warns(NormgateWarning, match="far"),
        pytest.raises(
            EvaluationError, match=r"in every table; write its names alike, which are such as 'a' .* and 'x'"
        ),
    ):
        read_image_scores([mine, theirs])
    aside = read_image_scores([mine, theirs], scores="a")  # of which alone a score is taken
    assert [(name, own) for name, own, _ in aside.errors] == [("near", "a")]


def test_networks_that_err_on_other_images_have_no_figures_of_errors(tmp_path: Path) -> None:
    one, two = (
        write(tmp_path / f"{name}.parquet", a=[0.4, 0.3, 0.2, 0.1], wrong=wrong)
        for name, wrong in (("one", [False, True, None, None]), ("two", [False, False, None, None]))
    )
    with pytest.warns(NormgateWarning, match="err on different images"):
        assert read_image_scores([one, two]).wrong is None
    unlabelled = write(tmp_path / "three.parquet", b=[0.4, 0.3, 0.2, 0.1], wrong=pa.nulls(4, pa.bool_()))
    with pytest.warns(NormgateWarning, match=r"three.parquet does not say on which images its network errs"):
        wrong = read_image_scores([one, unlabelled]).wrong
    assert wrong is not None
    assert wrong.tolist() == [False, True]
    write(one, a=[0.4, 0.3, 0.2, 0.1], wrong=[False, None, None, None])
    with pytest.raises(EvaluationError, match="is empty for 1 known images"):
        read_image_scores(one)


def test_names_are_texts_and_whole_numbers_no_scores(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("set,id,label,msp,path\nid,007,3,0.5,x\nid,7,2,0.25,y\nnear,08,1,1.0,z\n")
    with pytest.warns(NormgateWarning, match=r"are left out: label, path$"):
        found = read_image_scores(table)
    assert found.ids == {"id": ("007", "7"), "near": ("08",)}
    assert list(found.values) == ["msp"]
    assert list(read_image_scores(table, scores=["label"]).values) == ["label"]
    numbered = write(tmp_path / "numbered.parquet", id=[1, 2, 1, 2], a=[0.1, 0.2, 0.3, 0.4])
    assert read_image_scores(numbered).ids["near"] == ("1", "2")
    unnamed = write(tmp_path / "unnamed.parquet", id=None, a=[0.1, 0.2, 0.3, 0.4])
    assert read_image_scores(unnamed).ids == {"id": ("0", "1"), "near": ("2", "3")}


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"set": None, "a": [0.1, 0.2, 0.3, 0.4]}, {}, "no column 'set'"),
        ({"set": ["id", None, "x", "x"], "a": [0.1, 0.2, 0.3, 0.4]}, {}, "does not say the set of its image number 2"),
        ({"id": [0.5, 1, 2, 3], "a": [0.1, 0.2, 0.3, 0.4]}, {}, "holds double, and not names"),
        ({}, {}, "beside set, id, wrong the tables hold no numbers"),
        ({"a": ["x", "y", "z", "w"]}, {"scores": "a"}, "a holds no numbers"),
        ({"a": ["1_2", "1_3", "1_4", "1_5"]}, {"scores": "a"}, "a holds no numbers"),
        ({"a": [2**53 + 1, 2**53, 1, 0]}, {"scores": "a"}, r"beyond 2\*\*53, which would tie"),
        ({"a": [0.1, 0.2, None, None]}, {}, "no image of near is left: a is no number .* leave that score out"),
        ({"a": [0.1] * 4, "wrong": [0, -1, None, None]}, {}, "wrong of .* not -1"),
        ({"a": [0.1] * 4, "wrong": [[1], [0], None, None]}, {}, "wrong of .* is true or false"),
        ({"a": [0.1] * 4, "wrong": [0.0, np.nan, np.nan, np.nan]}, {}, "is empty for 1 known images"),
        ({"a ": [0.1] * 4}, {}, "blanks around the name of column 'a '"),
        ({"label": [1, 2, 3, 4]}, {}, "whole numbers alone; name those that are scores: label"),
        ({"a": [0.1, 0.2, 0.3, 0.4]}, {"known": "test"}, "no set 'test' of known images .* its sets are: id, near"),
        ({"a": [0.1, 0.2, 0.3, 0.4]}, {"known": "near"}, "rename the set 'id'"),
        ({"a": [0.1, 0.2, 0.3, 0.4]}, {"scores": ["b"]}, "no score b; the tables have: a"),
        ({"a": [0.1, 0.2, 0.3, 0.4]}, {"negate": ["b"]}, "no score b; the tables have: a"),
        ({"a": [0.1] * 4, "b": [0.1] * 4}, {"scores": ["b"], "negate": ["a"]}, "a is to be negated, and no score"),
        ({"a": [0.1] * 4, "wrong": ["x", "y", "z", "w"]}, {}, "wrong of .* is true or false"),
    ],
)
def test_tables_that_hold_no_scores_of_images(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "t.parquet", **columns)
    with pytest.raises(EvaluationError, match=said):
        read_image_scores(path, **options)


def test_places_that_are_no_tables(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", a=[0.1, 0.2, 0.3, 0.4])
    twice = write(tmp_path / "twice.parquet", id=["a", "a", "b", "c"], a=[0.1, 0.2, 0.3, 0.4])
    bad, repeated, semicolons = (tmp_path / name for name in ("bad.parquet", "repeated.csv", "semicolons.csv"))
    semicolons.write_text("set;id;a\nid;a;0,5\n")
    latin = tmp_path / "latin.csv"
    latin.write_bytes("set,id,Schärfe\nid,a,0.5\n".encode("latin-1"))
    bad.write_text("no parquet")
    repeated.write_text("set,a,a\nid,0.5,0.5\n")
    for places, said in (
        ([], "no table to read"),
        (tmp_path / "none.csv", "there is no table"),
        (tmp_path, "is a folder"),
        (tmp_path / "t.txt", r"\.parquet or \.csv"),
        (bad, "cannot be read"),
        (repeated, "several columns 'a'"),
        (semicolons, "wanted between commas"),
        ([table, table], "named twice"),
        (twice, "several rows of the image a of id"),
        (3, "names files, and scores="),
        (latin, "write it in UTF-8"),
    ):
        with pytest.raises(EvaluationError, match=said):
            read_image_scores(places)


def test_the_command_compares_detectors_without_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = found_of()
    found.save_images(tmp_path / "mine.parquet")
    rows = zip(
        np.repeat(["id", "near", "far"], 60), (i for ids in found.ids.values() for i in ids), range(180), strict=True
    )
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("set,id,odin\n" + "".join(f"{name},{image},{number}.5\n" for name, image, number in rows))
    tables = [tmp_path / "mine.parquet", theirs]
    out = tmp_path / "r.json"
    assert run("compare", *tables, "--group", "far=far", "--against", "energy", "-o", out) == 0
    captured = capsys.readouterr()
    assert "AUROC in points, less that of energy" in captured.out
    assert "odin: larger on unknown images of every set" in " ".join(captured.err.split())
    assert "--negate odin" in captured.err
    written = json.loads(out.read_text())
    assert written["metrics"]["msp"]["far"]["auroc"] == found.metrics["msp"]["far"].auroc
    assert written["metrics"]["odin"]["near"]["auroc"] == 0
    assert written["against"]["score"] == "energy"
    assert {part["a"] for part in written["against"]["comparisons"]} == {"msp", "odin"}
    for suffix, said in ((".md", "## Comparison"), (".tex", "less that of energy")):
        assert run("compare", *tables, "--negate", "odin", "--against", "energy", "-o", out.with_suffix(suffix)) == 0
        assert said in out.with_suffix(suffix).read_text()
    assert run("compare", *tables, "--against", "energy", "-o", out.with_suffix(".csv"), "--json") == 0
    captured = capsys.readouterr()
    assert "r.csv has no room" in " ".join(captured.err.split())
    assert json.loads(captured.out[captured.out.rindex('{\n "gate_score"') :])["against"]["score"] == "energy"
    assert run("compare", *tables, "--against", "nix") == 2
    assert "no score nix to compare with; the tables have: msp, energy, odin" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run("compare", *tables, "--score", "odin", "--against", "energy", "--negate", "odin") == 0
    assert "AUROC in points, less that of energy" in capsys.readouterr().out
    assert run("compare", *tables, "-o", theirs, "--overwrite") == 2
    assert "is one of the tables" in " ".join(capsys.readouterr().err.split())
    theirs.write_text("set,id,odin\nid,0,0.5\n")
    assert run("compare", theirs) == 2
    assert "no other set than id" in capsys.readouterr().err


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    found_of().save_images(tmp_path / "t.csv")
    code = f"import sys; from normgate import cli; assert not cli.run(['compare', {str(tmp_path / 't.csv')!r}])"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_command_says_which_images_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "t.parquet", a=[4.0, 3.0, None, 1.0], b=[1.0, 2.0, 3.0, 4.0])
    assert run("compare", table, "--score", "a") == cli.DATA_FAILED
    assert f"near: a: a is no number in {table}" in " ".join(capsys.readouterr().err.split())
    assert run("compare", table, "--score", "b", "--against", "b") == cli.USAGE
    assert "no other score than b" in capsys.readouterr().err
    assert run("compare", table, "--score", "a", "-o", tmp_path / "r.md") == cli.DATA_FAILED
    assert f"- left out: 1 image, such as a of near: a is no number in {table}" in (tmp_path / "r.md").read_text()


def test_tables_as_others_write_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b"\xef\xbb\xbf,set,id,odin,wrong\r\n0,id,a,0.5,False\r\n1,id,b,-,True\r\n2,id,c,0.25,True\r\n3,far,a,-inf,\r\n"
    )
    found = read_image_scores(path)
    assert found.errors == (("id", "b", f"odin is no number in {path}"),)
    assert found.wrong is not None
    assert found.wrong.tolist() == [False, True]
    assert found.values["odin"]["far"].tolist() == [-np.inf]
    odd = tmp_path / os.fsdecode(b"\xff.parquet")
    write(path.with_suffix(".parquet"), a=pa.array([0.5, 1.5, 2.5, 3.5], pa.float16()), __index_level_0__=[0, 1, 2, 3])
    path.with_suffix(".parquet").rename(odd)
    found = read_image_scores(odd)
    assert found.values["a"]["near"].tolist() == [2.5, 3.5]
    evaluate_scores(found).save_images(odd, overwrite=True)
    assert read_image_scores(odd).ids == found.ids


def test_one_cell_changes_neither_the_kind_of_a_column_nor_the_figures(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("set,id,pred,,odin,wrong\nid,a,3,0.5,2.0,true\nid,b,-,0.5,1.0,0\nnear,a,1,0.5,0.0,\n")
    with pytest.warns(NormgateWarning, match=r"are left out: pred$"):
        found = read_image_scores(path)
    assert (list(found.values), found.errors) == (["(without a name)", "odin"], ())
    assert found.wrong is not None
    assert found.wrong.tolist() == [True, False]
    evaluate_scores(found).save_images(tmp_path / "again.csv")  # where 2.0 stays a fraction
    again = read_image_scores(tmp_path / "again.csv")
    assert again.values["odin"]["id"].tolist() == [2, 1]


def test_names_that_are_made_do_not_hide_others(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.parquet" for name in ("one", "two", "three"))
    for path in (one, two):
        write(path, knn=[0.4, 0.3, 0.2, 0.1])
    write(three, **{"one:knn": [0.4, 0.3, 0.2, 0.1]})
    with pytest.raises(EvaluationError, match=r"two columns are called one:knn; give that of .*three"):
        read_image_scores([one, two, three])
    link = tmp_path / "link.parquet"
    link.symlink_to(three)
    assert list(read_image_scores([one, link]).values) == ["knn", "one:knn"]
    write(one, mine=[0.4, 0.3, 0.2, 0.1])
    write(two, knn=[0.4, 0.3, 0.2, 0.1])
    write(three, wrong=[True, False, None, None], label=[3, 2, 1, 0])
    with pytest.warns(NormgateWarning, match="does not say on which images"):
        found = read_image_scores([one, two, three], scores=["mine", "knn"])
    assert found.wrong is not None
    assert found.wrong.tolist() == [True, False]


def test_tables_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / "run" / seed / "scores.parquet" for seed in ("s0", "s1")]
    for path in paths:
        path.parent.mkdir(parents=True)
        write(path, knn=[0.4, 0.3, 0.2, 0.1])
    found = evaluate_scores(read_image_scores(paths, negate=["s1/scores:knn"]))
    assert list(found.metrics) == ["s0/scores:knn", "s1/scores:knn"]
    assert found.origins["s1/scores:knn"] == {"table": str(paths[1]), "column": "knn", "negated": True}
    assert found.to_dict()["origins"] == found.origins


def test_other_gates_are_compared_by_names_where_contents_are_not_known(tmp_path: Path) -> None:
    found = found_of()
    found.save_images(tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    order = np.random.default_rng(0).permutation(len(table))
    pq.write_table(table.take(order), tmp_path / "t.parquet")
    again = evaluate_scores(read_image_scores(tmp_path / "t.parquet"), groups={"both": ["far", "near"]})
    assert again.ids["id"] != found.ids["id"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparisons = against(found, again)
    assert [difference.difference for part in comparisons for difference in part.sets.values()] == [0.0] * 4
    assert found.compare("msp", "energy", again).sets == found.compare("msp", "energy").sets
