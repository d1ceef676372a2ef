"""From labelled images to a calibrated gate: split, fit, choose, calibrate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from normgate.backbones import Backbone, auto_stem, load_weights
from normgate.calibration.conformal import rank
from normgate.data.decoding import DEFAULT_MAX_PIXELS, ImageError, decode
from normgate.data.loading import load_batches
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Records, load, open_source
from normgate.errors import NormgateError
from normgate.features import FeatureExtractor
from normgate.files import check_output, explained, foreign_entry
from normgate.gate import AUTO, Gate
from normgate.gate.choosing import unfitted
from normgate.gate.duplicates import check as check_duplicates
from normgate.gate.duplicates import repeated
from normgate.gate.folder import GATE_FILES
from normgate.normalization import l2norm
from normgate.progress import silent
from normgate.training import Recipe, fit
from normgate.training.images import ResidentImages, StreamedImages
from normgate.training.splitting import split

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from lightning_fabric import Fabric

    from normgate.data.sources import Data, Record
    from normgate.progress import Progress
    from normgate.scores import Score
    from normgate.training.images import TrainingImages

SMALL_IMAGE = 96
PHOTO_SIZE = 224
RESIDENT_BYTES = 4 * 2**30
FIT_ROWS = 50_000
RUN_FILES = ("checkpoint.safetensors", "log.csv", ".*.partial*")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
_STATISTICS_ROWS = 10_000


class PipelineError(NormgateError):
    """A gate cannot be trained from this data as asked."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Where and how training runs; the defaults take what is there.

    Attributes:
        accelerator: `auto`, `cpu`, `cuda`, `mps`, …
        devices: number of devices on each machine.
        nodes: number of machines.
        strategy: `auto`, or a name of `STRATEGIES`: those of Lightning Fabric that keep the network whole.
        precision: of Lightning Fabric; by default `bf16-mixed` on CUDA and `32-true` elsewhere.
    """

    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str | None = None

    def fabric(self) -> Fabric:
        """A launched Fabric.

        Raises:
            PipelineError: there is no such device here, or no such strategy or precision.
        """
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        if self.strategy not in STRATEGIES:
            raise PipelineError(
                f"the strategy {self.strategy!r} is not one of {', '.join(STRATEGIES)}: checkpoint and gate need "
                "the whole network in one process"
            )
        precision = self.precision
        if precision is None:
            cuda = self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
            precision = "bf16-mixed" if cuda else "32-true"
        try:
            fabric = Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.nodes,
                strategy=self.strategy,
                precision=precision,  # type: ignore[arg-type]
            )
        except (RuntimeError, ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise PipelineError(f"training cannot run as asked: {error} (--device, --devices, --precision)") from error
        fabric.launch()
        return fabric


def train(
    data: Data,
    output: str | os.PathLike[str] | None = None,
    *,
    recipe: Recipe | str = "paper",
    model: str = "resnet18",
    width: int | None = None,
    stem: int | Literal["auto"] | None = "auto",
    model_args: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    tuning: Data | None = None,
    calibration: Data | None = None,
    score: str | Score = AUTO,
    false_alarm_rate: float = 0.05,
    by_class: bool = False,
    seed: int = 0,
    hardware: Hardware | None = None,
    resume: bool = False,
    overwrite: bool = False,
    drop_duplicates: bool = False,
    skip_unreadable: bool = False,
    lean: bool = False,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress = silent,
) -> Gate:
    """Train a network on labelled images and calibrate a gate with some of them.

    Tuning and calibration images, 10 % and at most 2,000 each, are held out before training unless they are given;
    see `normgate.training.splitting.split`.

    Args:
        data: labelled images; see `open_source`. Where its records name groups (a person,
            a scene), no split divides one.
        output: folder of the gate; while training, `<output>.run` holds the checkpoint and `log.csv`. None keeps the
            gate in memory.
        recipe: how to train; a name of `RECIPES` or a `Recipe`.
        model: name of a timm network.
        width: channels of the first stage of a slim ResNet.
        stem: stride of a small-image stem, None for the network's own, "auto" by the images' size (ResNets).
        model_args: further arguments of the timm network.
        image_size: side of the square input; by default the images' own if small, else 224.
        weights: a local checkpoint to start from.
        tuning: tuning images, instead of a part of `data`.
        calibration: calibration images, instead of a part of `data`.
        score: by default the one that probes choose, made of the tuning images; see `Gate.calibrate`, as are the next
            two.
        false_alarm_rate: α.
        by_class: thresholds by predicted class.
        seed: of everything that is random.
        hardware: where to train.
        resume: go on with the unfinished run of the same arguments, from the last finished epoch.
        overwrite: replace an output, and an unfinished run.
        drop_duplicates: see `Gate.calibrate`, as are the next four.
        skip_unreadable: go on without images that cannot be read.
        lean: keep no features.
        workers: decoding threads.
        max_pixels: larger images are errors.
        progress: told how far it is.

    Raises:
        NormgateError: a subclass for each thing that can be wrong; the message names the fix.
    """
    recipe = Recipe.named(recipe) if isinstance(recipe, str) else recipe
    made = unfitted(score, train=True, tuning=True)  # what no gate can hold is said before the images are read
    target = None if output is None else Path(output)
    if target is not None and resume and (target / "gate.json").exists():
        asked: dict[str, Any] = {"recipe": recipe.to_dict(), "model": model, "width": width, "seed": seed}
        asked |= {"false_alarm_rate": false_alarm_rate, "by_class": by_class}
        asked["score"] = AUTO if made is None else made.name
        return _finished(target, asked)
    if target is not None:
        check_output(target, overwrite=overwrite, holds=GATE_FILES)
        _check_run(_run_folder(target), resume=resume, overwrite=overwrite)

    source = open_source(data, labelled=True)
    assert source.classes is not None  # open_source checked
    classes = source.classes
    records = load(source)
    parts = split(
        [str(record.label) for record in records],
        [record.group for record in records] if any(record.group is not None for record in records) else None,
        seed=seed,
        alpha=false_alarm_rate,
        hold_tuning=tuning is None,
        hold_calibration=calibration is None,
    )
    sets = {
        "train": records.subset(parts.train),
        "tuning": records.subset(parts.tuning) if tuning is None else load(open_source(tuning, labelled=False)),
        "calibration": records.subset(parts.calibration)
        if calibration is None
        else load(open_source(calibration, labelled=False)),
    }
    # Further processes start here, and not before: what was wrong until now has been said once.
    fabric = (hardware or Hardware()).fabric()
    if target is None and fabric.world_size > 1:
        raise PipelineError("several processes share the gate through its folder; pass output=")
    progress = progress if fabric.is_global_zero else silent
    preprocessing = _geometry(sets["train"], image_size, max_pixels, recipe.standardize)
    pixels = {
        name: _read(
            name,
            part,
            preprocessing,
            keep=name == "train",
            skip=skip_unreadable,
            workers=workers,
            max_pixels=max_pixels,
            progress=progress,
        )
        for name, part in sets.items()
    }
    pixels = _apart(pixels, drop_duplicates)
    _check_enough(pixels, classes, false_alarm_rate)
    sets = {name: Records(part.records, classes if name == "train" else None) for name, part in pixels.items()}
    if not recipe.standardize:
        mean, std = _statistics(pixels["train"], preprocessing, max_pixels)
        preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)

    torch.manual_seed(seed)
    backbone = Backbone(
        model,
        len(classes),
        width,
        auto_stem(model, min(preprocessing.size)) if stem == "auto" else stem,
        model_args or {},
    )
    network = backbone.build()
    if recipe.temperature is not None:
        l2norm(network, temperature=recipe.temperature)
    if weights is not None:
        load_weights(network, weights)
    FeatureExtractor(network, preprocessing, device=fabric.device)  # says now if it does not take such images
    run = {
        "recipe": recipe.to_dict(),
        "backbone": backbone.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "seed": seed,
        "weights": None if weights is None else _file_digest(Path(weights)),
        "images": _fingerprint(pixels["train"], classes),
    }
    gate: Gate | None = None
    with _running(target, resume=resume, main=fabric.is_global_zero) as folder, _others_waiting(fabric):
        log = fit(
            network,
            _training_images(pixels["train"], classes, preprocessing, workers, max_pixels, fabric.device),
            recipe,
            preprocessing,
            fabric=fabric,
            seed=seed,
            run=run,
            folder=folder,
            resume=resume,
            progress=progress,
        )
        if fabric.is_global_zero:
            gate = Gate.calibrate(
                network,
                calibration=sets["calibration"],
                tuning=sets["tuning"],
                train=_fit_sample(sets["train"], seed),
                preprocessing=preprocessing,
                classes=classes,
                score=AUTO if made is None else made,
                false_alarm_rate=false_alarm_rate,
                by_class=by_class,
                backbone=backbone,
                lean=lean,
                skip_unreadable=skip_unreadable,
                workers=workers,
                max_pixels=max_pixels,
                provenance={
                    "run": run,
                    "log": log,
                    "score": AUTO if made is None else made.name,
                    "sets": {name: len(part) for name, part in sets.items()},
                },
                progress=progress,
            )
            # The score is fitted to a sample; what the network has seen is all of them.
            gate = dataclasses.replace(gate, digests={**gate.digests, "train": pixels["train"].digests})
            if target is not None:
                gate.save(target, overwrite=overwrite)
    if gate is None:
        assert target is not None  # or there would be one process
        gate = Gate.load(target)
    return gate


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """The images of one set that could be read: fingerprints, and pixels where they fit into memory."""

    records: tuple[Record, ...]
    digests: tuple[bytes, ...]
    pixels: np.ndarray | None

    def without(self, rows: Sequence[int]) -> _Read:
        """All but some images."""
        left = np.setdiff1d(np.arange(len(self.records)), rows)
        return _Read(
            tuple(self.records[row] for row in left),
            tuple(self.digests[row] for row in left),
            None if self.pixels is None else self.pixels[left],
        )


def _apart(sets: Mapping[str, _Read], drop_duplicates: bool) -> dict[str, _Read]:
    """The sets without images that an earlier one has, too; an error unless these may be dropped."""
    digests = {name: part.digests for name, part in sets.items()}
    if not drop_duplicates:
        check_duplicates(digests)
        return dict(sets)
    rows = repeated(digests)
    return {name: part.without(rows[name]) if rows[name] else part for name, part in sets.items()}


def _check_enough(sets: Mapping[str, _Read], classes: Sequence[str], alpha: float) -> None:
    """Say before training, and not after it, that images are missing."""
    seen = {record.label for record in sets["train"].records}
    if missing := [name for name in classes if name not in seen]:
        raise PipelineError(
            f"no training image of {', '.join(map(repr, missing[:5]))} is left; add images that can be read, or leave "
            "the class out of the data"
        )
    if not sets["tuning"].records:
        raise PipelineError("no tuning image is left; pass tuning images of their own (--tuning)")
    rank(alpha, len(sets["calibration"].records))


def _read(
    name: str,
    source: Sequence[Record],
    preprocessing: Preprocessing,
    *,
    keep: bool,
    skip: bool,
    workers: int | None,
    max_pixels: int,
    progress: Progress,
) -> _Read:
    """Decode every image once, before any training: what cannot be read is found out now and not after hours."""
    height, width = preprocessing.size
    keep = keep and len(source) * height * width * 3 <= RESIDENT_BYTES
    records: list[Record] = []
    digests: list[bytes] = []
    errors: list[str] = []
    kept: list[np.ndarray] = []
    for batch in load_batches(source, preprocessing, workers=workers, max_pixels=max_pixels, digests=True):
        records += [record for record, readable in zip(batch.records, batch.readable, strict=True) if readable]
        digests += batch.digests
        errors += [
            f"{record.id}: {error}"
            for record, error in zip(batch.records, batch.errors, strict=True)
            if error is not None
        ]
        if keep:
            kept.append(batch.pixels)
        progress(f"reading {name} images", len(records) + len(errors), len(source))
    if errors and not skip:
        raise PipelineError(
            f"{len(errors)} {name} images cannot be read (the first: {errors[0]}); "
            "mend or remove them, or pass --skip-unreadable (skip_unreadable=True) to go on without them"
        )
    return _Read(tuple(records), tuple(digests), np.concatenate(kept) if keep else None)


def _geometry(records: Sequence[Record], size: int | None, max_pixels: int, standardize: bool) -> Preprocessing:
    """A square input: of the side asked for, of the images' own where they are small, else of 224 pixels."""
    if size is None:
        sides = []
        for record in records[:100]:
            try:
                sides.append(min(decode(record.payload, max_pixels=max_pixels).size))
            except ImageError:
                continue
        side = int(np.median(sides)) if sides else PHOTO_SIZE
        size = side if 8 <= side <= SMALL_IMAGE else PHOTO_SIZE
    return Preprocessing((size, size), resize=size, standardize=standardize)


def _statistics(
    read: _Read, preprocessing: Preprocessing, max_pixels: int
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel over (at most 10,000) training images, as fractions of 255."""
    rows = np.linspace(0, len(read.records) - 1, min(_STATISTICS_ROWS, len(read.records))).astype(int)
    counts = np.zeros((3, 256), dtype=np.int64)
    for row in rows:
        pixels = (
            preprocessing.resized(decode(read.records[row].payload, max_pixels=max_pixels))
            if read.pixels is None
            else read.pixels[row]
        )
        for channel in range(3):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(np.maximum(weights @ values**2 - mean**2, 1e-6))
    red, green, blue = mean.round(6).tolist()
    spread_red, spread_green, spread_blue = std.round(6).tolist()
    return (red, green, blue), (spread_red, spread_green, spread_blue)


def _training_images(
    read: _Read,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    workers: int | None,
    max_pixels: int,
    device: torch.device,
) -> TrainingImages:
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[str(record.label)] for record in read.records])
    if read.pixels is None:
        return StreamedImages(read.records, labels, preprocessing, workers, max_pixels)
    return ResidentImages(torch.from_numpy(read.pixels).to(device), labels.to(device))


def _finished(target: Path, asked: Mapping[str, Any]) -> Gate:
    """The gate of a run that had ended before it was to be resumed, if it is the one that is asked for."""
    gate = Gate.load(target)
    run: Mapping[str, Any] = gate.provenance.get("run", {})
    network = run.get("backbone", {})
    found = {"recipe": run.get("recipe"), "model": network.get("name"), "width": network.get("width")}
    found |= {"seed": run.get("seed"), "score": gate.provenance.get("score")}
    found |= {"false_alarm_rate": gate.calibration.alpha, "by_class": gate.calibration.by_class}
    if differing := [name for name, value in asked.items() if found[name] != value]:
        raise PipelineError(
            f"{target} is finished, and {', '.join(differing)} differ from what is asked for; for another rate or "
            "score use 'normgate calibrate', and to train anew another output or --overwrite"
        )
    folder = _run_folder(target)
    if folder.is_dir() and foreign_entry(folder, RUN_FILES) is None:
        shutil.rmtree(folder)  # left by a run that was killed between its last two steps
    return gate


def _run_folder(target: Path) -> Path:
    """Where checkpoint and log of an unfinished run are kept."""
    return target.with_name(target.name + ".run")


def _check_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if folder.exists() and (foreign := foreign_entry(folder, RUN_FILES)) is not None:
        raise PipelineError(
            f"{folder} holds {foreign}, which no run has written, so it is left alone; choose another output"
        )
    if folder.exists() and not resume and not overwrite:
        raise PipelineError(
            f"{folder} holds an unfinished run; pass --resume to go on with it, or --overwrite to train anew"
        )


@contextlib.contextmanager
def _running(target: Path | None, *, resume: bool, main: bool) -> Iterator[Path]:
    """A folder for checkpoint and log while training: `<target>.run`, removed when the gate stands."""
    if target is None:
        with tempfile.TemporaryDirectory(prefix="normgate-") as name:
            yield Path(name)
        return
    folder = _run_folder(target)
    if main:
        if folder.exists() and not resume:
            shutil.rmtree(folder)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        if main and not any(folder.iterdir()):  # there is nothing to resume
            folder.rmdir()
        raise
    if main:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _others_waiting(fabric: Fabric) -> Iterator[None]:
    """The other processes wait for the first to end the block, well or with an error that it tells."""
    try:
        yield
    except NormgateError:
        fabric.barrier()
        raise
    fabric.barrier()


def _fit_sample(records: Records, seed: int) -> Records:
    """At most 50,000 training images, drawn at random, for the scores to be fitted to."""
    if len(records) <= FIT_ROWS:
        return records
    rows = np.sort(np.random.default_rng(seed).choice(len(records), FIT_ROWS, replace=False))
    return records.subset(rows.tolist())


def _fingerprint(read: _Read, classes: tuple[str, ...]) -> str:
    """Identifies the training images and their labels, in order."""
    state = hashlib.blake2b(digest_size=16)
    for record, digest in zip(read.records, read.digests, strict=True):
        state.update(digest + str(record.label).encode(errors="surrogateescape") + b"\0")
    state.update("\0".join(classes).encode(errors="surrogateescape"))
    return state.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
