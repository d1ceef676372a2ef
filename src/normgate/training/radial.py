"""The magnitude trained by a loss of its own: images are to have larger norms than probes made of them.

In feature space, image by image, cross-entropy on directions pushes sideways and this loss along the feature itself, so
that they do not fight there; through shared weights they can. Two things keep it stable: the loss compares norms, so
that a common scale of all changes nothing, and batch normalisation takes its statistics from the images alone, which is
also what it does with an outlier once the network is trained. It must be weak all the same: with unit features
cross-entropy has small gradients, and a large weight drowns them in the weights that both share
(benchmarks/results/ablation-demo-radial.json: 0.5).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from normgate.errors import NormgateError
from normgate.probes.images import PROBES, family

if TYPE_CHECKING:
    from collections.abc import Iterator

FAMILIES = ("noise", "shuffled", "scrambled", "blend")
"""Families of probes that are trained on, one from each kind of loss: these say nothing of the scores afterwards."""
SHARE = 4
"""A batch has one probe for so many images."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class RadialError(NormgateError):
    """The magnitude of this network's features cannot be trained so."""


def draw_probes(pixels: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Probes of a quarter of a batch, all of one random kind.

    Args:
        pixels: (B, H, W, 3) uint8 images of the batch.
        labels: (B,) their classes: a blend is of two classes.
        rng: source of randomness.

    Returns:
        (about B/4, H, W, 3) uint8, on the CPU.
    """
    count = max(len(pixels) // SHARE, 1)
    images, classes = pixels[: 2 * count].cpu().numpy(), labels[: 2 * count].cpu().numpy()
    partners = np.roll(np.arange(len(images)), -count)[:count]
    other = classes[partners] != classes[:count]
    names = [name for name in PROBES if family(name) in FAMILIES]
    if not other.any():
        names = [name for name in names if not name.startswith("blend/")]
    name = names[rng.integers(len(names))]
    made = PROBES[name](images[:count], images[partners], rng)
    if name.startswith("blend/"):  # of two images of one class it is no outlier
        made = made[other]
    return torch.from_numpy(np.ascontiguousarray(made))


def radial_loss(images: torch.Tensor, probes: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of `softplus(log ‖m_probe‖ − log ‖m_image‖)`, a smooth one minus AUROC of the norm.

    Args:
        images: (N, D) magnitude vectors of images.
        probes: (P, D) those of probes.
    """
    inside = torch.linalg.vector_norm(images.float(), dim=1).clamp_min(1e-6).log()
    outside = torch.linalg.vector_norm(probes.float(), dim=1).clamp_min(1e-6).log()
    return F.softplus(outside[:, None] - inside[None, :]).mean()


def check_norms(network: nn.Module) -> None:
    """Refuse networks whose batch normalisation is not torch's own.

    Raises:
        RadialError: names the layer.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in _NORMS:
            raise RadialError(
                f"{name} is a {type(module).__name__}; a radial loss needs plain batch normalisation, or none: choose "
                "another network, or a recipe with radial=0"
            )


@contextlib.contextmanager
def statistics_of_the_first(count: int, rows: int, network: nn.Module) -> Iterator[None]:
    """Batch normalisation in training mode takes mean and deviation from the first rows and applies them to all.

    Raises:
        RadialError: when the network runs, where a layer does not see one entry an image.
    """
    rests: dict[nn.Module, torch.Tensor] = {}

    def first_rows(module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        if len(args[0]) != rows:
            raise RadialError(
                f"a {type(module).__name__} reads {len(args[0])} entries for {rows} images; a radial loss needs one an "
                "image: choose another network, or a recipe with radial=0"
            )
        rests[module] = args[0][count:]
        return (args[0][:count],)

    def all_rows(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        (x,) = args
        assert isinstance(module, _NORMS)
        axes = [0, *range(2, x.ndim)]
        variance, mean = torch.var_mean(x.detach().float(), dim=axes, correction=0)
        weight, bias = (None if p is None else p.float() for p in (module.weight, module.bias))
        rest = F.batch_norm(rests.pop(module).float(), mean, variance, weight, bias, eps=module.eps)
        return torch.cat([output, rest.to(output.dtype)])

    with contextlib.ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, _NORMS) and module.training:
                stack.enter_context(module.register_forward_pre_hook(first_rows))
                stack.enter_context(module.register_forward_hook(all_rows))
        yield
