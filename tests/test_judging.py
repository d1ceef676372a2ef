"""Which runtime judges, and that a graph is used for no other gate than its own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from normgate import Gate, judging, screen
from normgate.backbones import Backbone
from normgate.export import ExportError, export
from normgate.files import sha256
from normgate.gate import GateFolderError
from normgate.judging import JudgingError, choose_judge, gate_digest, load_judge
from normgate.runtime import PortableGate, RuntimeFileError
from normgate.scores.norm import Norm
from samples import CLASSES, PREPROCESSING, random_records, small_network

IMAGES = random_records(20, 4)


SLIM = Backbone("resnet18", len(CLASSES), 2, 1, {"layers": [1, 1, 1, 1]})


def timms(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return SLIM.build().eval()


@functools.cache
def gate(score: str = "norm", network: Callable[[], nn.Module] = timms) -> Gate:
    return Gate.calibrate(
        network(),
        preprocessing=PREPROCESSING,
        train=random_records(60, 1),
        tuning=random_records(60, 2),
        calibration=random_records(80, 3),
        classes=CLASSES,
        score=score,
    )


class Untraceable(Norm):
    """A user's score that knows nothing of graphs."""

    def traced(self, rows):
        raise NotImplementedError


def test_onnx_where_it_is_installed_and_its_graph_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose_judge(gate(), graphs=tmp_path / "graphs")
    assert (first.runtime, first.reason) == ("onnx", None)
    assert isinstance(first.judge, PortableGate)
    (graph,) = (tmp_path / "graphs").iterdir()
    assert (tmp_path / "graphs").stat().st_mode & 0o777 == 0o700

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(judging, "export", never)
        choose_judge(gate(), graphs=tmp_path / "graphs")
        assert choose_judge(gate(), "torch", graphs=tmp_path / "graphs").judge is gate()
    graph.write_bytes(b"damaged")
    there = choose_judge(gate(), graphs=tmp_path / "graphs").judge(IMAGES)
    here = gate()(IMAGES)
    np.testing.assert_allclose(there.score, here.score, rtol=1e-5)
    assert list(there.label) == list(here.label)
    assert list((tmp_path / "graphs").iterdir()) == [graph]


def test_a_digest_is_of_everything_that_verdicts_depend_on() -> None:
    own = gate(network=small_network)
    assert gate_digest(own) == gate_digest(dataclasses.replace(own, provenance={"from": "elsewhere"}, kept={}))
    weights = Gate.calibrate(
        small_network(seed=1),
        preprocessing=PREPROCESSING,
        calibration=random_records(80, 3),
        classes=CLASSES,
    )
    others = [
        own.recalibrate(false_alarm_rate=0.1),
        own.recalibrate(random_records(80, 5)),
        own.recalibrate(by_class=True, false_alarm_rate=0.2),
        gate("knn", small_network),
        dataclasses.replace(own, classes=CLASSES[::-1]),
        weights,
    ]
    assert len({gate_digest(found) for found in [own, *others]}) == len(others) + 1


def test_what_cannot_be_exported_is_judged_by_torch_and_the_reason_is_told(tmp_path: Path) -> None:
    own = gate()
    odd = dataclasses.replace(own, score=Untraceable("norm").fit(own.kept["train"], own.kept["tuning"]))
    chosen = choose_judge(odd, graphs=tmp_path)
    assert chosen.judge is odd
    assert "cannot be written as a graph" in (chosen.reason or "")
    with pytest.raises(ExportError):
        choose_judge(odd, "onnx", graphs=tmp_path)
    summary = screen(odd, IMAGES, tmp_path / "v.parquet")
    assert (summary.runtime, summary.runtime_reason) == ("torch", chosen.reason)


def test_without_onnx_and_on_other_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JudgingError, match="auto, onnx, torch"):
        choose_judge(gate(), "tensorrt")  # ty: an option of the command line
    with monkeypatch.context() as patch:
        patch.setattr(type(gate().extractor), "device", torch.device("meta"))
        assert choose_judge(gate(), graphs=tmp_path).runtime == "torch"
    monkeypatch.setattr(judging, "_NEEDED", ("onnx", "no_such_library"))
    assert choose_judge(gate(), graphs=tmp_path).runtime == "torch"
    with pytest.raises(JudgingError, match=r"no_such_library: pip install 'normgate\[export\]'"):
        choose_judge(gate(), "onnx", graphs=tmp_path)


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert choose_judge(gate(), "onnx", graphs=tmp_path / "file" / "graphs").runtime == "onnx"


def test_old_graphs_go_and_files_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_KEPT_BYTES", 1)
    (tmp_path / "mine.graph").touch()
    choose_judge(gate(), graphs=tmp_path)
    choose_judge(gate("knn"), graphs=tmp_path)
    assert (tmp_path / "mine.graph").exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_graph_is_kept_of_no_network_whose_code_may_change(tmp_path: Path) -> None:
    own = Gate.calibrate(
        small_network(), preprocessing=PREPROCESSING, calibration=random_records(80, 3), classes=CLASSES, backbone=SLIM
    )
    chosen = choose_judge(own, graphs=tmp_path)
    assert chosen.runtime == "onnx"
    assert list(tmp_path.iterdir()) == []


def test_an_exported_gate_screens_as_its_network(tmp_path: Path) -> None:
    """Of a network of one's own, whose folder timm cannot rebuild."""
    own = gate("knn", small_network)
    export(own, tmp_path / "g.onnx")
    exported = load_judge(tmp_path / "g.onnx", device="cpu")
    for number, record in enumerate(IMAGES):
        Image.fromarray(record.payload).save(tmp_path / f"{number:02d}.png")
    chosen = choose_judge(exported)
    assert (chosen.runtime, chosen.digest) == ("onnx", gate_digest(exported))
    assert chosen.digest == sha256(tmp_path / "g.onnx")
    tables = []
    for number, judge in enumerate((own, exported)):
        target = tmp_path / f"{number}.parquet"
        summary = screen(judge, tmp_path, target, fdr=0.9, shift_delta=0.5, runtime="onnx", part_rows=8)
        tables.append(pq.read_table(target))
        assert (summary.runtime, summary.images, summary.rejected > 0) == ("onnx", len(IMAGES), True)
        assert summary.shift is not None
    assert tables[0].equals(tables[1])
    assert tables[0].schema.metadata == tables[1].schema.metadata


def test_what_an_exported_gate_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(gate(), tmp_path / "g.onnx")
    with pytest.raises(JudgingError, match="on the CPU, not on cuda; leave out --device"):
        load_judge(tmp_path / "g.onnx", device="cuda")
    with pytest.raises(JudgingError, match="PyTorch takes the gate's folder alone"):
        choose_judge(load_judge(tmp_path / "g.onnx"), "torch")
    with monkeypatch.context() as patch:
        patch.setattr(judging, "_NEEDED", ("no_such_library",))  # to export one, and not to ask it
        exported = load_judge(tmp_path / "g.onnx", threads=1)
        assert choose_judge(exported, "onnx", threads=1).judge is exported
        assert screen(exported, IMAGES, tmp_path / "v.parquet", runtime="onnx").images == len(IMAGES)
    with pytest.raises(RuntimeFileError, match="cannot be read"):
        load_judge(tmp_path / "none.onnx")
    dataclasses.replace(gate(), backbone=SLIM).save(tmp_path / "folder.onnx")
    assert isinstance(load_judge(tmp_path / "folder.onnx"), Gate)
    with pytest.raises(GateFolderError, match="is an exported gate, which is screened with and served"):
        Gate.load(tmp_path / "g.onnx")


def test_screening_uses_onnx_by_default_and_says_so(tmp_path: Path) -> None:
    summary = screen(gate(), IMAGES, tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet")
    assert summary.runtime == "onnx"
    assert table.schema.metadata[b"normgate.runtime"] == b"onnx"
    screen(gate(), IMAGES, tmp_path / "w.parquet", runtime="torch")
    other = pq.read_table(tmp_path / "w.parquet")
    assert other.schema.metadata[b"normgate.runtime"] == b"torch"
    np.testing.assert_allclose(table["score"], other["score"], rtol=1e-5)
    assert table["label"].equals(other["label"])


@pytest.mark.parametrize("damage", ["a bit", "another gate"])
def test_a_graph_that_was_changed_is_made_anew(damage: str, tmp_path: Path) -> None:
    choose_judge(gate(), graphs=tmp_path)
    (graph,) = tmp_path.iterdir()
    whole = graph.read_bytes()
    if damage == "a bit":
        place = len(whole) // 2
        graph.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    else:
        choose_judge(gate("knn"), graphs=tmp_path / "other")
        (other,) = (tmp_path / "other").iterdir()
        graph.write_bytes(other.read_bytes())
    there = choose_judge(gate(), graphs=tmp_path).judge(IMAGES)
    np.testing.assert_allclose(there.score, gate()(IMAGES).score, rtol=1e-5)
