"""Features: rows, and rows on disk."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from normgate import scores
from normgate.features import FeatureError, Features, concatenate
from samples import (
    random_features,
)


def full_features(count: int, seed: int = 0) -> Features:
    """With everything that features can have."""
    return dataclasses.replace(
        random_features(count, seed),
        m=torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)),
        stage_norms=torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)),
        digests=tuple(bytes([i % 256]) * 16 for i in range(count)),
    )


def equal(one: Features, other: Features) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b

    return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Features))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 19), max_size=30), bare=st.booleans())
def test_rows_are_selected_together(rows: list[int], bare: bool) -> None:
    features = random_features(20, 0) if bare else full_features(20)
    part = features.select(rows)
    assert len(part) == len(rows)
    for name in ("z", "logits", "labels", "m", "stage_norms"):
        whole = getattr(features, name)
        assert whole is None or getattr(part, name).tolist() == [whole[i].tolist() for i in rows]
    assert part.ids == tuple(f"i{i}" for i in rows)
    mask = np.isin(np.arange(20), rows)
    assert equal(features.select(mask), features.select(torch.from_numpy(mask)))
    assert equal(features.select(mask), features.select(sorted(set(rows))))
    assert equal(features.without(rows), features.select(~mask))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 20), max_size=4).map(sorted), bare=st.booleans())
def test_concatenation_undoes_a_split(cuts: list[int], bare: bool) -> None:
    features = random_features(20, 0) if bare else full_features(20)
    edges = [0, *cuts, 20]
    parts = [features.select(range(a, b)) for a, b in itertools.pairwise(edges)]
    assert equal(concatenate(parts), features)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 15), min_size=3, max_size=3).filter(sum),
    limit=st.integers(1, 50),
    seed=st.integers(0, 5),
)
def test_class_balanced_rows(counts: list[int], limit: int, seed: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], counts)))
    features = dataclasses.replace(random_features(len(labels), 0), labels=labels)
    part = features.class_balanced(limit, seed)
    assert part.labels is not None
    kept = torch.bincount(part.labels, minlength=3).tolist()
    assert sum(kept) == min(limit, len(labels))
    # No class gives up a row while another that keeps more than one row beyond it stays.
    assert all(own == had or own >= max(kept) - 1 for own, had in zip(kept, counts, strict=True))
    order = [int(name[1:]) for name in part.ids]
    assert order == sorted(set(order))
    assert equal(part, features.class_balanced(limit, seed))
    unlabelled = dataclasses.replace(features, labels=None).class_balanced(limit, seed)
    assert len(unlabelled) == min(limit, len(labels))


@pytest.mark.parametrize(
    "change",
    [
        {"z": torch.zeros(7, 11)},
        {"z": torch.zeros(6, 12)},
        {"z": torch.zeros(7)},
        {"logits": torch.zeros(7, 4)},
        {"labels": torch.zeros(6, dtype=torch.int64)},
        {"m": torch.zeros(6, 12)},
        {"m": torch.zeros(7)},
        {"stage_norms": torch.zeros(1, 4)},
        {"bias": torch.zeros(2)},
        {"ids": ("a",)},
        {"digests": (b"",)},
    ],
)
def test_shapes_must_fit_together(change: dict[str, Any]) -> None:
    with pytest.raises(FeatureError, match="do not fit together"):
        dataclasses.replace(full_features(7), **change)


def test_spaces_by_name() -> None:
    features = full_features(7)
    assert torch.equal(features.space("raw_logits"), features.raw_logits)
    with pytest.raises(FeatureError, match="no features 'save'; choose from: z, u"):
        features.space("save")


def test_a_zero_feature_has_a_zero_direction() -> None:
    features = dataclasses.replace(random_features(3, 0), z=torch.zeros(3, 12))
    assert torch.equal(features.u, torch.zeros(3, 12))


# ---------------------------------------------------------------------------------------------- on disk


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("rows", [0, 7])
def test_saved_features_come_back(tmp_path: Path, bare: bool, rows: int) -> None:
    features = dataclasses.replace(random_features(rows, 0), bias=None) if bare else full_features(rows)
    features = dataclasses.replace(features, ids=tuple(f"ö/{i}\n\\xff" for i in range(rows)), temperature=1 / 3)
    features.save(tmp_path / "f.safetensors")
    again = Features.load(tmp_path / "f.safetensors")
    assert equal(again, dataclasses.replace(features, digests=None))
    assert again.temperature == 1 / 3


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    full_features(7).save(path)
    content, tensors = path.read_bytes(), load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()

    def refused(match: str) -> None:
        with pytest.raises(
            FeatureError, match=rf"f\.safetensors holds no features that this version can read: .*{match}"
        ):
            Features.load(path)

    for size in (0, 5, 8, 50, len(content) - 1):
        path.write_bytes(content[:size])
        refused("")
    path.unlink()
    refused("")
    odd_tensors: list[tuple[dict[str, torch.Tensor], str]] = [
        ({"z": tensors["z"][:3].clone()}, "do not fit"),
        ({"z": tensors["z"].double()}, "z is torch.float64"),
        ({"labels": tensors["labels"].int()}, "labels is torch.int32"),
        ({"labels": tensors["labels"] + 1}, "class numbers from 0 to 2"),
        ({"labels": tensors["labels"] - 1}, "class numbers from 0 to 2"),
        ({"extra": tensors["z"]}, "extra"),
        ({"ids": tensors["z"]}, "ids"),
    ]
    for change, match in odd_tensors:
        save_file({**tensors, **{name: value.clone() for name, value in change.items()}}, path, metadata=metadata)
        refused(match)
    save_file({name: value for name, value in tensors.items() if name != "logits"}, path, metadata=metadata)
    refused("logits")
    about = json.loads(metadata["features"])
    odd: list[dict[str, Any]] = [
        {"ids": "x"}, {"ids": 3}, {"ids": ["a"]}, {"ids": [1] * 7}, {"ids": None},
        {"temperature": math.nan}, {"temperature": 0}, {"temperature": math.inf}, {"temperature": "import os"},
    ]  # fmt: skip
    for text in ["x", "3", "[]", "[" * 100_000, "{}", *(json.dumps({**about, **values}) for values in odd)]:
        save_file(tensors, path, metadata={"features": text})
        refused("")
    save_file(tensors, path)
    refused("features")


def test_the_same_features_are_the_same_file(tmp_path: Path) -> None:
    contents = set()
    for number in range(20):
        full_features(7).save(tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_arrays_of_every_kind_become_features(kind: type) -> None:
    generator = np.random.default_rng(0)
    z, weight = generator.normal(size=(40, 6)).astype(kind), generator.normal(size=(3, 6)).astype(kind)
    made = Features(z, z @ weight.T, weight, None, 2, tuple("x" * 40), np.arange(40, dtype=np.int8) % 3)
    assert {made.z.dtype, made.logits.dtype, made.weight.dtype} == {torch.float32}
    assert made.labels is not None
    assert made.labels.dtype == torch.int64
    for name in ("knn", "vim", "react", "nnguide", "mahalanobis"):
        assert scores.create(name).fit(made)(made).shape == (40,)
    odd = Features(
        torch.from_numpy(z.copy()).requires_grad_(),
        (z @ weight.T)[::-1],
        weight.astype(weight.dtype.newbyteorder(">")),
        None,
        np.float32(0.5),
        range(40),
    )
    assert not odd.z.requires_grad
    assert torch.equal(odd.z, made.z)
    assert torch.equal(odd.logits, made.logits.flip(0))
    assert torch.equal(odd.weight, made.weight)
    assert (odd.temperature, type(odd.temperature), odd.ids[:2]) == (0.5, float, ("0", "1"))
    empty = Features(z[:0], np.zeros((0, 3)), weight, None, 1, (), [])
    assert empty.labels is not None
    assert len(empty.labels) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [0, 3]}, "class numbers from 0 to 2"),
        ({"labels": [0, -1]}, "class numbers from 0 to 2"),
        ({"labels": [0.0, 1.0]}, "labels are whole numbers"),
        ({"temperature": 0}, "τ is a number above 0"),
        ({"temperature": None}, "τ is a number above 0"),
        ({"temperature": torch.ones(2)}, "τ is a number above 0"),
        ({"z": [["a", "b"], ["c", "d"]]}, "z are numbers, not"),
        ({"z": np.zeros((2, 2), complex)}, "z are numbers, not complex128"),
        ({"z": torch.zeros(2, 3)}, "do not fit together"),
    ],
)
def test_what_cannot_be_features_is_refused(changes: dict[str, Any], said: str) -> None:
    given = {"z": torch.zeros(2, 2), "logits": torch.zeros(2, 3), "weight": torch.zeros(3, 2), "bias": None}
    with pytest.raises(FeatureError, match=said):
        Features(**{**given, "temperature": 1.0, "ids": ("a", "b"), **changes})


def test_a_mask_is_of_all_rows() -> None:
    features = random_features(5, 1)
    assert features.select([True, False, True, False, False]).ids == ("i0", "i2")
    with pytest.raises(FeatureError, match=r"a mask of shape \(3,\) does not fit 5 images"):
        features.select([True, False, True])
    with pytest.raises(FeatureError, match=r"a mask of shape \(\) does not fit 5 images"):
        random_features(5, 0).select(np.array(True))
