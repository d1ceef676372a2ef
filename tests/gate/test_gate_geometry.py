"""What a gate says of its norm, with its own probes as unknown images."""

from __future__ import annotations

import dataclasses

import numpy as np

from normgate import Gate
from normgate.collapse import explain, geometry
from normgate.gate.geometry import gate_geometry
from samples import PREPROCESSING, random_records, small_network


def made(**options: object) -> Gate:
    sets = {"train": random_records(60, 1), "tuning": random_records(80, 2), "calibration": random_records(60, 3)}
    return Gate.calibrate(small_network(), preprocessing=PREPROCESSING, **{**sets, **options})


def test_families_of_informative_probes_are_its_unknown_sets() -> None:
    gate = made()
    assert gate.probes is not None
    found = gate_geometry(gate)
    assert found is not None
    families = {name.partition("/")[0] for name in gate.probes.informative}
    assert set(found.separation) == {f"probe {family}" for family in families}
    assert families
    # The norm's verdict is that of its worst family.
    worst = min(found.separation.values(), key=lambda value: value.auroc_magnitude)
    said = explain(found, gate.classes)[0]
    assert ("works for this model" in said) == (worst.auroc_magnitude >= 0.8 and "mislead" not in said)


def test_an_inverted_norm_is_no_norm_that_works() -> None:
    """Probes of twice the length: whatever else they are, the norm takes them for familiar."""
    gate = made()
    probes = gate.kept["probes"]
    longer = dataclasses.replace(probes, z=100 * probes.z)
    found = gate_geometry(dataclasses.replace(gate, kept={**gate.kept, "probes": longer}))
    assert found is not None
    assert all(value.auroc_magnitude < 0.1 for value in found.separation.values())
    said = " ".join(explain(found, gate.classes))
    assert "The norm alone does not work for this model: it fails on probe" in said or "hardly learned" in said
    assert "the norm is inverted" in said


def test_without_probes_or_features_less_is_known() -> None:
    untuned = made(tuning=None)
    found = gate_geometry(untuned)
    assert found is not None
    assert found.separation == {}
    assert found.raw.to_dict() == geometry(untuned.kept["train"]).raw.to_dict()
    assert gate_geometry(made(lean=True)) is None
    one_class = dataclasses.replace(untuned.kept["train"], labels=untuned.kept["train"].labels * 0)
    assert gate_geometry(dataclasses.replace(untuned, kept={"train": one_class})) is None
    assert np.isfinite(found.norms["train"].mean)
