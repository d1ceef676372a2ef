"""Which score a gate has: the one that is asked for, if it can hold it, or the one that probes choose."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from normgate import scores
from normgate.gate.errors import GateError
from normgate.gate.sets import bank
from normgate.probes import PROBES, ProbeReport, probe, seen
from normgate.probes.images import family
from normgate.scores import ScoreError

if TYPE_CHECKING:
    from collections.abc import Collection

    from normgate.features import Features
    from normgate.scores import Score

AUTO = "auto"


def unfitted(score: str | Score, *, train: bool, tuning: bool) -> Score | None:
    """The score to fit, None for "auto": never the caller's object, which another gate may hold.

    Args:
        score: a name, "auto", or an object.
        train: whether there are training images.
        tuning: whether there are tuning images, or probes made of them.

    Raises:
        GateError: a gate cannot hold this score, or images that it needs are missing.
        ScoreError: there is no score of that name.
    """
    if isinstance(score, str) and score == AUTO:
        if not tuning:
            raise GateError(
                "the probes that choose a score are made of tuning images, and there are none; pass tuning= "
                "(--tuning), or name a score: calibration images are for the threshold alone"
            )
        return None
    if not isinstance(score, str | scores.Score):
        raise GateError(
            f"{score!r} is neither the name of a score nor a score; choose from: {', '.join(scores.names())}"
        )
    wanted = copy.copy(score) if isinstance(score, scores.Score) else scores.create(score)
    _check_storable(wanted)
    if wanted.needs_fit and not train:
        raise GateError(f"{wanted.name} is fitted to training images, and there are none; pass train= (--train)")
    if wanted.needs_tuning and not tuning:
        raise GateError(
            f"{wanted.name} is scaled on tuning images, and there are none; pass tuning= (--tuning): "
            "calibration images are for the threshold alone"
        )
    return wanted


def _check_storable(score: Score) -> None:
    """Refuse, before any work, a score that would not be the same when the gate is loaded."""
    if not score.savable:
        raise GateError(
            f"{score.name} is an object of another package, which cannot be saved without pickling it, so no gate can "
            "hold it; compare it with evaluate(), and give the gate a score of normgate.scores.names()"
        )
    if score.name not in scores.names():
        raise GateError(
            f"a gate cannot hold {score.name}, a score of your own, since it could not be loaded without its code; "
            "compare it with evaluate(), and give the gate a score of normgate.scores.names()"
        )
    try:
        again = scores.create(score.name, **json.loads(json.dumps(score.settings)))
        same = type(again) is type(score) and again.settings == score.settings
    except (ScoreError, TypeError, ValueError) as error:
        raise GateError(
            f"a gate cannot hold {score.name} with these settings ({error}); make it with normgate.scores.create(name, "
            "…) and plain numbers"
        ) from error
    if not same:
        raise GateError(
            f"what is called {score.name} is not the score of that name; make it with normgate.scores.create(name, …)"
        )


def checked_families(names: Collection[str]) -> tuple[str, ...]:
    """Families of probes by name.

    Raises:
        GateError: there is no such family.
    """
    known = dict.fromkeys(map(family, PROBES))
    if isinstance(names, str | Mapping) or not set(names) <= set(known) or len(set(names)) != len(names):
        raise GateError(f"families of probes are some of {', '.join(known)}, as a list, not {names!r}")
    return tuple(names)


def choose(
    score: Score | None,
    sets: Mapping[str, Features],
    known: ProbeReport | None = None,
    trained_on: tuple[str, ...] = (),
) -> tuple[Score, ProbeReport | None]:
    """The score, fitted, and what probes say of it and of all others.

    Args:
        score: unfitted; None lets the probes choose.
        sets: features by name: train, tuning, probes, as far as they are there.
        known: an earlier report, for a gate that keeps no features.
        trained_on: families of probes that the network was trained on.

    Raises:
        GateError: the score must not be used for this network.
        ScoreError: it cannot be fitted to what is there.
    """
    report = known
    if score is None:
        if "probes" in sets:
            report = probe(sets["tuning"], sets["probes"], bank(sets), trained_on=trained_on)
        assert report is not None  # unfitted() saw to it
        fitted = _fitted(scores.create(report.choice()), sets)
        if "probes" in sets:
            report = report.with_score(fitted.name, seen(fitted, sets["tuning"], sets["probes"]))
        return fitted, report
    fitted = _fitted(score, sets)
    if "probes" in sets:
        return fitted, reprobed(fitted, sets, trained_on)
    if report is not None and fitted.settings != scores.create(fitted.name).settings:
        report = report.without(fitted.name, "it has other settings than when the gate was probed")
    return fitted, report


def reprobed(score: Score, sets: Mapping[str, Features], trained_on: tuple[str, ...]) -> ProbeReport:
    """What probes say of all scores, the fitted one of the gate among them."""
    return probe(sets["tuning"], sets["probes"], bank(sets), score, trained_on)


def _fitted(score: Score, sets: Mapping[str, Features]) -> Score:
    score.fit(sets.get("train"), sets.get("tuning"))
    reference = sets.get("tuning", sets.get("calibration"))
    if reference is not None and (reason := score.refusal(reference)) is not None:
        raise GateError(f"{score.name} cannot be used: {reason}; choose another score, such as energy or knn")
    return score
