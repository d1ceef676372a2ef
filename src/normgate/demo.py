"""The demo: the embedded hand signs through all of it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normgate.data.demo import demo_set
from normgate.data.sources import load
from normgate.evaluation import evaluate
from normgate.files import OutputError, check_output, is_system, listed, whole_folder
from normgate.pipeline import train
from normgate.progress import silent
from normgate.report.checks import installed
from normgate.report.writing import evaluation_report
from normgate.screening import screen
from normgate.training import Recipe
from normgate.training.splitting import divide_groups

if TYPE_CHECKING:
    from normgate.data.sources import Record, Records
    from normgate.evaluation import Evaluation
    from normgate.gate import Gate
    from normgate.progress import Progress
    from normgate.screening import Summary

OUTLIERS = ("near", "far-satellite", "far-waste")
# A ResNet with one block a stage and 16 to 128 channels: about two minutes of one core.
NETWORK: dict[str, Any] = {
    "model": "resnet18",
    "width": 16,
    "stem": 2,
    # With unit features and one block a stage, blocks that start as identities (timm's default) learn too slowly.
    "model_args": {"layers": [1, 1, 1, 1], "zero_init_last": False},
}
# Chosen among seven on pairs of the known signs, held out in turn: benchmarks/held_out.py.
RECIPE = Recipe(epochs=60, batch_size=32, learning_rate=0.1, shift=6 / 64)
MARK = "demo.json"


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo made and found.

    Attributes:
        folder: everything that was written.
        gate: the gate.
        evaluation: on the test signs and three sets of outliers.
        summary: of screening the mixed folder.
        report: whether there is a `report.html`; it needs the extra `report`.
        seconds: in all.
    """

    folder: Path
    gate: Gate
    evaluation: Evaluation
    summary: Summary
    report: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The figures, as fractions of 1."""
        outcome = self.evaluation.outcome
        assert outcome is not None  # it is a gate's
        return {
            "accuracy": self.evaluation.accuracy,
            "score": self.gate.score.name,
            "auroc": {
                score: {name: value.auroc for name, value in by_set.items()}
                for score, by_set in self.evaluation.metrics.items()
            },
            "false_alarm_rate": {
                "promised": outcome.promised,
                "realised": outcome.realised,
                "band": outcome.band,
            },
            "seconds": self.seconds,
        }


def demo(
    output: str | os.PathLike[str] = "normgate-demo",
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> DemoResult:
    """Train, calibrate, evaluate and screen the embedded set.

    Writes `gate/`, `incoming/` (image files, known and unknown, and one that is broken), `verdicts.parquet`,
    `report.html` (with the extra `report`) and `demo.json` below `output`, which appears whole or not at all; an
    earlier demo there is replaced.

    Raises:
        OutputError: `output` exists and is no earlier demo, or cannot be written.
    """
    started = time.perf_counter()
    folder = Path(output)
    earlier = (folder / MARK).is_file()
    if os.path.lexists(folder) and not earlier:
        raise OutputError(f"{folder} exists and is no earlier demo; name another folder (-o), or remove it")
    check_output(folder, overwrite=earlier, foreign=_foreign)
    held_out = load(demo_set("calibration"))
    tuning_rows, calibration_rows = divide_groups([record.group for record in held_out], seed)
    with whole_folder(folder, foreign=_foreign, overwrite=earlier) as work:
        gate = train(
            demo_set("train"),
            work / "gate",
            tuning=held_out.subset(tuning_rows),
            calibration=held_out.subset(calibration_rows),
            recipe=RECIPE,
            seed=seed,
            progress=progress,
            **NETWORK,
        )
        sets = {name: load(demo_set(name)) for name in OUTLIERS}
        test = load(demo_set("test"))
        evaluation = evaluate(gate, test, sets, keep_features=True, progress=progress)
        _write_incoming(work / "incoming", test, sets)
        summary = screen(gate, work / "incoming", work / "verdicts.parquet", progress=progress)
        if reported := installed():
            images = {"id": test, **sets}
            # These training images are public, so that the nearest of them may be shown.
            near = demo_set("train")
            evaluation_report(gate, evaluation, images, work / "report.html", neighbours=near, progress=progress)
        result = DemoResult(folder, gate, evaluation, summary, reported, time.perf_counter() - started)
        written = {**result.to_dict(), "files": _files(work)}
        (work / MARK).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return result


def _files(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not is_system(path.name))
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _foreign(folder: Path) -> str | None:
    """The name of a file that no demo has written; None where there is none."""
    own = listed(folder / MARK)
    return next((name for name in _files(folder) if name not in own), None)


def _write_incoming(folder: Path, test: Records, sets: dict[str, Records]) -> None:
    """Every fourth image of each set as a file of its own, and one that is cut off in the middle."""
    for name, source in {"known": test, **sets}.items():
        (folder / name).mkdir(parents=True)
        for number, record in enumerate(source[::4]):
            (folder / name / f"{number:03d}.webp").write_bytes(_encoded(record))
    whole = _encoded(test[0])
    (folder / "broken.webp").write_bytes(whole[: len(whole) // 2])


def _encoded(record: Record) -> bytes:
    assert isinstance(record.payload, bytes)  # the embedded set is a Parquet table
    return record.payload
