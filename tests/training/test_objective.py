"""What is minimised: cross-entropy alone by default, and what recipes add to it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normgate
from normgate import Recipe
from normgate.taps import capture, find_magnitude
from normgate.training.objective import Objective, turned
from normgate.training.radial import radial_loss


def network(seed: int = 0) -> nn.Sequential:
    """Two layers with batch normalisation, and a normalised head of three classes."""
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5), nn.BatchNorm1d(5)
    )
    return normgate.l2norm(nn.Sequential(*layers, nn.Linear(5, 3)), head="6", temperature=0.5).double()


def batch(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator).double(), torch.arange(count) % 3


def test_by_default_it_is_cross_entropy_and_nothing_else() -> None:
    model, (x, labels) = network(), batch(12)
    objective = Objective(model, Recipe())
    losses = objective(x, labels)
    expected = F.cross_entropy(network()(x), labels, reduction="sum")
    assert losses.total is losses.cross_entropy
    assert losses.total == expected
    assert [id(p) for p in objective.parameters()] == [id(p) for p in model.parameters()]
    (group,) = objective.parameter_groups()
    assert len(group["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("temperature", [1.0, "learned"])
def test_without_head_decay_the_heads_parameters_are_apart(temperature: object) -> None:
    model = normgate.l2norm(normgate.remove_l2norm(network()), head="6", temperature=temperature)
    rest, head = Objective(model, Recipe(head_decay=False)).parameter_groups()
    assert "weight_decay" not in rest
    assert head["weight_decay"] == 0
    assert {id(p) for p in head["params"]} == {id(p) for p in model[6].parameters()}
    assert len(rest["params"]) + len(head["params"]) == len(list(model.parameters()))


def test_every_image_is_turned_by_its_own_quarters() -> None:
    x, _ = batch(20)
    quarters = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(0))
    assert quarters.unique().tolist() == [0, 1, 2, 3]
    for image, out, quarter in zip(x, turned(x, quarters), quarters.tolist(), strict=True):
        expected = image
        for _ in range(quarter):  # counter-clockwise: columns become rows from the bottom up
            expected = expected.transpose(1, 2).flip(1)
        assert torch.equal(out, expected)


def test_rotations_are_told_from_what_the_head_reads() -> None:
    x, labels = batch(12)
    objective = Objective(network(), Recipe(rotations=0.25)).double()
    torch.manual_seed(3)
    with objective.at_work():
        losses = objective(x, labels)
    assert not objective.network[6]._forward_hooks
    torch.manual_seed(3)
    quarters = torch.randint(0, 4, (12,))
    model = network()
    with capture(model, "6") as tap:
        logits = model(torch.cat([x, turned(x, quarters)]))
    u = F.normalize(tap.z, dim=1) / 0.5
    told = F.linear(u[12:], objective.quarters.weight, objective.quarters.bias)
    task = F.cross_entropy(told, quarters, reduction="sum")
    cross_entropy = F.cross_entropy(logits[:12], labels, reduction="sum")
    assert torch.allclose(losses.logits, logits[:12], rtol=1e-12)
    assert torch.allclose(losses.cross_entropy, cross_entropy, rtol=1e-12)
    assert torch.allclose(losses.total, cross_entropy + 0.25 * task, rtol=1e-12)


def test_rotations_leave_norms_free() -> None:
    """Both tasks read directions alone: image by image no loss pushes outward."""
    x, labels = batch(12)
    objective = Objective(network(), Recipe(rotations=1.0)).double()
    with capture(objective.network, "6") as tap, objective.at_work():
        losses = objective(x, labels)
    (gradient,) = torch.autograd.grad(losses.total, tap.z)
    assert gradient.abs().max() > 1e-3
    assert (tap.z * gradient).sum(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("rotations", [0.0, 0.5])
def test_probes_change_nothing_for_images(rotations: float) -> None:
    """Neither their logits nor the running statistics of batch normalisation."""
    (x, labels), (probes, _) = batch(12), batch(4, seed=2)
    with_probes, without = (Objective(network(), Recipe(radial=1.0, rotations=rotations)).double() for _ in range(2))
    if rotations:
        without.quarters.load_state_dict(with_probes.quarters.state_dict())
    with with_probes.at_work(), without.at_work():
        torch.manual_seed(0)
        losses = with_probes(x, labels, probes)
        torch.manual_seed(0)
        expected = without(x, labels)
    assert torch.allclose(losses.logits, expected.logits, rtol=1e-9, atol=1e-12)
    for name, value in without.network.state_dict().items():
        assert torch.allclose(with_probes.network.state_dict()[name].double(), value.double(), rtol=1e-6), name


def test_the_radial_loss_is_of_the_vector_that_carries_the_magnitude() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    (x, labels), (probes, _) = batch(12), batch(4, seed=2)
    magnitude = find_magnitude(model, None, x)
    losses = Objective(model, Recipe(radial=1.0), magnitude)(x, labels, probes)
    inside, outside = (model[1](images.flatten(1)) for images in (x, probes))
    assert torch.allclose((losses.total - losses.cross_entropy).float(), 12 * radial_loss(inside, outside), rtol=1e-5)
    assert not torch.allclose(radial_loss(inside, outside), radial_loss(model[:3](x), model[:3](probes)), rtol=1e-2)


def test_probes_are_seen_as_once_the_network_is_trained() -> None:
    """Batch normalisation treats them with the statistics of images, which evaluation later holds."""
    (x, labels), (probes, _) = batch(12), batch(4, seed=2)
    model = network().float()
    for layer in (model[1], model[5]):
        layer.momentum = 1.0  # running statistics are then those of the last batch
    x, probes = x.float(), probes.float()
    objective = Objective(model, Recipe(radial=0.5))
    losses = objective(x, labels, probes)
    reference = network().float().train()
    with capture(reference, "6") as tap:
        reference(x)
        inside = tap.z
        for layer, batch_size in ((model[1], 12 * 36), (model[5], 12)):
            layer.running_var *= (batch_size - 1) / batch_size  # what is kept is Bessel's, what is used is not
        model.eval()
    with capture(model, "6") as tap:
        model(probes)
        outside = tap.z
    pairs = [F.softplus(p.norm().log() - i.norm().log()) for p, i in itertools.product(outside, inside)]
    expected = losses.cross_entropy + 0.5 * 12 * torch.stack(pairs).mean()
    assert torch.allclose(losses.total, expected, rtol=1e-4)
    assert torch.allclose(radial_loss(inside, outside), torch.stack(pairs).mean(), rtol=1e-5)
