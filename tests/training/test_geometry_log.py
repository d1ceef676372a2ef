"""The log of geometry: it says what features are after each epoch, and changes nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import normgate
from normgate import Gate, Recipe
from normgate.cli import DONE, USAGE, run
from normgate.collapse import collapse_log
from normgate.data.sources import load, open_source
from normgate.extractor import extract
from normgate.training import geometry_log
from normgate.training.geometry_log import sample

QUICK = Recipe(epochs=3, batch_size=8, learning_rate=0.05)
OPTIONS = {"width": 2, "model_args": {"layers": [1, 1, 1, 1]}, "false_alarm_rate": 0.2}


def test_training_is_the_same_with_it(class_folders: Path) -> None:
    plain = normgate.train(class_folders, recipe=QUICK, **OPTIONS)
    logged = normgate.train(class_folders, recipe=QUICK, log_geometry=True, **OPTIONS)
    one, other = (gate.extractor.model.state_dict() for gate in (plain, logged))
    assert all(torch.equal(one[key], other[key]) for key in one)
    rows = logged.provenance["log"]
    assert [row["loss"] for row in rows] == [row["loss"] for row in plain.provenance["log"]]
    images = load(open_source(class_folders, labelled=True))
    own = {record.id: record for record in images}
    seen = [own[name] for name in logged.kept["train"].ids]
    assert len(seen) == 48  # so few that all are measured
    features = extract(logged.extractor, seen, classes=logged.classes).features
    for name, value in collapse_log(features).items():
        assert rows[-1][name] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_as_many_images_of_each_class(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry_log, "SAMPLE", 10)
    images = load(open_source(class_folders, labelled=True))
    chosen = sample(images, ("cat", "dog", "owl"))
    labels = [record.label for record in chosen]
    assert {name: labels.count(name) for name in set(labels)} == {"cat": 4, "dog": 4, "owl": 4}


def test_with_and_without_normalisation_side_by_side(
    class_folders: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, tau in (("l2", 1.0), ("plain", None)):
        recipe = Recipe(epochs=3, batch_size=8, learning_rate=0.05, temperature=tau)
        normgate.train(class_folders, tmp_path / name, recipe=recipe, log_geometry=tau is not None, **OPTIONS)
    gates = [str(tmp_path / "l2"), str(tmp_path / "plain")]
    assert run(["figure", "collapse", *gates, "-o", str(tmp_path / "c.svg")]) == USAGE
    assert "train it with --log-geometry" in capfd.readouterr().err
    assert run(["figure", "collapse", gates[0], gates[0], "-o", str(tmp_path / "c.svg")]) == DONE
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
    for wrong in (
        ["collapse", gates[0], "-o", "c.png"],
        ["roc", gates[0], "-o", "c.svg"],
        ["probes", *gates, "-o", "c.svg"],
    ):
        assert run(["figure", *wrong]) == USAGE
    said = capfd.readouterr().err
    assert "name it c.svg" in said
    assert "choose from: collapse, probes, norms-by-class" in said
    assert "draw them one by one" in said
    assert Gate.load(gates[0]).provenance["log"][0]["nc1_u"] > 0


def test_the_file_has_the_columns_and_resume_wants_the_same(class_folders: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(task: str, done: int, total: int | None, /, **figures: float) -> None:
        if task == "training" and figures and done >= 2 * 48:
            raise StoppedError

    options = {"recipe": QUICK, "log_geometry": True, **OPTIONS}
    with pytest.raises(StoppedError):
        normgate.train(class_folders, tmp_path / "g", progress=stop, **options)
    with (tmp_path / "g.run" / "log.csv").open() as file:
        assert "nc1_u" in next(csv.DictReader(file))
    with pytest.raises(normgate.NormgateError, match="log_geometry"):
        normgate.train(class_folders, tmp_path / "g", resume=True, **{**options, "log_geometry": False})
    resumed = normgate.train(class_folders, tmp_path / "g", resume=True, **options)
    whole = normgate.train(class_folders, **options)
    assert [row["nc1_u"] for row in resumed.provenance["log"]] == [row["nc1_u"] for row in whole.provenance["log"]]
