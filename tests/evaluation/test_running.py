"""Evaluation of gates and networks: one pass, figures as by hand, and the promise beside what happened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

import normgate
from normgate import Gate, evaluate, scores
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Records, SourceError
from normgate.errors import ProbeWarning
from normgate.evaluation import EvaluationError, open_known
from normgate.evaluation.words import summary_lines
from normgate.features import FeatureError
from samples import CLASSES, random_records, small_network


def gate(**options: object) -> Gate:
    return Gate.calibrate(
        small_network(),
        **{
            "preprocessing": Preprocessing((8, 8)),
            "train": random_records(60, 1),
            "tuning": random_records(30, 2),
            "calibration": random_records(40, 3),
            "score": "norm",
            **options,
        },
    )


def test_figures_equal_those_computed_by_hand() -> None:
    made, known, odd = gate(), random_records(50, 5), [np.full((8, 8, 3), i, np.uint8) for i in range(30)]
    result = evaluate(made, known, {"flat": odd})
    verdicts, strange = made([record.payload for record in known]), made(odd)
    truth = [1] * 50 + [0] * 30
    assert result.metrics["norm"]["flat"].auroc == pytest.approx(
        roc_auc_score(truth, np.concatenate([verdicts.score, strange.score])), abs=1e-12
    )
    right = np.array([label == record.label for label, record in zip(verdicts.label, known, strict=True)])
    assert result.accuracy == right.mean()
    assert result.outcome.accuracy_accepted == right[verdicts.accepted].mean()
    assert result.outcome.realised == 1 - verdicts.accepted.mean()
    assert result.outcome.rejected == {"flat": 1 - strange.accepted.mean()}
    assert result.outcome.promised == 2 / 41
    assert set(result.metrics) == set(scores.names()) - set(result.refused)
    assert result.images == {"id": 50, "flat": 30}
    json.dumps(result.to_dict(), allow_nan=False)
    assert "| norm (gate) |" in result.table()


def test_every_image_goes_through_the_network_once() -> None:
    made = gate()
    seen = []
    made.extractor.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    evaluate(made, random_records(50, 5), {"a": random_records(20, 6), "b": random_records(10, 7)})
    assert sum(seen) == 80


def test_the_gates_score_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = gate(score="knn"), []
    compute = type(made.score)._score
    monkeypatch.setattr(type(made.score), "_score", lambda self, part: [seen.append(len(part)), compute(self, part)][1])
    result = evaluate(made, random_records(50, 5), {"other": random_records(20, 6)}, scores="norm")
    assert seen == [50, 20]
    assert result.outcome is not None
    assert result.outcome.realised == 1 - made([r.payload for r in random_records(50, 5)]).accepted.mean()


def test_a_lean_gate_says_what_it_cannot_do() -> None:
    lean = gate(lean=True)
    result = evaluate(lean, random_records(20, 5), {"other": random_records(20, 6)})
    assert "lean" in result.refused["knn"]
    assert "energy" in result.metrics
    with pytest.raises(EvaluationError, match="knn cannot be had"):
        evaluate(lean, random_records(20, 5), {"other": random_records(20, 6)}, scores=["knn"])


def test_unlabelled_unreadable_and_misnamed_sets() -> None:
    made = gate()
    unlabelled = Records(random_records(20, 5, labelled=False))
    result = evaluate(made, unlabelled, {"odd": [b"no image", *[r.payload for r in random_records(5, 6)]]})
    assert result.accuracy is None
    assert [(name, image) for name, image, _ in result.errors] == [("odd", "array#0")]
    with pytest.raises(EvaluationError, match="'id'"):
        evaluate(made, unlabelled, {"id": unlabelled})
    with pytest.raises(EvaluationError, match="'mean' is the name of a mean"):
        evaluate(made, unlabelled, {"mean": unlabelled, "odd": unlabelled})
    with pytest.raises(EvaluationError, match="'mean far' is the name of a mean"):
        evaluate(made, unlabelled, {"mean far": unlabelled, "odd": unlabelled}, groups={"far": ["odd"]})


@pytest.mark.parametrize("cached", [True, False])
def test_a_set_that_cannot_be_read_is_named(tmp_path: Path, cached: bool) -> None:
    sets = {"odd": random_records(5, 6), "worse": [b"no image"]}
    with pytest.raises(FeatureError, match="worse images: there is no image that can be read"):
        evaluate(gate(), random_records(20, 5), sets, cache=tmp_path if cached else None)


class TestLabels:
    """Where there are labels they are used, and where they are wrong it is said."""

    def table(self, path: Path, **columns: list[object]) -> Path:
        images = [Path(path.parent / "one.png")] * 2
        Image.new("RGB", (8, 8)).save(images[0])
        pq.write_table(pa.table({"image": [image.read_bytes() for image in images], **columns}), path)
        return path

    def test_of_a_table(self, tmp_path: Path) -> None:
        bare, labelled = self.table(tmp_path / "a.parquet"), self.table(tmp_path / "b.parquet", label=["cat", "cat"])
        assert open_known(bare).classes is None
        assert open_known(labelled).classes == ("cat",)
        with pytest.raises(SourceError, match="no column 'lable'; it has: image, label"):
            open_known(labelled, label_column="lable")
        for wrong, said in (([1, None], "has no label"), ([0.5, 1.5], "not labels")):
            with pytest.raises(SourceError, match=said):
                open_known(self.table(tmp_path / "c.parquet", label=wrong))

    def test_of_folders(self, class_folders: Path) -> None:
        assert open_known(class_folders).classes == tuple(sorted(CLASSES))
        assert open_known(class_folders / "cat", label_column="name").classes is None  # there is no table to have it
        for name in ("dog", "owl"):
            shutil.rmtree(class_folders / name)
        assert open_known(class_folders).classes == ("cat",)
        (class_folders / "dog").mkdir()
        with pytest.raises(SourceError, match="hold no image: dog"):
            open_known(class_folders)

    def test_of_objects(self) -> None:
        images = [np.zeros((8, 8, 3), np.uint8)] * 2
        assert open_known(images).classes is None
        assert open_known((images, ["cat", "cat"])).classes == ("cat",)
        with pytest.raises(SourceError, match="2 images and 1 labels"):
            open_known((images, ["cat"]))

    def test_are_missed_aloud(self) -> None:
        unlabelled = Records(random_records(20, 5, labelled=False))
        found = evaluate(gate(), unlabelled, {"odd": random_records(5, 6)})
        assert "accuracy is not known: the known images have no labels" in summary_lines(found)


def test_norm_is_left_out_where_norms_do_not_vary() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.LayerNorm(16), nn.Linear(16, 3))
    options = {"preprocessing": Preprocessing((8, 8)), "calibration": random_records(40, 3), "classes": CLASSES}
    made = Gate.calibrate(network, score="energy", **options)
    assert "norm" in evaluate(made, random_records(20, 5), {"other": random_records(20, 6)}).metrics
    with pytest.raises(normgate.NormgateError, match="hardly vary"):
        Gate.calibrate(network, score="norm", features="3", **options)


def test_a_network_without_a_gate() -> None:
    train, known, odd = random_records(60, 1), random_records(50, 5), random_records(20, 6, labelled=False)
    options = {"preprocessing": Preprocessing((8, 8)), "train": train, "tuning": random_records(30, 2)}
    with pytest.warns(ProbeWarning):
        made = gate()
    bare = evaluate(small_network(), known, {"odd": odd}, **options)
    there = evaluate(made, known, {"odd": odd})
    assert bare.outcome is None
    assert bare.gate_score is None
    assert bare.differences == {}
    assert bare.metrics == there.metrics
    assert (bare.accuracy, bare.means, bare.risks) == (there.accuracy, there.means, there.risks)
    unfitted = evaluate(small_network(), known, {"odd": odd}, preprocessing=Preprocessing((8, 8)))
    assert "train=" in unfitted.refused["knn"]
    assert unfitted.metrics["energy"] == there.metrics["energy"]
    assert unfitted.accuracy == there.accuracy
    json.dumps(bare.to_dict(), allow_nan=False)


def test_a_lean_gate_with_training_images_at_hand() -> None:
    known, odd = random_records(20, 5), {"odd": random_records(20, 6)}
    with pytest.warns(ProbeWarning):
        full, lean = gate(), gate(lean=True)
    given = evaluate(lean, known, odd, train=random_records(60, 1), tuning=random_records(30, 2))
    assert given.metrics == evaluate(full, known, odd).metrics


def test_arguments_that_do_not_go_together() -> None:
    known, odd = random_records(20, 5), {"odd": random_records(20, 6)}
    with pytest.warns(ProbeWarning):
        made = gate()
    for network, options, said in (
        (made, {"preprocessing": Preprocessing((8, 8))}, "preprocessing= describe"),
        (made, {"head": "fc", "classes": CLASSES}, "classes=, head= describe"),
        (small_network(), {}, "needs preprocessing="),
        ("gates/x", {}, r"takes a gate or a network, and not str: normgate.Gate.load\('gates/x'\)"),
        ({}, {}, "takes a gate or a network, and not dict$"),
        (made, {"groups": ["odd"]}, "groups= names its sets, .* and is no list"),
        (made, {"groups": {"far": ["od"]}}, "'far' names od; a group is a list of: odd"),
        (made, {"groups": {"far": []}}, "'far' names no set"),
        (made, {"groups": {"far": None}}, "groups= names the sets of each"),
        (made, {"groups": {"far": [["odd"]]}}, "groups= names the sets of each"),
        (made, {"groups": {"far": "odd"}}, "'far' names no set"),
        (made, {"scores": ["knn", "knn"]}, "two scores are called knn"),
    ):
        with pytest.raises(EvaluationError, match=said):
            evaluate(network, known, odd, **options)
    for name in ("", 1):
        with pytest.raises(EvaluationError, match=f"{name!r} is no name of a set"):
            evaluate(made, known, {name: odd["odd"]})
    with pytest.raises(scores.ScoreError, match="did you mean 'norm'"):
        evaluate(made, known, odd, scores="nrm")
    with pytest.raises(FeatureError, match="3 outputs, and 2 different classes"):
        evaluate(small_network(), known, odd, preprocessing=Preprocessing((8, 8)), classes=["cat", "dog"])


def test_arguments_are_looked_at_before_the_data() -> None:
    class Untouched:
        def __len__(self) -> int:
            raise AssertionError

        def __getitem__(self, index: int) -> object:
            raise AssertionError

    with pytest.raises(scores.ScoreError, match="did you mean 'norm'"):
        evaluate(small_network(), Untouched(), {}, scores=["nrm"], preprocessing=Preprocessing((8, 8)))
    with pytest.raises(EvaluationError, match="needs preprocessing="):
        evaluate(small_network(), Untouched(), {})
