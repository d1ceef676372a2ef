"""The gate: model, preprocessing, score, threshold and the calibration scores behind it, in one artefact."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from normgate.calibration import Calibration, smallest_n
from normgate.class_order import warn_of_order
from normgate.classes import class_names
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.sources import open_source
from normgate.errors import ProbeWarning
from normgate.extractor import FeatureExtractor
from normgate.gate.choosing import AUTO, checked_families, choose, reprobed, unfitted
from normgate.gate.duplicates import warn_of_copies
from normgate.gate.errors import GateError
from normgate.gate.recognition import recognised
from normgate.gate.sets import (
    ReadingOptions,
    collect,
    digests,
    kept,
    merged,
    open_held_out,
    warn_of_other_folders,
    warn_of_other_labels,
)
from normgate.normalization import is_normalized, temperature, unwrap
from normgate.progress import silent
from normgate.verdicts import EMPTY, NOT_FINITE, Verdicts, verdicts_on
from normgate.verdicts import concatenate as concatenate_verdicts

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from normgate.backbones import Backbone
    from normgate.data.loading import PixelBatch
    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import Data
    from normgate.features import Features
    from normgate.monitor import ShiftAlarm
    from normgate.probes import ProbeReport
    from normgate.progress import Progress
    from normgate.scores import Score


class HeldOut(NamedTuple):
    """Labelled images that the network was not trained on, and how many of them it calls right."""

    right: int
    images: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Gate:
    """A classifier that knows when not to answer.

    Attributes:
        extractor: the network, its preprocessing, and how its features are read.
        classes: names of the classes, by class number.
        score: fitted.
        calibration: threshold and p-values, from the scores of the calibration images.
        backbone: how to rebuild the network; None where timm cannot.
        probes: what probes made of the tuning images say of every score; None without tuning images.
        kept: features to ask again with, by set: train (class-balanced, at most 10,000 rows), tuning, probes,
            calibration. They derive from the images; a lean gate keeps none.
        digests: fingerprints of each set's images, to find shared ones later.
        provenance: where it comes from, as plain data.
        trained_on_probes: families of probes that the network was trained on: they must not choose its score.
    """

    extractor: FeatureExtractor
    classes: tuple[str, ...]
    score: Score
    calibration: Calibration
    backbone: Backbone | None = None
    probes: ProbeReport | None = None
    kept: Mapping[str, Features] = dataclasses.field(default_factory=dict)
    digests: Mapping[str, tuple[bytes, ...]] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trained_on_probes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """On one line; `normgate inspect` tells more."""
        promise = f"α {self.calibration.alpha:g}, {self.calibration.n} calibration images"
        return f"<Gate: {self.network_name}, {len(self.classes)} classes, {self.score.name}, {promise}>"

    @property
    def network_name(self) -> str:
        """What timm calls the network, else the name of its class."""
        return type(unwrap(self.extractor.model)).__name__ if self.backbone is None else self.backbone.name

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the network's input."""
        return self.extractor.preprocessing

    @property
    def temperature(self) -> float | Literal["learned"] | None:
        """τ of the normalisation in training; None where the network was trained without."""
        model = unwrap(self.extractor.model)
        if not is_normalized(model):
            return None
        return "learned" if "log_temperature" in dict(self.extractor.head.named_parameters()) else temperature(model)

    @property
    def score_name(self) -> str:
        """The name of its score."""
        return self.score.name

    @property
    def tuning_scores(self) -> NDArray[np.float64] | None:
        """(m,) scores of the tuning images; None where none are kept."""
        return self.score(self.kept["tuning"]).numpy() if "tuning" in self.kept else None

    @property
    def held_out(self) -> HeldOut | None:
        """Labelled tuning and calibration images, and how many the network calls right; None where none are kept."""
        parts = [part for name in ("tuning", "calibration") if (part := self.kept.get(name)) is not None]
        labelled = [(part.logits.argmax(dim=1), part.labels) for part in parts if part.labels is not None]
        if not labelled:
            return None
        right = sum(int((found == true).sum()) for found, true in labelled)
        return HeldOut(right, sum(len(true) for _, true in labelled))

    @property
    def caveats(self) -> list[str]:
        """In plain words, what its score would miss, as probes say, or that there were none."""
        if self.probes is None:
            return [
                "not probed, for want of tuning images when it was made: what its score would miss is not known; pass "
                "some (tuning=, --tuning)"
            ]
        return self.probes.warnings(self.score.name)

    @classmethod
    def calibrate(
        cls,
        model: nn.Module,
        *,
        calibration: Data,
        preprocessing: Preprocessing,
        train: Data | None = None,
        tuning: Data | None = None,
        classes: Sequence[str] | None = None,
        score: str | Score = "norm",
        false_alarm_rate: float = 0.05,
        by_class: bool = False,
        head: str | nn.Linear | None = None,
        features: str | None = None,
        backbone: Backbone | None = None,
        lean: bool = False,
        device: str | torch.device | None = None,
        provenance: Mapping[str, Any] | None = None,
        trained_on_probes: Collection[str] = (),
        drop_duplicates: bool = False,
        skip_unreadable: bool = False,
        batch_size: int = 128,
        workers: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        progress: Progress = silent,
    ) -> Gate:
        """Make a gate from a trained network, trained with `l2norm` or not.

        Args:
            model: any module with one linear head. The gate keeps it, and no copy: to train it further, calibrate
                `copy.deepcopy(model)`.
            calibration: images for the threshold and nothing else: a random sample of what will be screened, that the
                network was not trained on.
            preprocessing: how images become the network's input.
            train: labelled images that scores such as knn are fitted to.
            tuning: images for probes and for the choice and scaling of scores: "auto" and polar need them, and with
                them the gate says which outliers its score would miss. They are disjoint from the calibration images,
                so that the choice does not spend the threshold's promise.
            classes: names of the classes by class number; by default those of `train`.
            score: a name of `normgate.scores.names()`, "auto" to let probes choose, or a score with settings of its own
                (a copy is fitted).
            false_alarm_rate: α, the share of familiar images that may be rejected.
            by_class: a threshold for each predicted class, each from its own calibration images.
            head: the head's name, where it cannot be found.
            features: name of the module whose input is the magnitude vector.
            backbone: how the network was made; by default found out for timm's networks.
            lean: keep no features; then no other score can be fitted without the training images.
            device: where to compute.
            provenance: plain data to store with the gate.
            trained_on_probes: families of probes that the network was trained on, which must not choose its score.
            drop_duplicates: leave images that two sets share out of the later of train, tuning, calibration.
            skip_unreadable: go on without images that cannot be read or judged.
            batch_size: images in a forward pass.
            workers: decoding threads.
            max_pixels: larger images are errors.
            progress: told how far it is.

        Raises:
            NormgateError: a subclass for each thing that can be wrong; the message names the fix.
        """
        smallest_n(false_alarm_rate)  # what cannot work is said before the images are read
        wanted = unfitted(score, train=train is not None, tuning=tuning is not None)
        told = _plain(provenance or {})
        trained_on = checked_families(trained_on_probes)
        extractor = FeatureExtractor(model, preprocessing, head=head, features=features, device=device)
        source = None if train is None else open_source(train, labelled=True)
        if classes is None and source is not None:
            classes = source.classes
        if classes is None:
            raise GateError(
                "the names of the classes are not known; pass classes= in the order of the network's outputs"
            )
        names = class_names(classes, extractor.head.out_features)
        reading = ReadingOptions(
            drop_duplicates=drop_duplicates,
            skip_unreadable=skip_unreadable,
            workers=workers,
            max_pixels=max_pixels,
            progress=progress,
            batch_size=batch_size,
        )
        given = {"tuning": tuning, "calibration": calibration}
        held_out = {name: open_held_out(images) for name, images in given.items() if images is not None}
        if not trained_here(told):
            warn_of_other_labels(held_out, names)
        sets = collect(extractor, {"train": source, **held_out}, names, reading, {})
        if not trained_here(told):  # there it has been said before the training, and the order cannot be wrong
            warn_of_copies(sets["calibration"].digests or ())
            warn_of_other_folders({name: part.ids for name, part in sets.items()}, names)
            if "train" in sets:
                warn_of_order(sets["train"], names, stacklevel=2)
        fitted, report = choose(wanted, sets, trained_on=trained_on)
        gate = cls(
            extractor=extractor,
            classes=names,
            score=fitted,
            calibration=_threshold(fitted, sets["calibration"], false_alarm_rate, names if by_class else None),
            backbone=backbone if backbone is not None else recognised(model, extractor.example()),
            probes=report,
            kept={} if lean else kept(sets),
            digests=digests(sets),
            provenance=told,
            trained_on_probes=trained_on,
        )
        _warn(gate)
        return gate

    def recalibrate(
        self,
        calibration: Data | None = None,
        *,
        train: Data | None = None,
        tuning: Data | None = None,
        score: str | Score | None = None,
        false_alarm_rate: float | None = None,
        by_class: bool | None = None,
        lean: bool = False,
        drop_duplicates: bool = False,
        skip_unreadable: bool = False,
        batch_size: int = 128,
        workers: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        progress: Progress = silent,
    ) -> Gate:
        """The same network with other calibration images, another α, another score, or all of them.

        What is not given stays as it is. Without `calibration` the calibration features that the gate keeps are used; a
        new score is fitted to `train` (all of its images), else to the training features that the gate keeps, and
        probed on `tuning`, else on the tuning and probe features that the gate keeps. A lean gate stays lean.

        Raises:
            NormgateError: a subclass for each thing that can be wrong, such as a `GateError` where something is needed
                that a lean gate does not keep; the message names the fix.
        """
        alpha = self.calibration.alpha if false_alarm_rate is None else false_alarm_rate
        smallest_n(alpha)
        grouped = self.calibration.by_class if by_class is None else by_class
        refit = score is not None or train is not None or (tuning is not None and self.score.needs_tuning)
        wanted: Score | None = None
        if refit:
            wanted = unfitted(
                self.score if score is None else score,
                train=train is not None or "train" in self.kept,
                tuning=tuning is not None or (self.probes is not None if score == AUTO else "tuning" in self.kept),
            )
        rescored = calibration is not None or "calibration" in self.kept
        if not rescored and (refit or grouped != self.calibration.by_class):
            raise GateError(
                "a lean gate keeps no calibration features; pass calibration images to change more than the rate"
            )
        reading = ReadingOptions(
            drop_duplicates=drop_duplicates,
            skip_unreadable=skip_unreadable,
            workers=workers,
            max_pixels=max_pixels,
            progress=progress,
            batch_size=batch_size,
        )
        given = {"tuning": tuning, "calibration": calibration}
        held_out = {name: open_held_out(images) for name, images in given.items() if images is not None}
        warn_of_other_labels(held_out, self.classes)
        new = collect(self.extractor, {"train": train, **held_out}, self.classes, reading, self.digests)
        if "calibration" in new:
            warn_of_copies(new["calibration"].digests or ())
        warn_of_other_folders({name: part.ids for name, part in new.items()}, self.classes)
        sets = {**self.kept, **new}
        fitted, report = self.score, self.probes
        if refit:
            fitted, report = choose(wanted, sets, report, self.trained_on_probes)
        elif tuning is not None:
            report = reprobed(fitted, sets, self.trained_on_probes)
        gate = dataclasses.replace(
            self,
            score=fitted,
            calibration=_threshold(fitted, sets["calibration"], alpha, self.classes if grouped else None)
            if rescored
            else dataclasses.replace(self.calibration, alpha=alpha),
            probes=report,
            kept={} if lean or not self.kept else kept(sets),
            digests=merged(self.digests, digests(new)),
        )
        if report is not self.probes:
            _warn(gate)
        return gate

    def __call__(
        self,
        images: Any,
        *,
        preprocessed: bool = False,
        batch_size: int = 128,
        workers: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Verdicts:
        """Judge images.

        Args:
            images: paths, encoded bytes, PIL images or uint8 arrays (H, W, C); a folder or a Parquet file; or, with
                `preprocessed`, a float tensor (N, 3, H, W) that is the network's input already.
            preprocessed: whether `images` is such a tensor.
            batch_size: images in a forward pass.
            workers: decoding threads.
            max_pixels: larger images are errors.

        Returns:
            One verdict an image, in order; one that cannot be read or judged has an error and is not accepted.

        Raises:
            GateError: a float tensor without `preprocessed`.
        """
        if preprocessed:
            return self._judge_prepared(images, batch_size)
        if isinstance(images, torch.Tensor):
            raise GateError(
                "a tensor may have been prepared or not: pass uint8 images (paths, PIL images or arrays of H × W × C), "
                "or preprocessed=True for a float tensor that is the network's input already"
            )
        options = {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}
        return verdicts_on(images, self.judge_batch, self.preprocessing, **options)

    def judge_batch(self, batch: PixelBatch) -> Verdicts:
        """Verdicts on a batch of loaded images, the unreadable ones included."""
        ids = [record.id for record in batch.records]
        own = self.judge(self.extractor.unchecked(batch.pixels)) if len(batch.pixels) else EMPTY
        return own.among(ids, batch.errors)

    def judge(self, features: Features, scores: np.ndarray | None = None) -> Verdicts:
        """Verdicts on N images whose features are known, and their (N,) scores, if these are known, too.

        An image with features or a score that are not finite has an error, and costs the others nothing.
        """
        fine = features.finite.numpy()
        values = scores
        if values is None:
            values = np.full(len(features), np.nan)
            values[fine] = self.score.unchecked(features.select(fine)).numpy()
        fine &= np.isfinite(values)
        judged, values = features.select(fine), values[fine]
        probabilities, predicted = judged.logits.double().softmax(dim=1).max(dim=1)
        index = predicted.numpy()
        own = Verdicts(
            id=judged.ids,
            label=[self.classes[i] for i in index],
            probability=probabilities.numpy(),
            score=values,
            p_value=self.calibration.p_values(values, index),
            accepted=self.calibration.accepts(values, index),
            error=[None] * len(index),
        )
        return own.among(features.ids, [None if finite else NOT_FINITE for finite in fine])

    def shift_alarm(self, *, delta: float = 0.01, seed: int = 0) -> ShiftAlarm:
        """An alarm for a stream of this gate's scores; see `normgate.monitor`.

        Args:
            delta: the chance, at most, of ever raising an alarm while images come like the calibration images.
            seed: of the random ties.

        Raises:
            GateError: the gate keeps no tuning images.
            CalibrationError: delta is no share.
        """
        from normgate.monitor import ShiftAlarm

        if (tuning := self.tuning_scores) is None:
            raise GateError(
                "the shift alarm ranks scores between quantiles of tuning images, and this gate keeps none; "
                "calibrate it with --tuning DATA and without --lean"
            )
        return ShiftAlarm.start(self.calibration.scores, tuning, delta=delta, seed=seed)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder of safetensors and JSON; it appears whole or not at all.

        Raises:
            OutputError: the folder exists and `overwrite` is not set, or it cannot be written.
        """
        from normgate.gate.folder import save

        save(self, Path(path), overwrite=overwrite)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        model: nn.Module | None = None,
        device: str | torch.device | None = None,
    ) -> Gate:
        """Read a gate; nothing in the folder is executed.

        Args:
            path: what `save` wrote.
            model: the network without its weights, where timm cannot rebuild it.
            device: where to compute; by default a GPU if there is one.

        Raises:
            GateFolderError: the folder is no gate, is damaged, or was made by a newer version.
        """
        from normgate.gate.folder import load

        return load(Path(path), model=model, device=device)

    def _judge_prepared(self, images: torch.Tensor, batch_size: int) -> Verdicts:
        height, width = self.extractor.preprocessing.size
        if not (
            isinstance(images, torch.Tensor)
            and images.is_floating_point()
            and images.ndim == 4
            and images.shape[1:] == (3, height, width)
        ):
            raise GateError(f"preprocessed=True takes a float tensor of shape (N, 3, {height}, {width})")
        if batch_size < 1:
            raise GateError(f"batch_size is at least 1, not {batch_size}")
        parts = [self.judge(self.extractor.unchecked(part)) for part in torch.split(images, batch_size) if len(part)]
        verdicts = concatenate_verdicts(parts or [EMPTY])
        return dataclasses.replace(verdicts, id=[f"tensor#{i}" for i in range(len(verdicts))])


def trained_here(provenance: Mapping[str, Any]) -> bool:
    """Whether `normgate.train` has trained a gate, by what it notes of it."""
    run = provenance.get("run")
    return isinstance(run, dict) and {"recipe", "backbone", "seed"} <= run.keys()


def _plain(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in JSON's own types, as it will come back from disk."""
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise GateError(f"provenance must be plain data, with string keys, that JSON can hold: {error}") from error
    return copied


def _warn(gate: Gate) -> None:
    if said := gate.caveats:
        warnings.warn(". ".join(said), ProbeWarning, stacklevel=3)


def _threshold(score: Score, calibration: Features, alpha: float, classes: tuple[str, ...] | None) -> Calibration:
    predicted = None if classes is None else calibration.logits.argmax(dim=1).numpy()
    return Calibration(score(calibration).numpy(), alpha, predicted, classes)
