from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pytest

import normgate.collapse
from collapse_oracles import random_classes, relabelled
from normgate import scores
from normgate.collapse import (
    CollapseError,
    collapse_log,
    geometry,
    image_statistics,
    invariants,
    neural_collapse,
    norm_correlations,
    norm_statistics,
    separation,
)


def test_geometry_collects_what_its_parts_say():
    train, known = random_classes(80), relabelled(random_classes(40, seed=1), None)
    far = dataclasses.replace(random_classes(30, seed=2), labels=None)
    statistics = image_statistics(np.random.default_rng(0).integers(0, 256, (80, 5, 5, 3), dtype=np.uint8))
    result = geometry(train, statistics=statistics, id=known, ood={"far": far})
    assert (result.classes, result.dimensions) == (4, 7)
    assert result.raw == neural_collapse(train, "z")
    assert result.directions == neural_collapse(train, "u")
    assert result.invariants == invariants(train)
    assert result.norms == {"train": norm_statistics(train), "id": norm_statistics(known), "far": norm_statistics(far)}
    assert [value.images for value in result.norms_by_class] == [20, 20, 20, 20]
    norms = train.z.double().norm(dim=1).numpy()
    assert result.correlations == norm_correlations(norms, statistics)
    knn = scores.create("knn").fit(train)
    parts = [(part.z.double().norm(dim=1).numpy(), knn(part).numpy()) for part in (known, far)]
    assert result.separation == {"far": separation(*parts[0], *parts[1])}
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)).keys() == vars(result).keys()


def test_geometry_of_training_features_alone():
    train = random_classes()
    result = geometry(train.select(train.labels != 2))
    assert (result.correlations, result.separation, result.norms_by_class[2]) == ({}, {}, None)
    assert list(result.norms) == ["train"]
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_cannot_be_compared_is_named():
    train = random_classes()
    with pytest.raises(CollapseError, match="pass id="):
        geometry(train, ood={"far": train})
    with pytest.raises(CollapseError, match="call that OoD set something else"):
        geometry(train, id=train, ood={"id": train})
    with pytest.raises(CollapseError, match="one value for each norm"):
        geometry(train, statistics={"contrast": np.ones(3)})


def test_the_log_of_an_epoch_is_flat():
    train = random_classes()
    columns = collapse_log(train)
    assert len(columns) == 14
    assert columns["nc1_z"] == neural_collapse(train, "z").within_between
    assert columns["nc4_u"] == neural_collapse(train, "u").nearest_mean_disagreement
    assert columns["norm_variation"] == norm_statistics(train).variation


def test_public_names_are_there_twice_over():
    for _ in range(2):  # importing a submodule must not shadow a function
        for name in normgate.collapse.__all__:
            assert callable(getattr(normgate.collapse, name))
        importlib.import_module("normgate.collapse.summary")
