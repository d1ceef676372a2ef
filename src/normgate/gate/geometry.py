"""The geometry of a gate, from the features that it keeps: what they say of the norm, and what probes add."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from normgate.collapse import geometry
from normgate.probes.report import probe_names

if TYPE_CHECKING:
    from normgate.collapse import Geometry
    from normgate.gate.gate import Gate

_TUNING_ROWS, _PROBE_ROWS = 1000, 300


def gate_geometry(gate: Gate) -> Geometry | None:
    """Of the training features, with each family of informative probes as a set beside the tuning images.

    A sample of at most 1,000 tuning images and 300 images of a family, evenly chosen. In `norms` the tuning images are
    `tuning images`. None where the gate keeps no labelled training features of two classes.
    """
    train, tuning, probes = (gate.kept.get(name) for name in ("train", "tuning", "probes"))
    if train is None or train.labels is None or train.labels.min() == train.labels.max():
        return None
    if tuning is None or probes is None or gate.probes is None:
        return geometry(train)
    names = probe_names(probes)
    found = geometry(
        train,
        id=tuning.evenly(_TUNING_ROWS),
        ood={
            f"probe {family}": probes.select(np.isin(names, variants)).evenly(_PROBE_ROWS)
            for family, variants in gate.probes.by_family.items()
        },
    )
    norms = {"tuning images" if name == "id" else name: value for name, value in found.norms.items()}
    return dataclasses.replace(found, norms=norms)
