"""Features: one pass, the same numbers whatever surrounds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import normgate
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record
from normgate.features import FeatureError, FeatureExtractor, Features, concatenate, extract
from samples import CLASSES, random_features, random_records, small_network


def test_one_forward_pass_an_image(network: nn.Module, preprocessing: Preprocessing) -> None:
    extractor = FeatureExtractor(network, preprocessing)
    seen = []
    network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    features = extract(extractor, random_records(20, 0), classes=CLASSES, batch_size=8).features
    assert seen == [8, 8, 4]
    assert features.labels is not None
    assert features.labels.tolist() == [i % 3 for i in range(20)]


@pytest.mark.parametrize("tau", [None, 0.1, "learned"])
def test_features_are_the_heads_input_and_logits_keep_their_trained_form(
    tau: float | str | None, preprocessing: Preprocessing
) -> None:
    network = small_network()
    if tau is not None:
        normgate.l2norm(network, temperature=tau)
    records = random_records(10, 0)
    features = extract(FeatureExtractor(network, preprocessing), records).features
    network.eval()
    with torch.inference_mode():
        x = torch.from_numpy(preprocessing([record.payload for record in records]))
        assert torch.equal(features.z, network[:-1](x))
        assert torch.equal(features.logits, network(x))
        head = network[-1]
        raw = nn.functional.linear(features.z / features.temperature, head.weight, head.bias)
    assert torch.allclose(features.raw_logits, raw)
    assert features.temperature == {None: 1.0, 0.1: 0.1, "learned": 1.0}[tau]


def test_training_mode_autograd_and_autocast_change_nothing(network: nn.Module, preprocessing: Preprocessing) -> None:
    extractor, records = FeatureExtractor(network, preprocessing), random_records(10, 0)
    network.eval()
    plain = extract(extractor, records).features
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        again = extract(extractor, records).features
    assert network.training
    assert all(module.training for module in network)
    assert torch.equal(plain.z, again.z)
    assert torch.equal(plain.logits, again.logits)
    assert not again.z.requires_grad


def test_the_magnitude_is_read_before_a_layer_norm(preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.LayerNorm(16), nn.Linear(16, 3))
    features = extract(FeatureExtractor(network, preprocessing), random_records(30, 0)).features
    assert features.m is not None
    norms, magnitudes = features.z.norm(dim=1), features.magnitude.norm(dim=1)
    assert norms.std() / norms.mean() < 0.001 < 0.01 < magnitudes.std() / magnitudes.mean()


def test_stages_are_pooled(preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    network = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]}).build()
    features = extract(FeatureExtractor(network, preprocessing), random_records(4, 0)).features
    assert features.stage_norms is not None
    assert features.stage_norms.shape == (4, 5)
    assert torch.allclose(features.stage_norms[:, -1], features.z.norm(dim=1), rtol=1e-5)


def test_nan_weights_are_an_error(network: nn.Module, preprocessing: Preprocessing) -> None:
    extractor = FeatureExtractor(network, preprocessing)
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(FeatureError, match="NaN"):
        extract(extractor, random_records(3, 0))


def test_unreadable_images_are_listed_and_unknown_labels_are_errors(
    network: nn.Module, preprocessing: Preprocessing
) -> None:
    extractor = FeatureExtractor(network, preprocessing)
    bad = Record("bad", b"no image", "cat")
    extraction = extract(extractor, [*random_records(3, 0), bad], classes=CLASSES)
    assert [name for name, _ in extraction.errors] == ["bad"]
    assert len(extraction.features) == 3
    with pytest.raises(FeatureError, match="no image that can be read"):
        extract(extractor, [bad])
    with pytest.raises(FeatureError, match="'emu'"):
        extract(extractor, [Record("x", np.zeros((8, 8, 3), np.uint8), "emu")], classes=CLASSES)


def test_saved_features_come_back(tmp_path: Path) -> None:
    features = random_features(7, 0)
    features.save(tmp_path / "f.safetensors")
    again = Features.load(tmp_path / "f.safetensors")
    assert torch.equal(again.z, features.z)
    assert again.ids == features.ids
    assert again.temperature == features.temperature
    (tmp_path / "f.safetensors").write_bytes((tmp_path / "f.safetensors").read_bytes()[:50])
    with pytest.raises(FeatureError, match="can read"):
        Features.load(tmp_path / "f.safetensors")


def test_rows() -> None:
    features = random_features(30, 0)
    assert features.select([4, 2]).ids == ("i4", "i2")
    assert features.without([0, 29]).ids == features.ids[1:29]
    parts = concatenate([features.select(range(10)), features.select(range(10, 30))])
    assert torch.equal(parts.z, features.z)
    assert parts.ids == features.ids
    balanced = features.select([*range(0, 30, 3), 1, 2]).class_balanced(6)
    assert balanced.labels is not None
    assert torch.bincount(balanced.labels).tolist() == [4, 1, 1]
