"""From labelled images to a calibrated gate: split, fit, choose, calibrate, save."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from normgate.backbones import Backbone, auto_stem, load_weights
from normgate.calibration import smallest_n
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.sources import Records, load, open_source
from normgate.errors import NormgateError
from normgate.extractor import FeatureExtractor
from normgate.files import check_output, sha256
from normgate.gate import AUTO, Gate
from normgate.gate.choosing import unfitted
from normgate.gate.duplicates import warn_of_copies
from normgate.gate.folder import foreign
from normgate.gate.gate import trained_here
from normgate.gate.sets import ReadingOptions, open_held_out, warn_of_other_folders, warn_of_other_labels
from normgate.normalization import l2norm
from normgate.progress import silent
from normgate.training import Hardware, Recipe, fit
from normgate.training.geometry_log import GeometryLog, sample
from normgate.training.images import ResidentImages, StreamedImages
from normgate.training.loop import check_batch
from normgate.training.objective import trained_on_probes
from normgate.training.processes import agreed, check_same, noticing_loss, patient
from normgate.training.reading import (
    channel_statistics,
    check_enough,
    fingerprint,
    read,
    square_input,
    warn_of_contradictions,
)
from normgate.training.run_folder import CHECKPOINT, check_run, remove_leftover, run_folder, running
from normgate.training.splitting import check_groups, split

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lightning_fabric import Fabric
    from torch import nn

    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import Data
    from normgate.progress import Progress
    from normgate.scores import Score
    from normgate.training.images import TrainingImages
    from normgate.training.reading import ImageSet

FIT_ROWS = 50_000
MOST_SEED = 2**63 - 1  # what every generator takes


class PipelineError(NormgateError):
    """A gate cannot be trained from this data as asked."""


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
    squash: bool = False,
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
    log_geometry: bool = False,
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
        squash: bring images that are no squares to that one as a whole, out of proportion, and not their middle alone.
        weights: a local checkpoint to start from.
        tuning: tuning images, instead of a part of `data`.
        calibration: calibration images, instead of a part of `data`.
        score: by default the one that probes choose, made of the tuning images; see `Gate.calibrate`, as are the next
            two.
        false_alarm_rate: α.
        by_class: thresholds by predicted class.
        seed: of everything that is random.
        hardware: where to train.
        resume: go on with the unfinished run of the same arguments, from the last epoch that is on the disk.
        overwrite: replace an output, and an unfinished run.
        drop_duplicates: see `Gate.calibrate`, as are `workers` and `max_pixels`.
        skip_unreadable: go on without images that cannot be read.
        lean: keep no features.
        log_geometry: after each epoch measure neural collapse on up to 2,000 training images, for the log; the gate
            keeps it under `provenance["log"]`.
        workers: decoding threads.
        max_pixels: larger images are errors.
        progress: told how far it is.

    Raises:
        NormgateError: a subclass for each thing that can be wrong; the message names the fix.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.named(recipe)
    if not isinstance(seed, int) or not 0 <= seed <= MOST_SEED:
        raise PipelineError(f"a seed is a whole number from 0 to {MOST_SEED}, not {seed!r}")
    smallest_n(false_alarm_rate)
    made = unfitted(score, train=True, tuning=True)  # what no gate can hold is said before the images are read
    target = None if output is None else Path(output)
    finished = target is not None and _is_finished(target, resume=resume, overwrite=overwrite)
    sets, classes = _sets(data, tuning, calibration, seed=seed, alpha=false_alarm_rate)
    # Further processes start here, and not before: what was wrong until now has been said once.
    hardware = hardware or Hardware()
    fabric = _fabric(hardware, recipe, target)
    progress = progress if fabric.is_global_zero else silent
    reading = ReadingOptions(
        drop_duplicates=drop_duplicates,
        skip_unreadable=skip_unreadable,
        workers=workers,
        max_pixels=max_pixels,
        progress=progress,
    )
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with noticing_loss(fabric), torch.random.fork_rng(cuda):  # the caller's random numbers go on as they were
        group = patient(fabric)
        with agreed(fabric, group):
            preprocessing = square_input(
                sets["train"], image_size, max_pixels, squash=squash, standardize=recipe.standardize
            )
            pixels = read(sets, preprocessing, reading)
            check_enough(pixels, classes, false_alarm_rate, by_class=by_class)
            warn_of_contradictions(pixels["train"])
            warn_of_copies(pixels["calibration"].digests)
            warn_of_other_folders(
                {name: [record.id for record in part.records] for name, part in pixels.items()}, classes
            )
            if made is not None:
                made.check_rows(min(FIT_ROWS, len(pixels["train"].records)))
            sets = {name: Records(part.records, sets[name].classes) for name, part in pixels.items()}
            if not recipe.standardize:
                mean, std = channel_statistics(pixels["train"], preprocessing, max_pixels)
                preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)
            stride = auto_stem(model, min(preprocessing.size)) if stem == "auto" else stem
            backbone = Backbone(model, len(classes), width, stride, model_args or {}, recipe.head_bias)
            network = _network(backbone, recipe, weights, seed)
            # Says now if the network does not take such images.
            extractor = FeatureExtractor(network, preprocessing, device=fabric.device)
            run = {
                "recipe": recipe.to_dict(),
                "backbone": backbone.to_dict(),
                "preprocessing": preprocessing.to_dict(),
                "seed": seed,
                "weights": None if weights is None else sha256(Path(weights)),
                "images": fingerprint(pixels["train"], classes),
                "log_geometry": log_geometry,
            }
            if target is not None and finished:
                asked = {**run, "false_alarm_rate": false_alarm_rate, "by_class": by_class, "lean": lean}
                done = _finished(target, asked, made, {name: part.digests for name, part in pixels.items()}, overwrite)
                if done is not None:
                    if fabric.is_global_zero:
                        remove_leftover(run_folder(target))
                    return done
        check_same(fabric, run, "give every process the same command, and every machine the same images")
        gate: Gate | None = None

        def check() -> None:  # again, once no other run can write it
            if target is not None:
                check_output(target, overwrite=overwrite, foreign=foreign)

        with running(target, resume=resume, overwrite=overwrite, fabric=fabric, check=check) as folder:
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
                compiled=hardware.compile,
                magnitude=extractor.magnitude,
                measure=GeometryLog(extractor, sample(sets["train"], classes), classes, workers, max_pixels)
                if log_geometry
                else None,
                progress=progress,
            )
            with agreed(fabric, group):  # the others wait, so that every image's features are there once
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
                        trained_on_probes=trained_on_probes(recipe),
                        lean=lean,
                        skip_unreadable=skip_unreadable,
                        workers=workers,
                        max_pixels=max_pixels,
                        provenance={
                            "run": run,
                            "log": log,
                            "sets": {name: len(part) for name, part in sets.items()},
                        },
                        progress=progress,
                    )
                    # The score is fitted to a sample; what the network has seen is all of them.
                    digests = {**gate.digests, "train": pixels["train"].digests}
                    provenance = {**gate.provenance, "score": _noted(made, gate.score)}
                    gate = dataclasses.replace(gate, digests=digests, provenance=provenance)
                    if target is not None:
                        gate.save(target, overwrite=overwrite)
        if gate is None:
            assert target is not None  # or there would be one process
            gate = Gate.load(target)
        return gate


def _is_finished(target: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether the run that is to be resumed has ended; where it has not, whether its output can be written.

    Raises:
        OutputError: the output is in the way.
        RunFolderError: the folder of an unfinished run is.
    """
    # With overwrite, an unfinished run is to go on and to take the place of the gate that is there.
    replacing = overwrite and (run_folder(target) / CHECKPOINT).exists()
    if resume and (target / "gate.json").exists() and not replacing:
        return True
    check_output(target, overwrite=overwrite, foreign=foreign)
    check_run(run_folder(target), resume=resume, overwrite=overwrite)
    return False


def _fabric(hardware: Hardware, recipe: Recipe, target: Path | None) -> Fabric:
    """The processes that train."""
    if isinstance(hardware.devices, int) and (processes := hardware.devices * hardware.nodes) > 0:
        check_batch(recipe.batch_size, processes)
    fabric = hardware.fabric()
    if target is None and fabric.world_size > 1:
        raise PipelineError("several processes share the gate through its folder; pass output=")
    return fabric


def _sets(
    data: Data, tuning: Data | None, calibration: Data | None, *, seed: int, alpha: float
) -> tuple[dict[str, Records], tuple[str, ...]]:
    """Training, tuning and calibration images, held out of `data` where they are not given, and the classes."""
    source = open_source(data, labelled=True)
    assert source.classes is not None  # open_source checked
    loaded = load(source)
    records = loaded.subset(row for row, record in enumerate(loaded) if record.label is not None)
    # What is known to be unreadable (a damaged tar) has no label; reading the training images says so.
    unlabelled = [record for record in loaded if record.label is None]
    parts = split(
        [str(record.label) for record in records],
        [record.group for record in records] if any(record.group is not None for record in records) else None,
        seed=seed,
        alpha=alpha,
        hold_tuning=tuning is None,
        hold_calibration=calibration is None,
    )
    sets = {
        "train": Records([*records.subset(parts.train), *unlabelled], source.classes),
        "tuning": records.subset(parts.tuning) if tuning is None else load(open_held_out(tuning)),
        "calibration": records.subset(parts.calibration) if calibration is None else load(open_held_out(calibration)),
    }
    check_groups({name: (record.group for record in part) for name, part in sets.items()})
    warn_of_other_labels(sets, source.classes)
    return sets, source.classes


def _network(backbone: Backbone, recipe: Recipe, weights: str | os.PathLike[str] | None, seed: int) -> nn.Module:
    """The network before its first step, normalised as the recipe says, with the weights that it starts from."""
    torch.manual_seed(seed)
    network = backbone.build()
    if recipe.temperature is not None:
        l2norm(network, temperature=recipe.temperature)
    if weights is not None:
        load_weights(network, weights)
    return network


def _finished(
    target: Path,
    asked: Mapping[str, Any],
    score: Score | None,
    digests: Mapping[str, tuple[bytes, ...]],
    overwrite: bool,
) -> Gate | None:
    """The gate of a run that had ended before it was to be resumed, if it is the one that is asked for.

    None where it is not, and may be replaced: the run that was to do so had not come to the end of an epoch.

    Raises:
        PipelineError: it is not, and is to stay.
    """
    gate = Gate.load(target)
    found = {
        **(gate.provenance["run"] if trained_here(gate.provenance) else {}),
        "false_alarm_rate": gate.calibration.alpha,
        "by_class": gate.calibration.by_class,
        "lean": not gate.kept,
    }
    differing = [name for name, value in json.loads(json.dumps(asked)).items() if found.get(name) != value]
    if any(gate.provenance.get("score") != _noted(score, now) for now in (gate.score, score or gate.score)):
        differing.append("score")
    differing += [f"{name} images" for name in ("tuning", "calibration") if gate.digests.get(name) != digests[name]]
    if differing and overwrite:
        return None
    if differing:
        anew = "to train anew another output or --overwrite"
        if (run_folder(target) / CHECKPOINT).exists():
            anew = f"to go on with the unfinished run in {run_folder(target)} pass --overwrite (overwrite=True), too"
        raise PipelineError(
            f"{target} is finished, and not what is asked for ({', '.join(differing)}); for another rate or score use "
            f"'normgate calibrate', and {anew}"
        )
    return gate


def _noted(asked: Score | None, score: Score) -> dict[str, Any]:
    """What was asked for, None that probes choose, and what a gate then has: it may be given another score later."""
    note = {"asked": AUTO if asked is None else asked.name, "name": score.name, "settings": score.settings}
    copied: dict[str, Any] = json.loads(json.dumps(note))
    return copied


def _training_images(
    read: ImageSet,
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


def _fit_sample(records: Records, seed: int) -> Records:
    """At most 50,000 training images, drawn at random, for the scores to be fitted to."""
    if len(records) <= FIT_ROWS:
        return records
    rows = np.sort(np.random.default_rng(seed).choice(len(records), FIT_ROWS, replace=False))
    return records.subset(rows.tolist())
