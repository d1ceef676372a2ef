"""Fingerprints: the same for the same thing wherever it is, another for everything that changes features."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import normgate
from normgate.data.decoding import ImageError
from normgate.data.preprocessing import Preprocessing
from normgate.evaluation import EvaluationError
from normgate.evaluation.fingerprints import file_mark, image_digest, network_digest, settings
from normgate.features import FeatureExtractor
from normgate.taps import MagnitudeSpec
from samples import PREPROCESSING, small_network


class Activated(nn.Module):
    """A network whose code and plain attributes say what it does."""

    def __init__(self, activation: Any = torch.relu, gain: float = 1.0) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.activation = activation
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.gain * self.activation(x))


class Halved(Activated):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.gain * self.activation(x)) / 2


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def tripled(x: torch.Tensor) -> torch.Tensor:
    return 3 * x


def through(function: Any) -> Any:
    """A function with a closure."""
    return lambda x: function(x)


def activated(cls: type[Activated] = Activated, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return cls(**arguments)


def test_copies_modes_and_wrappers_are_the_same_network() -> None:
    network = small_network()
    digest = network_digest(network)
    assert network_digest(copy.deepcopy(network).eval()) == digest
    import lightning_fabric  # noqa: F401 (puts a wrapper in the place of torch.compile)

    assert network_digest(torch.compile(network, backend="eager")) == digest
    network.eval()(torch.zeros(1, 3, 8, 8))
    assert network_digest(network) == digest


def test_everything_that_changes_features_changes_the_digest() -> None:
    networks = [
        small_network(0),
        small_network(1),
        activated(),
        activated(Halved),
        activated(gain=2.0),
        activated(activation=doubled),
        activated(activation=tripled),
        activated(activation=through(doubled)),
        activated(activation=through(tripled)),
        activated(activation=functools.partial(torch.clamp, min=0.0)),
        activated(activation=functools.partial(torch.clamp, min=0.5)),
    ]
    hooked = activated()
    hooked.fc.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    buffered = small_network()
    buffered[1].running_mean[0] += 1e-6
    tensor = activated()
    tensor.offset = torch.ones(3)
    half = activated().half()
    networks += [hooked, buffered, tensor, half]
    assert len({network_digest(network) for network in networks}) == len(networks)


def test_another_process_finds_the_same() -> None:
    code = (
        "import timm, torch; from normgate.evaluation.fingerprints import network_digest;"
        "torch.manual_seed(0); print(network_digest(timm.create_model('resnet10t', num_classes=3)))"
    )
    torch.manual_seed(0)
    here = network_digest(timm.create_model("resnet10t", num_classes=3))
    run = [sys.executable, "-c", code]
    there = subprocess.run(run, env={"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_settings_hold_all_that_is_not_the_network() -> None:
    network = small_network()
    plain = settings(FeatureExtractor(network, PREPROCESSING), 100)
    assert settings(FeatureExtractor(network, PREPROCESSING), 100) == plain
    other = Preprocessing((8, 8), mean=(0.5, 0.5, 0.4), std=(0.25, 0.25, 0.25))
    found = [
        plain,
        settings(FeatureExtractor(network, PREPROCESSING), 101),
        settings(FeatureExtractor(network, other), 100),
        settings(FeatureExtractor(network, PREPROCESSING, magnitude=MagnitudeSpec("3")), 100),
        settings(FeatureExtractor(normgate.l2norm(small_network(), temperature=1.0), PREPROCESSING), 100),
        settings(FeatureExtractor(normgate.l2norm(small_network(), temperature=0.1), PREPROCESSING), 100),
    ]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_a_state_that_is_not_all_tensors_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "something"

    with pytest.raises(EvaluationError, match="--no-cache"):
        network_digest(nn.Sequential(Odd(2, 2)))


def test_images_are_their_content(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b c.jpg").write_bytes(content)
    found = image_digest(content, 100)
    assert image_digest(tmp_path / "a.png", 100) == image_digest(str(tmp_path / "b c.jpg"), 100) == found
    assert image_digest(pixels, 100) == image_digest(Image.fromarray(pixels), 100) != found
    different = pixels.copy()
    different[0, 0, 0] ^= 1
    assert image_digest(different, 100) != image_digest(pixels, 100)
    # What cannot be read is what is said of it.
    unreadable = [tmp_path / "gone.png", tmp_path, "a\0b", ImageError("null"), pixels.astype(float)]
    assert len({image_digest(payload, 100) for payload in unreadable}) == len(unreadable)
    assert image_digest(pixels, 10) == image_digest(np.zeros((5, 6), np.uint8), 10)  # both too large


def test_a_file_that_is_written_to_has_another_mark(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert file_mark(path) is None
    path.write_bytes(b"1")
    before = file_mark(path)
    path.write_bytes(b"22")
    assert None is not before != file_mark(path)
    assert file_mark(b"1") is None
