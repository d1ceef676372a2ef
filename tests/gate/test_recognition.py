"""Networks that timm can rebuild from their names are known; all others are not taken for what they are not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

import normgate
from normgate import Backbone
from normgate.gate.recognition import recognised
from normgate.normalization import is_normalized, temperature
from samples import small_network

NAMES = {"test_resnet": 32, "test_vit": 160, "test_convnext": 32}
EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def made(name: str = "test_resnet", seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, **{"num_classes": 3, **options}).eval()


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_timm_are_known_by_name(name: str) -> None:
    network, example = made(name), torch.zeros(2, 3, NAMES[name], NAMES[name])
    backbone = recognised(network, example)
    assert backbone == Backbone(name, 3)
    again = backbone.build().eval()
    again.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(example), network(example))


def test_trained_weights_and_normalised_features_do_not_hide_it() -> None:
    network = made()
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.1)
    assert recognised(network, EXAMPLE) == Backbone("test_resnet", 3)
    for tau in (0.1, "learned"):
        assert recognised(normgate.l2norm(made(), temperature=tau), EXAMPLE) == Backbone("test_resnet", 3)


class Doubled(nn.Module):
    """Its only child is called as in DDP, yet it is no mere wrapper."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.module(x)


def changed(change: Callable[[nn.Module], object]) -> nn.Module:
    network = made()
    change(network)
    return network


def _forward(network: nn.Module) -> None:
    forward = network.forward
    network.forward = lambda x: 2 * forward(x)


def _architecture(network: nn.Module, name: object) -> None:
    network.pretrained_cfg = {**network.pretrained_cfg, "architecture": name}


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "no network of timm": small_network,
    "timm's inside another": lambda: Doubled(made()),
    "other layers": lambda: made(layers=(1, 1, 1, 2)),
    "other pooling": lambda: made(global_pool="max"),
    "other activation": lambda: made(act_layer=nn.ELU),
    "dropout": lambda: changed(lambda network: setattr(network, "fc", nn.Sequential(nn.Dropout(), network.fc))),
    "a layer less": lambda: changed(lambda network: setattr(network, "layer4", nn.Identity())),
    "other epsilon": lambda: changed(lambda network: setattr(network.bn1, "eps", 0.1)),
    "another forward": lambda: changed(_forward),
    "a hook": lambda: changed(lambda network: network.register_forward_hook(lambda *args: 2 * args[-1])),
    "a hook within": lambda: changed(lambda network: network.layer1.register_forward_hook(lambda *args: -args[-1])),
    "half precision": lambda: made().half(),
    "no bias": lambda: changed(lambda network: setattr(network, "fc", nn.Linear(network.fc.in_features, 3, False))),
    "another name": lambda: changed(lambda network: _architecture(network, "test_vit")),
    "unknown name": lambda: changed(lambda network: _architecture(network, "resnet18x")),
    "a hub": lambda: changed(lambda network: _architecture(network, "hf-hub:timm/x")),
    "no name": lambda: changed(lambda network: _architecture(network, None)),
    "no classes": lambda: changed(lambda network: setattr(network, "num_classes", None)),
    "one output": lambda: made(num_classes=1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_timm_would_not_rebuild_is_unknown(name: str) -> None:
    assert recognised(UNKNOWN[name](), EXAMPLE) is None


@pytest.mark.parametrize("training", [True, False])
def test_the_network_and_the_randomness_are_left_alone(training: bool) -> None:
    network = normgate.l2norm(made(), temperature=0.1).train(training)
    network.layer1.eval()
    modes = [module.training for module in network.modules()]
    weights = copy.deepcopy(network.state_dict())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert recognised(network, EXAMPLE) is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert is_normalized(network)
    assert temperature(network) == 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no second device")
def test_the_network_stays_on_its_device() -> None:
    network = made().cuda()
    assert recognised(network, EXAMPLE.cuda()) == Backbone("test_resnet", 3)
    assert {weights.device.type for weights in network.parameters()} == {"cuda"}
