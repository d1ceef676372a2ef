"""Whether timm can rebuild a network that somebody made, from its name and number of classes alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from normgate.backbones import Backbone, BackboneError
from normgate.normalization import is_normalized, remove_l2norm, unwrap

if TYPE_CHECKING:
    from torch import nn


def recognised(model: nn.Module, example: torch.Tensor) -> Backbone | None:
    """How timm rebuilds a network; None where it cannot.

    A candidate with the same weights must print the same layers and give the same output for an example: a network that
    was changed after timm made it, or made with other arguments, is not taken for what it is not.

    Args:
        model: the network, normalised or not.
        example: a batch that it takes.
    """
    model = unwrap(model)
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, Mapping) else getattr(config, "architecture", None)
    outputs = getattr(model, "num_classes", None)
    if not isinstance(name, str) or not isinstance(outputs, int):
        return None
    with torch.random.fork_rng(devices=[]):
        try:
            backbone = Backbone(name, outputs)
            candidate = backbone.build()
        except BackboneError:
            return None
    original = copy.deepcopy(model)
    if is_normalized(original):
        remove_l2norm(original)
    weights = original.state_dict()
    if str(candidate) != str(original) or _shapes(candidate.state_dict()) != _shapes(weights):
        return None
    candidate.load_state_dict(weights)
    original.eval().cpu()
    candidate.eval().cpu()
    with torch.inference_mode():
        same = torch.equal(candidate(example.cpu()), original(example.cpu()))
    return backbone if same else None


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in weights.items()}
