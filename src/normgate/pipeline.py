"""From labelled images to a calibrated gate: split, fit, choose, calibrate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from normgate.backbones import Backbone, auto_stem, load_weights
from normgate.calibration import smallest_n
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.sources import Records, load, open_source
from normgate.errors import NormgateError
from normgate.features import FeatureExtractor
from normgate.files import check_output
from normgate.gate import AUTO, Gate
from normgate.gate.choosing import unfitted
from normgate.gate.folder import foreign
from normgate.normalization import l2norm
from normgate.progress import silent
from normgate.training import Recipe, fit
from normgate.training.geometry_log import GeometryLog, sample
from normgate.training.images import ResidentImages, StreamedImages
from normgate.training.objective import trained_on_probes
from normgate.training.processes import agreed, check_same, noticing_loss, part_at_exit, patient
from normgate.training.reading import channel_statistics, check_enough, fingerprint, geometry, read, separated
from normgate.training.run_folder import check_run, remove_leftover, run_folder, running
from normgate.training.splitting import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lightning_fabric import Fabric

    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import Data
    from normgate.progress import Progress
    from normgate.scores import Score
    from normgate.training.images import TrainingImages
    from normgate.training.reading import ImageSet

FIT_ROWS = 50_000
MOST_SEED = 2**63 - 1  # what every generator takes
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


class PipelineError(NormgateError):
    """A gate cannot be trained from this data as asked."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Where and how training runs; the defaults take what is there.

    Attributes:
        accelerator: `auto`, `cpu`, `cuda`, `mps`, …
        devices: number of devices on each machine, a process each; they share a recipe's batch.
        nodes: number of machines, each of which runs the same command with `MASTER_ADDR`, `MASTER_PORT` and `NODE_RANK`
            set, or under a launcher (torchrun, Slurm).
        strategy: `auto`, or a name of `STRATEGIES`: those of Lightning Fabric that keep the network whole.
        precision: of Lightning Fabric; by default `bf16-mixed` on CUDA and `32-true` elsewhere.
        compile: let torch.compile write the code of a training step.
    """

    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str | None = None
    compile: bool = False

    def fabric(self) -> Fabric:
        """A launched Fabric.

        Raises:
            PipelineError: there is no such device here, no such strategy or precision, or no way to the other machines.
        """
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
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
            with _without_hints():
                fabric = Fabric(
                    accelerator=self.accelerator,
                    devices=self.devices,
                    num_nodes=self.nodes,
                    strategy=self.strategy,
                    precision=precision,  # type: ignore[arg-type]
                )
        except (RuntimeError, ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise PipelineError(f"training cannot run as asked: {error} (--device, --devices, --precision)") from error
        environment = getattr(fabric.strategy, "cluster_environment", None)
        if self.nodes > 1 and isinstance(environment, LightningEnvironment):  # no launcher has set them
            missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
            if not {"NODE_RANK", "GROUP_RANK"} & os.environ.keys():
                missing.append("NODE_RANK")
            if missing:
                raise PipelineError(
                    f"{self.nodes} machines find each other by {', '.join(missing)}, which are not set: the address of "
                    "the first machine, a free port there, and on each machine its number, 0 on the first"
                )
            number = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", ""))
            if not (number.isascii() and number.isdecimal() and int(number) < self.nodes):
                raise PipelineError(
                    f"NODE_RANK is the number of this machine, from 0 to {self.nodes - 1}, and not {number!r}: nobody "
                    "would wait for it"
                )
        try:
            with _without_hints():
                fabric.launch()
        except (torch.distributed.DistError, ValueError) as error:
            raise PipelineError(f"the processes of this run do not find each other: {error}") from error
        if fabric.world_size > 1:
            part_at_exit()
        return fabric


@contextlib.contextmanager
def _without_hints() -> Iterator[None]:
    """Without what Lightning tells for information: the precision that was chosen here, settings of code elsewhere."""
    logger = logging.getLogger("lightning_fabric.utilities.rank_zero")
    level = logger.level
    logger.setLevel(max(logging.WARNING, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(level)


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
    finished = target is not None and resume and (target / "gate.json").exists()
    if target is not None and not finished:
        check_output(target, overwrite=overwrite, foreign=foreign)
        check_run(run_folder(target), resume=resume, overwrite=overwrite)

    source = open_source(data, labelled=True)
    assert source.classes is not None  # open_source checked
    classes = source.classes
    loaded = load(source)
    records = loaded.subset(row for row, record in enumerate(loaded) if record.label is not None)
    # What is known to be unreadable (a damaged tar) has no label; reading the training images says so.
    unlabelled = [record for record in loaded if record.label is None]
    parts = split(
        [str(record.label) for record in records],
        [record.group for record in records] if any(record.group is not None for record in records) else None,
        seed=seed,
        alpha=false_alarm_rate,
        hold_tuning=tuning is None,
        hold_calibration=calibration is None,
    )
    sets = {
        "train": Records([*records.subset(parts.train), *unlabelled], classes),
        "tuning": records.subset(parts.tuning) if tuning is None else load(open_source(tuning, labelled=False)),
        "calibration": records.subset(parts.calibration)
        if calibration is None
        else load(open_source(calibration, labelled=False)),
    }
    # Further processes start here, and not before: what was wrong until now has been said once.
    hardware = hardware or Hardware()
    fabric = hardware.fabric()
    if target is None and fabric.world_size > 1:
        raise PipelineError("several processes share the gate through its folder; pass output=")
    progress = progress if fabric.is_global_zero else silent
    with noticing_loss(fabric):
        group = patient(fabric)
        with agreed(fabric, group):
            preprocessing = geometry(sets["train"], image_size, max_pixels, recipe.standardize)
            pixels = {
                name: read(
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
            pixels = separated(pixels, drop_duplicates)
            check_enough(pixels, classes, false_alarm_rate)
            sets = {name: Records(part.records, classes if name == "train" else None) for name, part in pixels.items()}
            if not recipe.standardize:
                mean, std = channel_statistics(pixels["train"], preprocessing, max_pixels)
                preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)

            torch.manual_seed(seed)
            backbone = Backbone(
                model,
                len(classes),
                width,
                auto_stem(model, min(preprocessing.size)) if stem == "auto" else stem,
                model_args or {},
                recipe.head_bias,
            )
            network = backbone.build()
            if recipe.temperature is not None:
                l2norm(network, temperature=recipe.temperature)
            if weights is not None:
                load_weights(network, weights)
            # Says now if the network does not take such images.
            extractor = FeatureExtractor(network, preprocessing, device=fabric.device)
            run = {
                "recipe": recipe.to_dict(),
                "backbone": backbone.to_dict(),
                "preprocessing": preprocessing.to_dict(),
                "seed": seed,
                "weights": None if weights is None else _file_digest(Path(weights)),
                "images": fingerprint(pixels["train"], classes),
                **({"log_geometry": True} if log_geometry else {}),
            }
            if target is not None and finished:
                asked = {**run, "false_alarm_rate": false_alarm_rate, "by_class": by_class, "lean": lean}
                asked["score"] = AUTO if made is None else made.name
                digests = {name: part.digests for name, part in pixels.items()}
                done = _finished(target, asked, digests)
                if fabric.is_global_zero:
                    remove_leftover(run_folder(target))
                return done
        check_same(fabric, run, "give every process the same command, and every machine the same images")
        gate: Gate | None = None
        with running(target, resume=resume, fabric=fabric) as folder:
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


def _finished(target: Path, asked: Mapping[str, Any], digests: Mapping[str, tuple[bytes, ...]]) -> Gate:
    """The gate of a run that had ended before it was to be resumed, if it is the one that is asked for."""
    gate = Gate.load(target)
    found = {
        **gate.provenance.get("run", {}),
        "false_alarm_rate": gate.calibration.alpha,
        "by_class": gate.calibration.by_class,
        "lean": not gate.kept,
        "score": gate.provenance.get("score"),
    }
    differing = [name for name, value in json.loads(json.dumps(asked)).items() if found.get(name) != value]
    differing += [f"{name} images" for name in ("tuning", "calibration") if gate.digests.get(name) != digests[name]]
    if differing:
        raise PipelineError(
            f"{target} is finished, and {', '.join(differing)} differ from what is asked for; for another rate or "
            "score use 'normgate calibrate', and to train anew another output or --overwrite"
        )
    return gate


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


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
