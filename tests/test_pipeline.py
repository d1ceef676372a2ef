"""From images on disk to a gate; killed and resumed."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import normgate
from normgate import Gate, Recipe, pipeline, scores
from normgate.data.sources import Record, Records
from normgate.errors import NormgateError, NormgateWarning, ProbeWarning
from normgate.training import Hardware, HardwareError, TrainingError
from normgate.training.radial import FAMILIES
from normgate.training.run_folder import RunFolderError
from samples import CLASSES

OPTIONS = {"width": 2, "model_args": {"layers": [1, 1, 1, 1]}, "false_alarm_rate": 0.2}
QUICK = Recipe(epochs=3, batch_size=8, learning_rate=0.05)


def weights(gate: Gate) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in gate.extractor.model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_gate_from_class_folders(class_folders: Path, tmp_path: Path) -> None:
    gate = normgate.train(class_folders, tmp_path / "gate", recipe=QUICK, **OPTIONS)
    assert gate.classes == CLASSES
    assert gate.extractor.preprocessing.size == (12, 12)
    assert {name: len(digests) for name, digests in gate.digests.items()} == {
        "train": 48,
        "tuning": 6,
        "calibration": 6,
    }
    assert not {*gate.digests["train"]} & {*gate.digests["calibration"], *gate.digests["tuning"]}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("gate", "."))] == ["gate"]
    again = Gate.load(tmp_path / "gate")
    assert (again(class_folders).score == gate(class_folders).score).all()
    same = normgate.train(class_folders, tmp_path / "same", recipe=QUICK, **OPTIONS)
    assert equal(weights(same), weights(gate))
    files = [json.loads((tmp_path / name / "gate.json").read_text())["files"] for name in ("gate", "same")]
    assert files[0] == files[1]
    assert len(files[0]) == 8
    assert not equal(weights(normgate.train(class_folders, recipe=QUICK, seed=1, **OPTIONS)), weights(gate))


def test_wide_images_are_cropped_and_that_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (12, 30, 3), dtype=np.uint8) for _ in range(60)]
    labels = ["a", "b"] * 30
    with pytest.warns(NormgateWarning, match=r"60% of a typical training image lie outside .* --squash"):
        cropped = normgate.train((images, labels), recipe=QUICK, **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NormgateWarning)
        warnings.simplefilter("ignore", ProbeWarning)
        squashed = normgate.train((images, labels), recipe=QUICK, squash=True, **OPTIONS)
    assert (cropped.preprocessing.resize, squashed.preprocessing.resize) == (12, None)
    edges = images[0].copy()
    edges[:, :9] = edges[:, -9:] = 0
    assert len(set(cropped([images[0], edges]).score)) == 1
    assert len(set(squashed([images[0], edges]).score)) == 2
    assert cropped.held_out is not None
    assert cropped.held_out[1] == 12


@pytest.mark.parametrize(
    ("different", "folders", "message"),
    [
        (10, [""], "40 of the 50 calibration images are copies"),
        (50, ["cat/", "dog/", "kite/"], "calibration images lie in folders of the gate's classes and in others (kite)"),
    ],
)
def test_odd_calibration_images_are_pointed_out_before_training(
    different: int, folders: list[str], message: str, class_folders: Path
) -> None:
    told: list[str] = []
    odd = Records(
        [
            Record(f"{folders[i % len(folders)]}{i}.png", np.full((12, 12, 3), i % different, np.uint8))
            for i in range(50)
        ]
    )

    def note(task: str, *_: object, **__: object) -> None:
        told.append(task)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: told.append(str(message))
        normgate.train(class_folders, recipe=QUICK, calibration=odd, progress=note, **OPTIONS)
    said = [place for place, text in enumerate(told) if text.startswith(message)]
    assert len(said) == 1
    assert said[0] < told.index("training")


def test_an_image_under_two_labels_is_pointed_out() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(60)]
    labels = ["a", "b"] * 30
    held_out = [rng.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(40)]
    sets = {"tuning": held_out[:20], "calibration": held_out[20:]}
    with pytest.warns(NormgateWarning, match="1 different training images .* both 'a' and 'b'"):
        normgate.train(([*images, images[0]], [*labels, "b"]), recipe=QUICK, **sets, **OPTIONS)


def test_a_recipe_with_everything(class_folders: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        learning_rate=0.05,
        head_bias=False,
        head_decay=False,
        descent="linear",
        averaging=0.5,
        patterns=0.5,
        temperature_start=0.1,
        rotations=0.5,
        radial=0.5,
    )
    gate = normgate.train(class_folders, tmp_path / "gate", recipe=recipe, **OPTIONS)
    again = Gate.load(tmp_path / "gate")
    assert (again(class_folders).score == gate(class_folders).score).all()
    assert again.extractor.head.bias is None
    assert Recipe.from_dict(again.provenance["run"]["recipe"]) == recipe
    assert again.probes.trained_on == again.trained_on_probes == (*FAMILIES, "pose")
    resumed = normgate.train(class_folders, tmp_path / "gate", recipe=recipe, resume=True, **OPTIONS)
    assert equal(weights(resumed), weights(gate))


def test_streamed_images_train_the_same_weights(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = normgate.train(class_folders, recipe=QUICK, **OPTIONS)
    monkeypatch.setattr("normgate.training.reading.RESIDENT_BYTES", 0)
    assert equal(weights(normgate.train(class_folders, recipe=QUICK, **OPTIONS)), weights(resident))


@pytest.mark.parametrize("temperature", [None, 0.1, "learned"])
def test_an_interrupted_run_ends_with_the_same_weights(
    class_folders: Path, tmp_path: Path, temperature: float | str | None
) -> None:
    recipe = Recipe(epochs=4, batch_size=8, learning_rate=0.05, temperature=temperature)
    whole = normgate.train(class_folders, recipe=recipe, **OPTIONS)

    class StopError(Exception):
        pass

    def stop(task: str, done: int, total: int | None, /, **figures: float) -> None:
        if task == "training" and done > 2 * 48:
            raise StopError

    with pytest.raises(StopError):
        normgate.train(class_folders, tmp_path / "gate", recipe=recipe, progress=stop, **OPTIONS)
    with pytest.raises(RunFolderError, match="--resume"):
        normgate.train(class_folders, tmp_path / "gate", recipe=recipe, **OPTIONS)
    with pytest.raises(NormgateError, match="epochs is 3, was 4"):
        normgate.train(class_folders, tmp_path / "gate", recipe=QUICK, resume=True, **OPTIONS)
    resumed = normgate.train(class_folders, tmp_path / "gate", recipe=recipe, resume=True, **OPTIONS)
    assert equal(weights(resumed), weights(whole))
    assert len(resumed.provenance["log"]) == 4
    assert equal(
        weights(normgate.train(class_folders, tmp_path / "gate", recipe=recipe, resume=True, **OPTIONS)), weights(whole)
    )


def test_killed_at_any_moment(class_folders: Path, tmp_path: Path) -> None:
    """`kill -9` between and within epochs; the resumed command ends with an uninterrupted run's weights."""
    code = "import torch; torch.set_num_threads(1); from normgate.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "train",
        str(class_folders),
        "--epochs",
        "12",
        "--batch-size",
        "8",
        "--width",
    ]
    command += ["2", "--model-arg", "layers=[1,1,1,1]", "--alpha", "0.2", "--lr", "0.05", "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    for epochs in (1, 6):
        process = subprocess.Popen([*command, str(tmp_path / "gate"), "--resume"], stdout=subprocess.DEVNULL)
        log = tmp_path / "gate.run" / "log.csv"
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) <= epochs):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(tmp_path / "gate"), "--resume"], check=True, capture_output=True)
    ends = [load_file(tmp_path / name / "network.safetensors") for name in ("gate", "whole")]
    assert equal(*ends)
    logs = [json.loads((tmp_path / name / "gate.json").read_text())["provenance"]["log"] for name in ("gate", "whole")]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


def test_starting_from_weights(class_folders: Path, tmp_path: Path) -> None:
    first = normgate.train(class_folders, recipe=Recipe(epochs=8, batch_size=8), **OPTIONS)
    torch.save(first.extractor.model.state_dict(), tmp_path / "weights.pt")
    tuned = normgate.train(class_folders, weights=tmp_path / "weights.pt", recipe=QUICK, **OPTIONS)
    fresh = normgate.train(class_folders, recipe=QUICK, **OPTIONS)
    assert tuned.provenance["log"][0]["loss"] < fresh.provenance["log"][0]["loss"]


def test_bad_input_stops_before_training(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(NormgateError, match="exists"):
        normgate.train(class_folders, tmp_path / "there", **OPTIONS)
    with pytest.raises(NormgateError, match="--alpha"):
        normgate.train(class_folders, recipe=QUICK)
    with pytest.raises(NormgateError, match="Input height"):
        small = {"embed_dim": 12, "depth": 1, "num_heads": 1}
        normgate.train(class_folders, model="vit_tiny_patch16_224", model_args=small, false_alarm_rate=0.2)
    with pytest.raises(HardwareError, match="--device"):
        normgate.train(class_folders, hardware=Hardware("abacus"), **OPTIONS)
    with pytest.raises(TrainingError, match="learning rate"):
        normgate.train(class_folders, recipe=Recipe(epochs=6, batch_size=8, learning_rate=1e30), **OPTIONS)
    (class_folders / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(NormgateError, match="cannot be used"):
        normgate.train(class_folders, recipe=QUICK, **OPTIONS)
    assert normgate.train(class_folders, recipe=QUICK, skip_unreadable=True, **OPTIONS)
    (class_folders / "cat" / "broken.png").unlink()
    for i in range(15):
        Image.open(class_folders / "owl" / "00.png").save(class_folders / "owl" / f"copy{i}.png")
    with pytest.raises(NormgateError, match="two sets share images"):
        normgate.train(class_folders, recipe=QUICK, **OPTIONS)


def test_a_tar_that_is_cut_short_is_an_image_that_cannot_be_read(class_folders: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for path in sorted(class_folders.rglob("*.png")):
            key = f"{path.parent.name}-{path.stem}"
            label = tarfile.TarInfo(f"{key}.cls")
            label.size = len(path.parent.name)
            file.addfile(label, io.BytesIO(path.parent.name.encode()))
            file.add(path, f"{key}.png")
    content = (tmp_path / "x.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "x.tar").write_bytes(content[:-600])
    with pytest.raises(NormgateError, match=r"(?s)1 train image cannot be used; .*x\.tar: .*cut short after 59"):
        normgate.train(tmp_path / "x.tar", recipe=QUICK, progress=untrained, **OPTIONS)


def untrained(task: str, done: int, total: int | None, /, **figures: float) -> None:
    """Progress that must not come as far as training."""
    assert task != "training"


def test_a_folder_that_is_no_gate_is_never_replaced(class_folders: Path, tmp_path: Path) -> None:
    before = sorted(class_folders.rglob("*"))
    with pytest.raises(NormgateError, match="holds cat, which is not of an earlier output"):
        normgate.train(class_folders, class_folders, recipe=QUICK, overwrite=True, **OPTIONS)
    (tmp_path / "gate.run").mkdir()
    (tmp_path / "gate.run" / "mine.txt").touch()
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(RunFolderError, match=r"holds mine\.txt, which no run has written"):
            normgate.train(class_folders, tmp_path / "gate", recipe=QUICK, **options, **OPTIONS)
    assert sorted(class_folders.rglob("*")) == before
    assert (tmp_path / "gate.run" / "mine.txt").exists()


def test_images_that_were_trained_on_never_calibrate(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even those of which no features are collected."""
    monkeypatch.setattr(pipeline, "FIT_ROWS", 10)
    other = tmp_path / "other"
    other.mkdir()
    for number, file in enumerate(sorted(class_folders.rglob("*.png"))[::2]):
        (other / f"{number}.png").write_bytes(file.read_bytes())
    for number in range(9):
        Image.new("RGB", (12, 12), (number, 0, 0)).save(other / f"new{number}.png")
    gate = normgate.train(class_folders, recipe=QUICK, calibration=other, drop_duplicates=True, score="norm", **OPTIONS)
    assert gate.calibration.n == 9
    assert len(gate.digests["train"]) > 10
    with pytest.raises(NormgateError, match="two sets share images"):
        gate.recalibrate(other)


def test_what_is_missing_is_said_before_training(class_folders: Path, tmp_path: Path) -> None:
    few = [Image.new("RGB", (12, 12), (number, 0, 0)) for number in range(3)]
    with pytest.raises(NormgateError, match="needs at least 4 calibration images, and there are 3"):
        normgate.train(class_folders, calibration=few, recipe=QUICK, progress=untrained, **OPTIONS)
    (class_folders / "yak").mkdir()
    for number in range(20):
        (class_folders / "yak" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(NormgateError, match="no training image of 'yak'"):
        normgate.train(class_folders, recipe=QUICK, skip_unreadable=True, progress=untrained, **OPTIONS)


def test_a_finished_gate_is_resumed_with_the_same_arguments_alone(class_folders: Path, tmp_path: Path) -> None:
    options = {"recipe": QUICK, "score": "norm", **OPTIONS}
    gate = normgate.train(class_folders, tmp_path / "gate", **options)
    (tmp_path / "gate.run").mkdir()
    (tmp_path / "gate.run" / "log.csv").touch()  # as a kill between the last two steps leaves it
    again = normgate.train(class_folders, tmp_path / "gate", resume=True, progress=untrained, **options)
    assert equal(weights(again), weights(gate))
    assert not (tmp_path / "gate.run").exists()
    few = [Image.new("RGB", (12, 12), (number, 0, 0)) for number in range(9)]
    for other, said in (
        ({"false_alarm_rate": 0.5}, "false_alarm_rate"),
        ({"seed": 3}, "seed, images"),
        ({"width": 4}, "backbone"),
        ({"image_size": 16}, "preprocessing"),
        ({"lean": True}, "lean"),
        ({"score": "knn"}, "score"),
        ({"calibration": few}, "images, calibration images"),
    ):
        with pytest.raises(pipeline.PipelineError, match=rf"is finished, and not .*\(.*{said}.*\)"):
            normgate.train(class_folders, tmp_path / "gate", resume=True, progress=untrained, **{**options, **other})
    (class_folders / "cat" / "00.png").unlink()
    with pytest.raises(pipeline.PipelineError, match=r"is finished, and not .*images"):
        normgate.train(class_folders, tmp_path / "gate", resume=True, progress=untrained, **options)


def test_random_numbers_of_the_caller_go_on_as_they_were(class_folders: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    normgate.train(class_folders, recipe=QUICK, score="norm", **OPTIONS)
    assert torch.equal(torch.rand(3), expected)


def test_a_score_with_other_settings_is_another_score(class_folders: Path, tmp_path: Path) -> None:
    options = {"recipe": QUICK, **OPTIONS}
    normgate.train(class_folders, tmp_path / "gate", score=scores.create("knn", k=3), **options)
    again = normgate.train(class_folders, tmp_path / "gate", score=scores.create("knn", k=3), resume=True, **options)
    assert again.score.settings["k"] == 3
    with pytest.raises(pipeline.PipelineError, match=r"is finished, and not what is asked for \(score\)"):
        normgate.train(class_folders, tmp_path / "gate", score=scores.create("knn", k=5), resume=True, **options)
    with pytest.raises(scores.ScoreError, match="at least 500 training images"):
        normgate.train(class_folders, score=scores.create("knn", k=500), progress=untrained, **options)


@pytest.mark.parametrize("score", ["norm", "auto"])
def test_a_gate_whose_score_was_changed_is_not_the_one_that_was_trained(
    class_folders: Path, tmp_path: Path, score: str
) -> None:
    options = {"recipe": QUICK, "score": score, **OPTIONS}
    gate = normgate.train(class_folders, tmp_path / "gate", **options)
    normgate.train(class_folders, tmp_path / "gate", resume=True, progress=untrained, **options)
    other = next(name for name in ("energy", "knn") if name != gate.score.name)
    gate.recalibrate(score=other).save(tmp_path / "gate", overwrite=True)
    with pytest.raises(pipeline.PipelineError, match=r"is finished, and not what is asked for \(score\)"):
        normgate.train(class_folders, tmp_path / "gate", resume=True, progress=untrained, **options)


def test_a_gate_that_was_not_trained_here_is_no_finished_run(class_folders: Path, tmp_path: Path) -> None:
    options = {"recipe": QUICK, "score": "norm", **OPTIONS}
    gate = normgate.train(class_folders, **options)
    for number, run in enumerate(("exp-7", None, ["a"])):
        dataclasses.replace(gate, provenance={"run": run}).save(tmp_path / str(number))
        with pytest.raises(pipeline.PipelineError, match=r"is finished, and not .* \(recipe, .*\)"):
            normgate.train(class_folders, tmp_path / str(number), resume=True, progress=untrained, **options)


def test_what_is_in_the_way_of_a_run_is_said(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "gate.run").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        normgate.train(class_folders, tmp_path / "gate", recipe=QUICK, progress=untrained, **OPTIONS)


@pytest.mark.parametrize("temperature", ["learned", 0.5, None])
def test_a_learned_temperature_stands_in_no_ones_way(
    class_folders: Path, tmp_path: Path, temperature: float | str | None
) -> None:
    """Weights of a gate with a learned τ start any network, and those of any start one with a learned τ."""
    learned = dataclasses.replace(QUICK, epochs=1, temperature="learned")
    other = dataclasses.replace(QUICK, epochs=1, temperature=temperature)
    for number, (first, second) in enumerate([(learned, other), (other, learned)]):
        place = tmp_path / str(number)
        normgate.train(class_folders, place, recipe=first, score="norm", **OPTIONS)
        file = place / "network.safetensors"
        normgate.train(class_folders, recipe=second, weights=file, score="norm", **OPTIONS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": -1}, "a seed is a whole number"),
        ({"seed": 2**70}, "a seed is a whole number"),
        ({"seed": 1.5}, "a seed is a whole number"),
        ({"score": 3}, "3 is neither the name of a score nor a score"),
        ({"recipe": 3}, "there is no recipe 3"),
        ({"false_alarm_rate": "x"}, "strictly between 0 and 1"),
        ({"false_alarm_rate": None}, "strictly between 0 and 1"),
        ({"max_pixels": 0}, "max_pixels is a whole number of at least 1, not 0"),
        ({"workers": 1.5}, "workers is a whole number of at least 0"),
    ],
)
def test_wrong_values_are_said(class_folders: Path, tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(NormgateError, match=said):
        normgate.train(class_folders, tmp_path / "gate", **{"recipe": QUICK, **OPTIONS, **options})
    assert not (tmp_path / "gate").exists()


def test_by_class_says_what_train_can_do(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(NormgateError, match=r"needs at least \d+ calibration images, 4 in each.*leave out --by-class"):
        normgate.train(class_folders, tmp_path / "gate", recipe=QUICK, by_class=True, progress=untrained, **OPTIONS)
    assert not list(tmp_path.glob("gate*"))


def test_a_stopped_run_that_replaces_a_gate_goes_on(class_folders: Path, tmp_path: Path) -> None:
    """The gate that is there stays until the new one takes its place."""
    target = tmp_path / "gate"
    normgate.train(class_folders, target, recipe=QUICK, **OPTIONS)
    before = (target / "gate.json").read_bytes()
    recipe = Recipe(epochs=4, batch_size=8, learning_rate=0.05)

    def stop(task: str, done: int, total: int | None, /, **figures: float) -> None:
        if task == "training" and done > 2 * 48:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        normgate.train(class_folders, target, recipe=recipe, overwrite=True, progress=stop, **OPTIONS)
    assert (target / "gate.json").read_bytes() == before
    with pytest.raises(pipeline.PipelineError, match=r"unfinished run in .* pass --overwrite"):
        normgate.train(class_folders, target, recipe=recipe, resume=True, progress=untrained, **OPTIONS)
    (tmp_path / "anew").mkdir()
    (tmp_path / "anew.run").mkdir()  # of a run that was to replace a gate, and was killed in its first epoch
    shutil.copytree(target, tmp_path / "anew", dirs_exist_ok=True)
    (tmp_path / "anew.run" / "_lock").touch()
    with pytest.raises(pipeline.PipelineError, match="to train anew another output or --overwrite"):
        normgate.train(class_folders, tmp_path / "anew", recipe=recipe, resume=True, progress=untrained, **OPTIONS)
    anew = normgate.train(class_folders, tmp_path / "anew", recipe=recipe, resume=True, overwrite=True, **OPTIONS)
    assert anew.provenance["run"]["recipe"]["epochs"] == 4
    assert not (tmp_path / "anew.run").exists()
    first: list[int] = []

    def noted(task: str, done: int, total: int | None, /, **figures: float) -> None:
        first.extend([done] if task == "training" else [])

    resumed = normgate.train(
        class_folders, target, recipe=recipe, resume=True, overwrite=True, progress=noted, **OPTIONS
    )
    assert first[0] > 2 * 48
    assert equal(weights(resumed), weights(normgate.train(class_folders, recipe=recipe, **OPTIONS)))
    assert not (tmp_path / "gate.run").exists()
