"""Plain words for a network's geometry: will the norm work, and why or why not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from normgate.collapse.classes import CollapseError
from normgate.metrics import BLIND, INVERTED
from normgate.scores.norm import MIN_VARIATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normgate.collapse.neural import NeuralCollapse
    from normgate.collapse.summary import Geometry

# From |ρ| = 0.5 on a confounder explains a quarter or more of the order of the norms (ρ²).
STRONG_CORRELATION = 0.5
# NC1 is a ratio of variances: at 0.1 the spread within classes is a third of that between them, at 1 it is as large.
COLLAPSED, SPREAD = 0.1, 1.0
# Where nearest means and head differ on more than 5 % of the images, class means are not what the network goes by.
DISAGREEMENT = 0.05
# A class whose median norm lies below the lower quartile of all norms has twice its share of the smallest quarter.
SMALL_CLASS = 0.25
# At a floor of 0.1 nats the right class's probability is at most exp(−0.1), 90 %, in the geometric mean.
HIGH_FLOOR = 0.1
# The loss has come 90 % of the way from chance to the floor: what is left to gain is mostly the floor itself.
NEAR_FLOOR = 0.1
# Less than 10 % of the way from chance to the floor (or to 0): features are still about as they were drawn.
UNTRAINED = 0.1
# Rounding of a float64 product of a few thousand terms.
SIDEWAYS = 1e-9
# Below this AUROC a threshold that rejects 5 % of known images lets most unknown ones pass, as a rule.
WORKS = 0.8

_PROPERTIES = {"brightness": "brightness", "contrast": "contrast", "high_frequency": "fine texture"}
_MOST_NAMED = 5


def explain(geometry: Geometry, classes: Sequence[str] | None = None) -> list[str]:
    """Sentences that say what the numbers mean, the verdict on the norm first.

    Args:
        geometry: the numbers.
        classes: names of the classes; numbers stand in for them.

    Raises:
        CollapseError: there is not one name a class.
    """
    if classes is not None and len(classes) != geometry.classes:
        raise CollapseError(f"pass one name for each of the {geometry.classes} classes, in order, not {len(classes)}")
    names = [str(label) for label in range(geometry.classes)] if classes is None else list(classes)
    return [
        _verdict(geometry),
        *_separation(geometry),
        *_confounders(geometry),
        *_small_classes(geometry, names),
        *_push(geometry),
        *_floor(geometry),
        *_collapse(geometry),
    ]


def _verdict(geometry: Geometry) -> str:
    variation = geometry.norms["train"].variation
    if variation is None:
        return "The norm will not work for this model: all norms are zero."
    if variation < MIN_VARIATION:
        return (
            f"The norm will not work for this model: norms hardly vary (coefficient of variation {variation:.2g}, "
            f"below {MIN_VARIATION:g}), so that they carry rounding and not familiarity. Use a score of directions."
        )
    invariants = geometry.invariants
    reach = invariants.chance_loss - (invariants.floor or 0)
    if invariants.chance_loss - invariants.loss < UNTRAINED * reach:
        return (
            "This network has hardly learned its classes, so that its norms say little yet: its loss on these images "
            f"is {invariants.loss:.3g}, and that of equal probabilities {invariants.chance_loss:.3g}."
        )
    failed = [name for name, value in geometry.separation.items() if value.auroc_magnitude < BLIND]
    if failed:
        return f"The norm alone does not work for this model: it fails on {_listed(failed)}."
    if followed := _followed(geometry):
        return (
            f"The norm can mislead for this model: it goes with {_listed(followed)}, and unfamiliar images can have "
            "more or less of that than familiar ones. Rely on it only beside a score of directions."
        )
    if geometry.separation:
        name, value = min(geometry.separation.items(), key=lambda item: item[1].auroc_magnitude)
        if value.auroc_magnitude < WORKS:
            return (
                f"The norm is weak for this model: on {name} its AUROC is {value.auroc_magnitude:.2f}, and that of "
                f"direction {value.auroc_direction:.2f}."
            )
        return f"The norm works for this model on the sets measured here (AUROC {value.auroc_magnitude:.2f} or more)."
    checked = "" if geometry.correlations else " Whether norms follow contrast or texture was not measured."
    return (
        f"Nothing measured here speaks against the norm: norms vary (coefficient of variation {variation:.2f}). "
        f"Whether unfamiliar images have smaller ones is for probes and test sets to say.{checked}"
    )


def _followed(geometry: Geometry) -> list[str]:
    """Properties of images that the order of the norms follows."""
    return [
        _PROPERTIES.get(name, name)
        for name, value in geometry.correlations.items()
        if value.spearman is not None and abs(value.spearman) >= STRONG_CORRELATION
    ]


def _separation(geometry: Geometry) -> Iterator[str]:
    for name, value in geometry.separation.items():
        aurocs = f"AUROC {value.auroc_magnitude:.2f} by the norm, {value.auroc_direction:.2f} by direction"
        if value.magnitude is None:
            yield f"{name}: neither norms nor directions tell these images from ID images ({aurocs})."
            continue
        share = f"magnitude carries {value.magnitude:.0%} of the separation ({aurocs})"
        if value.auroc_magnitude < INVERTED:
            share += "; the norm is inverted: these images have larger norms than ID images"
        elif value.auroc_magnitude < BLIND:
            share += "; the norm hardly tells them apart"
        yield f"{name}: {share}."


def _confounders(geometry: Geometry) -> Iterator[str]:
    for name, value in geometry.correlations.items():
        if value.spearman is not None:
            strength = "strongly" if abs(value.spearman) >= STRONG_CORRELATION else "not strongly"
            way = "rise" if value.spearman > 0 else "fall"
            yield f"Norms {way} with {_PROPERTIES.get(name, name)}, {strength} (Spearman {value.spearman:+.2f})."


def _small_classes(geometry: Geometry, names: Sequence[str]) -> Iterator[str]:
    overall = geometry.norms["train"]
    limit = overall.quantile(SMALL_CLASS)
    if overall.variation is None or overall.variation < MIN_VARIATION:
        return
    medians = {
        name: value.quantile(0.5)
        for name, value in zip(names, geometry.norms_by_class, strict=True)
        if value is not None
    }
    small = sorted((name for name, median in medians.items() if median < limit), key=lambda name: medians[name])
    if small:
        yield (
            f"Classes with small norms: {_listed(small)}. Half of their images or more are in the lowest quarter of "
            "all norms, so that a threshold on the norm rejects them first."
        )


def _push(geometry: Geometry) -> Iterator[str]:
    invariants = geometry.invariants
    if invariants.radial_gradient is None:
        return
    if not invariants.normalized:
        yield (
            "The head was trained on raw features: the loss also sets their lengths (largest radial part of its push "
            f"{invariants.radial_gradient:.2g}, of at most 1). Training with l2norm() leaves them free."
        )
    elif invariants.radial_gradient <= SIDEWAYS:
        yield (
            "The head sees directions: image by image the loss pushes features sideways and never outward (largest "
            f"radial part {invariants.radial_gradient:.1g})."
        )


def _floor(geometry: Geometry) -> Iterator[str]:
    invariants = geometry.invariants
    floor, loss = invariants.floor, invariants.loss
    if floor is None:
        return
    figures = f"loss {loss:.3g} on these images, floor {floor:.3g}"
    if floor < HIGH_FLOOR:
        yield f"The cross-entropy floor does not hold this model back ({figures})."
        return
    near = loss - floor <= NEAR_FLOOR * (invariants.chance_loss - floor)
    yield (
        f"The cross-entropy floor is high ({figures}): with head rows of norm {invariants.head_norm:.3g} and "
        f"τ = {invariants.temperature:.3g} the right class cannot get more than {math.exp(-floor):.0%} in the "
        "geometric mean"
        + (
            ", and training has come close to that. Lower τ, or let the head's rows grow (less weight decay on them)."
            if near
            else ", though training is not there yet."
        )
    )


def _collapse(geometry: Geometry) -> Iterator[str]:
    for what, collapse in (("Directions", geometry.directions), ("Raw features", geometry.raw)):
        if collapse.within_between is not None:
            yield f"{what} {_degree(collapse)} (NC1 {collapse.within_between:.3g})."
    if geometry.dimensions < geometry.classes - 1:
        yield (
            f"{geometry.classes} class means cannot be equally far apart in {geometry.dimensions} dimensions: a full "
            "simplex is out of reach."
        )
    disagreement = geometry.directions.nearest_mean_disagreement
    if disagreement > DISAGREEMENT:
        yield f"On {disagreement:.0%} of these images the prediction is not the class with the nearest mean direction."


def _degree(collapse: NeuralCollapse) -> str:
    assert collapse.within_between is not None
    if collapse.within_between <= COLLAPSED:
        return "have collapsed to their class means"
    if collapse.within_between <= SPREAD:
        return "have partly collapsed: they spread less within classes than between them"
    return "have not collapsed: they spread more within classes than between them"


def _listed(names: Sequence[str]) -> str:
    """`a, b and c`, or the first few and the number of the others."""
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
