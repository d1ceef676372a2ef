"""The command line: exit codes, what goes where, and every command once."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import save_file

import normgate
from normgate import Gate, Recipe, cli
from normgate.data.preprocessing import Preprocessing
from normgate.export import export
from normgate.files import OutputError
from normgate.serving.options import Options
from normgate.training import TrainingError
from normgate.training.run_folder import RunFolderError
from samples import PREPROCESSING, random_records, small_network

SMALL = {"width": 2, "model_args": {"layers": [1, 1, 1, 1]}, "false_alarm_rate": 0.2, "score": "norm"}


@pytest.fixture
def gate(class_folders: Path, tmp_path: Path) -> Path:
    normgate.train(class_folders, tmp_path / "gate", recipe=Recipe(epochs=1, batch_size=8), **SMALL)
    return tmp_path / "gate"


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from normgate.cli import run; run(['--help']);"
        "print([name for name in ('torch', 'pyarrow', 'timm', 'numpy') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"
    for command in ("demo", "train", "calibrate", "screen", "evaluate", "inspect"):
        assert command in printed


def test_every_command_once(
    gate: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = class_folders / "cat" / "00.png"
    assert run("screen", gate, image, "--json") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("cat", "dog", "owl")
    assert run("screen", gate, class_folders, "-o", tmp_path / "v.parquet", "--json", "--list-rejected") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["images"] == 60 == pq.read_metadata(tmp_path / "v.parquet").num_rows
    assert len(summary["rejected_ids"]) == summary["rejected"]
    assert run("evaluate", gate, "--id", class_folders, "--ood", f"cats={class_folders / 'cat'}", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]["norm"]) == {"cats"}
    assert run("calibrate", gate, "-o", tmp_path / "g2", "--alpha", "0.5", "--score", "knn", "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["false_alarm_rate"], described["score"]["name"]) == (0.5, "knn")
    assert run("inspect", tmp_path / "g2") == 0
    assert "knn" in capsys.readouterr().out
    assert run("scores") == 0
    assert "mahalanobis" in capsys.readouterr().out


def test_a_network_that_normgate_never_trained(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "resnet18", "--model-arg", "layers=[1,1,1,1]", "--width", "2", "--stem", "1"]
    network = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]}).build()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    Preprocessing((12, 12)).save(tmp_path / "p.json")
    arguments += ["--weights", tmp_path / "w.safetensors", "--preprocessing", tmp_path / "p.json"]
    (tmp_path / "new").mkdir()
    for path in class_folders.rglob("*.png"):  # images of their own for the threshold
        pixels = bytearray(path.read_bytes())
        (tmp_path / "new" / f"{path.parent.name}{path.name}").write_bytes(pixels)
    data = ["--train", class_folders, "--calibration", tmp_path / "new", "-o", tmp_path / "g"]
    assert run("calibrate", *arguments, *data) == 2
    assert "two sets share images" in capsys.readouterr().err
    assert run("calibrate", *arguments, "--calibration", tmp_path / "new", "-o", tmp_path / "g") == 2
    assert "--classes" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    data = ["--classes", tmp_path / "names.txt", "--calibration", tmp_path / "new", "-o", tmp_path / "g"]
    assert run("calibrate", *arguments, *data, "--score", "energy") == 0
    assert run("screen", tmp_path / "g", tmp_path / "new" / "cat00.png") == 0
    del network.fc
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert run("calibrate", *arguments, *data, "--overwrite") == 2
    assert "holds no head" in capsys.readouterr().err


def test_exit_codes(gate: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in [
        (["nonsense"], "nonsense"),
        (["screen", gate], "INCOMING"),
        (["screen", gate, class_folders], "-o verdicts.parquet"),
        (["screen", tmp_path / "nothing", class_folders, "-o", tmp_path / "x"], "does not exist"),
        (
            ["screen", class_folders, gate, "-o", tmp_path / "x"],
            shlex.join(["normgate", "screen", str(gate), str(class_folders)]),
        ),
        (["calibrate", class_folders, gate, "-o", tmp_path / "x"], "the gate comes first"),
        (["screen", gate, gate, "-o", tmp_path / "x"], "holds no image"),
        (["screen", gate, tmp_path / "gat", "-o", tmp_path / "x"], "did you mean"),
        (["train", class_folders, "-o", tmp_path / "g", "--alpha", "0.2", "--model", "resnet81"], "resnet"),
        (["train", class_folders, "-o", tmp_path / "g", "--alpha", "0.2", "--score", "nrm"], "'norm'"),
        (["train", class_folders, "-o", tmp_path / "g", "--score", "auto:k=4"], "auto takes no settings"),
        (["train", class_folders, "-o", tmp_path / "g", "--score", "gen:gamma=nan"], "not 'gamma=nan'\n"),
        (["train", class_folders, "-o", tmp_path / "g", "--temperature", "hot"], "learned"),
        (["train", class_folders, "-o", tmp_path / "g", "--set", "averaging"], "--set wants NAME=JSON"),
        (
            ["train", class_folders, "-o", tmp_path / "g", "--set", "descent=linear"],
            """a text needs quotes: 'descent="linear"'""",
        ),
        (
            ["train", class_folders, "-o", tmp_path / "g", "--set", "radial=1", "--set", "radial=0"],
            "radial is set twice by --set",
        ),
        (["train", class_folders, "-o", tmp_path / "g", "--set", "colour=1"], "no colour; it has epochs"),
        (["train", class_folders, "-o", tmp_path / "g", "--set", 'epochs="many"'], "epochs must be a whole number"),
        (["train", class_folders, "-o", tmp_path / "g", "--epochs", "1", "--set", "epochs=2"], "epochs is set twice"),
        (["train", class_folders, "-o", gate / "gate.json" / "g"], "is a file"),
        (["evaluate", gate, "--id", class_folders, "--ood", "cats"], "NAME=DATA"),
        (["calibrate", gate, "-o", tmp_path / "g", "--alpha", "0.0001"], "at least 9999"),
    ]:
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.out == ""
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "broken.png").write_bytes(b"no image")
    assert run("screen", gate, tmp_path / "mixed" / "broken.png") == 1
    assert run("screen", gate, tmp_path / "mixed", "-o", tmp_path / "b.parquet") == 1
    assert "broken.png" in capsys.readouterr().err
    assert run("screen", gate, class_folders, "-o", tmp_path / "c.parquet", "--fail-on-reject") in (0, 4)
    rejected = pq.read_table(tmp_path / "c.parquet")["accepted"].to_pylist().count(False)
    assert (run("screen", gate, class_folders, "-o", tmp_path / "d.parquet", "--fail-on-reject") == 4) == (rejected > 0)


def test_an_image_elsewhere_has_a_verdict_as_one_here_has(
    gate: Path,
    class_folders: Path,
    tmp_path: Path,
    memory: Callable[[dict[str, bytes]], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = next((class_folders / "cat").glob("*.png"))
    place = memory({"x.png": image.read_bytes(), "broken.png": b"no image", "y.parquet": b""})
    verdicts = []
    for where in (image, image.as_uri(), f"{place}/x.png"):
        assert run("screen", gate, where, "--json") == 0
        verdicts.append(json.loads(capsys.readouterr().out))
    assert [verdict.pop("id") for verdict in verdicts] == [str(image), str(image), f"{place}/x.png"]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert run("screen", gate, f"{place}/broken.png") == 1
    assert "not an image" in capsys.readouterr().err
    for where in ("[a].png", "z.png/[b]*.png"):  # named like patterns, the second in a folder named like an image
        memory({where: image.read_bytes()})
        assert run("screen", gate, f"{place}/{where}") == 0
        assert where in capsys.readouterr().out
    for where, said in (
        ("gone.png", "gone.png does not exist"),
        ("*.png", "-o verdicts.parquet"),
        ("z.png", "-o verdicts.parquet"),
        ("", "-o verdicts.parquet"),
        ("y.parquet", "Parquet"),
    ):
        assert run("screen", gate, f"{place}/{where}") == 2
        assert said in capsys.readouterr().err
    assert run("screen", gate, f"{place}/x.png", "-o", tmp_path / "v.parquet") == 0
    assert pq.read_table(tmp_path / "v.parquet")["id"].to_pylist() == ["x.png"]


def test_what_is_left_out_is_said(class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--alpha", "0.2", "--width", "2", "--model-arg", "layers=[1,1,1,1]", "--epochs", "1", "--batch-size", "8"]
    for number in range(12):
        (class_folders / "cat" / f"broken{number:02d}.png").write_bytes(b"no image")
    (class_folders / "owl" / "notes.txt").write_text("no image")
    assert run("train", class_folders, "-o", tmp_path / "g", *quick) == 2
    said = capsys.readouterr().err
    assert "train images cannot be used" in said
    assert said.count("cat/broken") <= 10
    assert run("train", class_folders, "-o", tmp_path / "g", *quick, "--skip-unreadable") == 1
    captured = capsys.readouterr()
    assert "warning: " in captured.err
    assert "cannot be used, and the gate is made without:" in captured.err
    assert "1 other file skipped" in captured.out
    (tmp_path / "new").mkdir()
    for path in (class_folders / "dog").glob("*.png"):
        with Image.open(path) as image:
            image.rotate(90).save(tmp_path / "new" / path.name)
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    arguments = ["calibrate", tmp_path / "g", tmp_path / "new", "-o", tmp_path / "h"]
    assert run(*arguments, "--skip-unreadable", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["calibration_images"] == 20
    assert "1 calibration image cannot be used" in captured.err
    assert "broken.png: not an image" in captured.err
    assert run("evaluate", tmp_path / "g", "--id", class_folders / "dog", "--ood", f"odd={tmp_path / 'new'}") == 1
    assert "warning: id: " in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is needed")
def test_an_output_that_is_full_or_closed_is_no_defect() -> None:
    command = f"{sys.executable} -m normgate.cli scores"
    full = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True, check=False)
    assert (full.returncode, full.stderr) == (2, "error: the output cannot be written: No space left on device\n")
    closed = subprocess.run(f"{command} >&-", shell=True, capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_an_internal_error_is_three(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("normgate.scores.names", fail)
    assert run("scores") == 3
    assert "NORMGATE_DEBUG" in capsys.readouterr().err
    monkeypatch.setenv("NORMGATE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("scores")


def test_paths_on_standard_input(gate: Path, class_folders: Path, tmp_path: Path) -> None:
    paths = sorted(class_folders.rglob("*.png"))[:5]
    command = [sys.executable, "-m", "normgate.cli", "screen", str(gate), "-", "-o", str(tmp_path / "v.parquet")]
    subprocess.run(command, input="\n".join(map(str, paths)), text=True, check=True, capture_output=True)
    assert pq.read_metadata(tmp_path / "v.parquet").num_rows == 5


@pytest.fixture
def heard_ctrl_c() -> Iterator[None]:
    """Where tests are started to ignore Ctrl-C, as background jobs are, their children would ignore it, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_ctrl_c")
def test_ctrl_c_leaves_nothing_half_written(class_folders: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "normgate.cli", "train", str(class_folders), "-o", str(tmp_path / "g")]
    command += ["--epochs", "100000", "--batch-size", "8", "--alpha", "0.2", "--width", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "g.run" / "log.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in said
    assert f"the epochs so far are kept in {tmp_path / 'g.run'}; the same command with --resume" in " ".join(
        said.split()
    )
    assert "Traceback" not in said
    assert not (tmp_path / "g").exists()


def test_epochs_are_said_to_be_kept_only_where_they_are(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("No space left on device")

    def diverged(_: object, epoch: int) -> None:
        if epoch == 2:
            raise TrainingError("after epoch 2 weights of the network are not finite")

    def taken(*_: object, **__: object) -> None:
        (tmp_path / "g.run" / "checkpoint.safetensors").write_bytes(b"epochs of another run")
        raise RunFolderError("another run is writing")

    options = ["-o", tmp_path / "g", "--width", 2, "--model-arg", "layers=[1,1,1,1]", "--alpha", 0.2, "--score", "norm"]
    train = ["train", class_folders, *options, "--batch-size", 8]
    with monkeypatch.context() as patch:
        patch.setattr("normgate.training.loop._save", full)
        assert run(*train, "--epochs", 1) == 2
        assert "kept" not in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("normgate.gate.Gate.save", full)
        assert run(*train, "--epochs", 1) == 2
        assert "the epochs so far are kept in" in capsys.readouterr().err
    for refused in (["--epochs", 1], ["--epochs", 2, "--resume"]):
        assert run(*train, *refused) == 2
        assert "kept" not in capsys.readouterr().err
    assert run(*train, "--epochs", 1, "--resume") == 0
    with monkeypatch.context() as patch:  # what diverged would diverge again
        patch.setattr("normgate.training.loop._check_weights", diverged)
        assert run(*train, "--epochs", 3, "--overwrite") == 2
        said = capsys.readouterr().err
        assert "after epoch 2" in said
        assert "kept" not in said
    with monkeypatch.context() as patch:
        patch.setattr("normgate.pipeline.running", taken)
        assert run(*train, "--epochs", 3, "--overwrite") == 2
        said = capsys.readouterr().err
        assert "another run is writing" in said
        assert "kept" not in said


def test_an_exported_gate_takes_the_place_of_a_folder_where_it_can(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Gate.calibrate(
        small_network(),
        preprocessing=PREPROCESSING,
        calibration=random_records(60, 3),
        tuning=random_records(60, 2),
        classes=["a", "b", "c"],
    )
    own.save(tmp_path / "gate")
    capsys.readouterr()
    assert run("screen", tmp_path / "gate", class_folders, "-o", tmp_path / "v.parquet") == 2
    assert "what 'from normgate.export import export; export(gate, \"gate.onnx\")' writes" in capsys.readouterr().err
    export(own, tmp_path / "g.onnx")
    exported = ["screen", tmp_path / "g.onnx", class_folders, "-o", tmp_path / "v.parquet"]
    assert run(*exported, "--report", tmp_path / "r.html") == 2
    assert "only a gate's folder has" in capsys.readouterr().err
    assert run(*exported, "--shift-alarm", "0.1") in (0, 1)
    assert pq.read_table(tmp_path / "v.parquet").num_rows > 0
    image = class_folders / "cat" / "00.png"
    assert run("screen", tmp_path / "g.onnx", image) == 0
    assert run("screen", tmp_path / "g.onnx", image, "--runtime", "torch") == 2
    assert run("screen", class_folders, tmp_path / "g.onnx") == 2
    assert "the gate comes first" in capsys.readouterr().err
    assert run("screen", class_folders, tmp_path / "none.onnx") == 2
    assert "comes first" not in capsys.readouterr().err
    assert run("calibrate", class_folders, tmp_path / "g.onnx", "-o", tmp_path / "new") == 2
    assert "comes first" not in capsys.readouterr().err
    for command in ("inspect", "evaluate", "calibrate"):
        more = {"evaluate": ["--id", class_folders], "calibrate": [class_folders, "-o", tmp_path / "new"]}
        assert run(command, tmp_path / "g.onnx", *more.get(command, [])) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "is an exported gate, which is screened with and served, and no more" in said


def test_verdicts_are_said_to_be_kept_only_where_the_command_goes_on_with_them(
    gate: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("No space left on device")

    screen = ["screen", gate, class_folders, "-o", tmp_path / "v.parquet", "--runtime", "torch"]
    kept = "the verdicts so far are kept in"
    with monkeypatch.context() as patch:
        patch.setattr("normgate.screening.parts.Parts.publish", full)
        assert run(*screen) == 2
    assert capsys.readouterr().err.count(kept) == 1
    assert run(*screen, "--fdr", "0.1") == 2
    said = capsys.readouterr().err
    assert "another job" in said
    assert kept not in said
    (tmp_path / "v.parquet").touch()
    assert run(*screen) == 2
    assert kept not in capsys.readouterr().err


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write larger ones, as it refuses to write to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_nothing(
    gate: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = [class_folders, "--width", 2, "--model-arg", "layers=[1,1,1,1]", "--epochs", 1, "--alpha", 0.2]
    outputs = tmp_path / "outputs"
    for arguments in (
        ["screen", gate, class_folders, "-o", outputs / "v.parquet"],
        ["screen", gate, class_folders, "-o", outputs / "parts", "--fdr", "0.1"],
        ["calibrate", gate, "-o", outputs / "gate", "--alpha", "0.5"],
        ["evaluate", gate, "--id", class_folders, "--ood", f"cats={class_folders / 'cat'}", "-o", outputs / "e.json"],
        ["train", *training, "-o", outputs / "gate"],
    ):
        with files_of_at_most(1000):
            assert run(*arguments) == 2
        assert "cannot be written" in capsys.readouterr().err
        assert not outputs.exists() or not list(outputs.iterdir())


@pytest.mark.usefixtures("heard_ctrl_c")
def test_a_killed_screening_leaves_nothing_under_the_name(gate: Path, class_folders: Path, tmp_path: Path) -> None:
    target = tmp_path / "verdicts.parquet"
    command = [sys.executable, "-m", "normgate.cli", "screen", str(gate), "-", "-o", str(target)]
    for signal_, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdin is not None
        process.stdin.write(f"{class_folders / 'cat' / '00.png'}\n")
        process.stdin.flush()  # it waits for more, with its output open
        while not (tmp_path / "verdicts.parquet.run" / "_manifest.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert not target.exists()
        process.send_signal(signal_)
        process.communicate()
        assert process.returncode == code
        assert not target.exists()
        left = tmp_path / "verdicts.parquet.run"
        assert left.exists() == (signal_ == signal.SIGKILL)
        shutil.rmtree(left, ignore_errors=True)


def test_whoever_reads_may_go_away(gate: Path, class_folders: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in (["inspect", gate, "--json"], ["screen", gate, class_folders, "-o", tmp_path / "v.parquet"]):
        command = [sys.executable, "-m", "normgate.cli", *arguments]
        process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
        assert (process.returncode, process.stderr) == (0, "")
    os.close(writing)
    assert pq.read_metadata(tmp_path / "v.parquet").num_rows == 60


def test_names_of_files_do_not_drive_the_terminal(
    gate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "in" / "a\x1b[31m\nb.png"
    odd.parent.mkdir()
    odd.write_bytes(b"no image")
    assert run("screen", gate, odd) == 1
    assert run("screen", gate, odd.parent, "-o", tmp_path / "v.parquet") == 1
    printed = capsys.readouterr()
    assert "\x1b" not in printed.err + printed.out
    assert printed.err.count("a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b.png") == 2


def test_options_of_a_network_are_refused_beside_a_gate(
    gate: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--temperature", "1"], ["--width", "4"], ["--features", "fc"], ["--stem", "1"]):
        assert run("calibrate", gate, "-o", tmp_path / "g", *option) == 2
        assert f"{option[0]} describe a network" in capsys.readouterr().err
    assert run("calibrate", gate, class_folders, "--calibration", class_folders, "-o", tmp_path / "g") == 2
    assert "pass one of them" in capsys.readouterr().err


def test_what_is_not_there_is_said_first(gate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("screen", gate, tmp_path / "missing.png") == 2
    assert "does not exist" in capsys.readouterr().err


def test_json_carries_every_name_in_every_encoding(gate: Path, class_folders: Path, tmp_path: Path) -> None:
    image = tmp_path / "ümlaut.png"
    image.write_bytes((class_folders / "cat" / "00.png").read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "normgate.cli", "screen", str(gate), str(image), "--json"]
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert json.loads(done.stdout)["id"] == str(image)


def test_two_sets_of_calibration_images_are_one_too_many(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["--model", "resnet18", "--weights", "w.safetensors", "--preprocessing", "p.json"]
    assert run("calibrate", class_folders, "--calibration", class_folders, *network, "-o", tmp_path / "g") == 2
    assert "pass one of them" in capsys.readouterr().err


def test_a_terminal_without_greek_costs_no_job(gate: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "normgate.cli", "inspect", str(gate)]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (cli.train, normgate.train),
        (cli.calibrate, normgate.Gate.calibrate),
        (cli.screen, normgate.screen),
        (cli.evaluate, normgate.evaluate),
        (cli.serve, Options),
    ],
)
def test_defaults_are_those_of_python(command: Callable[..., None], function: Callable[..., object]) -> None:
    """The command line knows them before anything is imported; where it says None, Python decides."""
    names = {"alpha": "false_alarm_rate", "shift_alarm": "shift_delta"}
    said = {names.get(name, name): p.default for name, p in inspect.signature(command).parameters.items()}
    meant = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    given = {name for name, default in said.items() if default not in (None, inspect.Parameter.empty)}
    shared = given & meant.keys()
    assert len(shared) >= 2
    assert {name: said[name] for name in shared} == {name: meant[name] for name in shared}
