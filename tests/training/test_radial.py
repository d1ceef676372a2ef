"""The radial loss against loops, and the probes that it is trained on."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from normgate.probes import PROBES
from normgate.training import radial
from normgate.training.radial import (
    FAMILIES,
    RadialError,
    check_norms,
    draw_probes,
    radial_loss,
    statistics_of_the_first,
)


def test_it_falls_as_images_outgrow_probes() -> None:
    images, probes = torch.full((5, 4), 2.0), torch.full((3, 4), 2.0)
    even = float(radial_loss(images, probes))
    assert even == pytest.approx(np.log(2))
    assert float(radial_loss(4 * images, probes)) == pytest.approx(np.log1p(1 / 4))
    assert float(radial_loss(images, 4 * probes)) == pytest.approx(np.log1p(4))


def test_a_common_scale_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    images, probes = torch.randn(9, 6, generator=generator), torch.randn(4, 6, generator=generator)
    assert float(radial_loss(100 * images, 100 * probes)) == pytest.approx(float(radial_loss(images, probes)), rel=1e-5)


def test_its_gradient_is_radial() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(9, 6, generator=generator).requires_grad_()
    probes = torch.randn(4, 6, generator=generator).requires_grad_()
    gradients = torch.autograd.grad(radial_loss(images, probes), [images, probes])
    for features, gradient, sign in zip((images, probes), gradients, (-1, 1), strict=True):
        cosines = torch.cosine_similarity(features, gradient, dim=1)
        assert torch.allclose(cosines, torch.full_like(cosines, sign), atol=1e-5)


def test_features_of_zero_have_a_finite_gradient() -> None:
    images, probes = torch.zeros(3, 4, requires_grad=True), torch.ones(2, 4)
    (gradient,) = torch.autograd.grad(radial_loss(images, probes), images)
    assert torch.isfinite(gradient).all()


def test_probes_are_a_quarter_of_the_batch_and_of_the_families_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (32, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = []
    for name, probe in PROBES.items():

        def recorded(*args: object, name: str = name, probe: object = probe) -> object:
            made.append(name)
            return probe(*args)

        monkeypatch.setitem(radial.PROBES, name, recorded)
    rng = np.random.default_rng(0)
    for _ in range(100):
        probes = draw_probes(pixels, torch.arange(32) % 3, rng)
        assert probes.dtype == torch.uint8
        assert probes.shape[1:] == (8, 8, 3)
        assert 1 <= len(probes) <= 8
    assert set(made) == {name for name in PROBES if name.partition("/")[0] in FAMILIES}


def test_of_one_class_there_are_no_blends() -> None:
    pixels = torch.randint(0, 256, (8, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    assert all(len(draw_probes(pixels, torch.zeros(8), rng)) == 2 for _ in range(50))


def test_layers_that_see_parts_of_images_are_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(0, 1), torch.nn.BatchNorm1d(4))
    with statistics_of_the_first(3, 4, network), pytest.raises(RadialError, match="BatchNorm1d reads 8 entries for 4"):
        network(torch.randn(4, 2, 4))


def test_a_blend_is_of_two_classes() -> None:
    pixels = torch.stack([torch.full((8, 8, 3), 40 * label, dtype=torch.uint8) for label in (0, 0, 0, 1, 2, 0, 0, 0)])
    labels = torch.tensor([0, 0, 0, 1, 2, 0, 0, 0])
    rng = np.random.default_rng(0)
    for _ in range(60):
        probes = draw_probes(pixels, labels, rng)  # of the first two images, with the third and fourth
        if len(probes) == 1:  # a blend: the first and third are of one class
            assert set(probes.unique().tolist()) in ({20}, {0, 40})
            break
    else:
        pytest.fail("no blend was drawn in 60 tries")


def test_other_batch_normalisation_is_refused() -> None:
    with pytest.raises(RadialError, match=r"bn1 is a BatchNormAct2d.*radial=0"):
        check_norms(timm.create_model("efficientnet_b0", num_classes=3))
    check_norms(timm.create_model("resnet18", num_classes=3))
    check_norms(timm.create_model("test_vit", num_classes=3))
