"""The single pass: the same numbers whatever surrounds it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import normgate
from normgate import scores
from normgate.data.decoding import digest
from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record
from normgate.extractor import FeatureExtractor, extract
from normgate.features import FeatureError, Features, concatenate
from normgate.taps import MagnitudeError, MagnitudeSpec
from normgate.verdicts import NOT_FINITE
from samples import (
    CLASSES,
    FLAT,
    PREPROCESSING,
    overflowing_network,
    random_features,
    random_records,
    small_network,
    transformers_vit,
)

PIXELS = np.stack([record.payload for record in random_records(10, 0)])


def forwards(model: nn.Module) -> list[int]:
    """Rows of each later forward pass."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


def slim_resnet() -> nn.Module:
    torch.manual_seed(0)
    return normgate.Backbone("resnet18", 3, 4, 1, {"layers": [1, 1, 1, 1]}).build()


# ------------------------------------------------------------------------------------------- a single pass


def test_one_forward_pass_an_image_for_all_scores(network: nn.Module) -> None:
    extractor = FeatureExtractor(network, PREPROCESSING)
    seen = forwards(network)
    features = extract(extractor, random_records(20, 0), classes=CLASSES, batch_size=8).features
    for name in set(scores.names()) - {"norm_gain", "norm_profile"}:  # the network tells no stages
        scores.create(name).fit(features, features)(features)
    assert seen == [8, 8, 4]
    assert features.labels is not None
    assert features.labels.tolist() == [i % 3 for i in range(20)]
    assert features.ids == tuple(f"0/{i}" for i in range(20))


def test_looking_for_the_magnitude_sees_no_image(network: nn.Module) -> None:
    batches: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, args: batches.append(args[0].clone()))
    FeatureExtractor(network, PREPROCESSING)
    assert [len(batch) for batch in batches] == [2]
    batches.clear()
    FeatureExtractor(network, PREPROCESSING, search=False)
    assert not batches


@pytest.mark.parametrize("tau", [None, 1.0, 0.1, "learned"])
def test_features_are_the_heads_input_and_logits_keep_their_trained_form(tau: Any) -> None:
    network = small_network()
    if tau is not None:
        normgate.l2norm(network, temperature=tau)
    if tau == "learned":
        with torch.no_grad():
            network[-1].log_temperature.fill_(-1.5)
    features = extract(FeatureExtractor(network, PREPROCESSING), random_records(10, 0)).features
    network.eval()
    with torch.inference_mode():
        x = torch.from_numpy(PREPROCESSING(PIXELS))
        assert torch.equal(features.z, network[:-1](x))
        assert torch.equal(features.logits, network(x))
    value = {None: 1.0, "learned": np.exp(-1.5)}.get(tau, tau)
    weight, bias = network[-1].weight.detach(), network[-1].bias.detach()
    assert features.temperature == pytest.approx(value, rel=1e-6)
    assert torch.equal(features.weight, weight)
    raw = F.linear(features.z / features.temperature, weight, bias)
    assert torch.allclose(features.raw_logits, raw, rtol=1e-5, atol=1e-6)
    trained = features.z if tau is None else F.normalize(features.z, dim=1) / value
    assert torch.allclose(features.logits, F.linear(trained, weight, bias), rtol=1e-5, atol=1e-6)
    assert torch.allclose(features.u.norm(dim=1), torch.ones(10))


def test_features_do_not_follow_the_network_afterwards(network: nn.Module) -> None:
    features = FeatureExtractor(network, PREPROCESSING)(PIXELS)
    weight, z = features.weight.clone(), features.z.clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert torch.equal(features.weight, weight)
    assert torch.equal(features.z, z)
    linear = nn.Linear(54, 2)
    linear(features.z).sum().backward()  # tensors of inference mode would refuse
    assert linear.weight.grad is not None


@pytest.mark.parametrize("space", ["u", "raw_logits"])
@pytest.mark.parametrize("context", [torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)])
def test_what_is_kept_does_not_depend_on_who_asks_first(space: str, context: Any) -> None:
    features = random_features(10, 0)
    with context():
        kept = features.space(space)
    assert features.space(space) is kept
    assert torch.equal(kept, random_features(10, 0).space(space))
    linear = nn.Linear(kept.shape[1], 2)
    linear(kept).sum().backward()  # tensors of inference mode would refuse
    assert linear.weight.grad is not None


def test_a_parametrised_head_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    network = small_network()
    network[-1] = nn.utils.parametrizations.spectral_norm(network[-1])
    before = {name: value.clone() for name, value in network.train().state_dict().items()}
    extractor = FeatureExtractor(network, PREPROCESSING)
    features = extractor(PIXELS)
    assert extractor.device.type == "cpu"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(features.weight, network.eval()[-1].weight.detach())


def test_a_head_without_a_bias() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3, bias=False))
    features = FeatureExtractor(network, PREPROCESSING)(PIXELS)
    assert features.bias is None
    assert torch.equal(features.raw_logits, features.logits)


def test_the_head_is_kept_once_not_once_a_batch(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[Features] = []
    monkeypatch.setattr("normgate.extractor.concatenate", lambda parts: joined.extend(parts) or concatenate(parts))
    extract(FeatureExtractor(network, PREPROCESSING), random_records(20, 0), batch_size=4)
    assert len(joined) == 5
    assert len({part.weight.data_ptr() for part in joined}) == 1


# ---------------------------------------------------------------------------------- whatever surrounds it


def test_training_mode_autograd_and_autocast_change_nothing() -> None:
    network = normgate.l2norm(small_network(), temperature=0.1)
    extractor, records = FeatureExtractor(network, PREPROCESSING), random_records(30, 0)
    network.eval()
    plain = extract(extractor, records, classes=CLASSES).features
    names = set(scores.names()) - {"norm_gain", "norm_profile"}  # the network tells no stages
    expected = {name: scores.create(name).fit(plain, plain)(plain) for name in names}
    network.train()
    network[1].eval()  # somebody froze this layer
    statistics = network[1].running_mean.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        again = extract(extractor, records, classes=CLASSES).features
        for name in names:
            assert torch.equal(scores.create(name).fit(again, again)(again), expected[name])
    assert [module.training for module in network] == [True, False, True, True, True, True]
    assert network.training
    assert torch.equal(network[1].running_mean, statistics)
    assert torch.equal(plain.z, again.z)
    assert torch.equal(plain.logits, again.logits)
    assert not again.z.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_modes_come_back_after_an_error(network: nn.Module) -> None:
    extractor = FeatureExtractor(network, PREPROCESSING)
    network.train()
    with pytest.raises(FeatureError):
        extractor(torch.zeros(2, 3, 5, 5))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="these switches came with PyTorch 2.9")
def test_float32_products_are_not_shortened(network: nn.Module) -> None:
    extractor = FeatureExtractor(network, PREPROCESSING)
    parts = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul]
    before = [part.fp32_precision for part in parts]
    seen: list[str] = []
    network.register_forward_hook(lambda *_: seen.extend(part.fp32_precision for part in parts))
    try:
        torch.set_float32_matmul_precision("medium")  # bfloat16 on some CPUs
        chosen = [part.fp32_precision for part in parts]
        extractor(PIXELS)
        assert [part.fp32_precision for part in parts] == chosen
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # from here on PyTorch refuses to read the old switch
        extractor(PIXELS)
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        for part in parts:
            part.fp32_precision = "none"
        for everywhere in ("tf32", "ieee"):  # what is set for all goes on to reach each
            torch.backends.fp32_precision = everywhere
            extractor(PIXELS)
            assert {part.fp32_precision for part in parts} == {everywhere}
    finally:
        torch.backends.fp32_precision = "none"
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision
    assert set(seen) == {"ieee"}


def test_two_networks_share_nothing() -> None:
    one, two = (FeatureExtractor(small_network(seed), PREPROCESSING) for seed in (0, 1))
    first = one(PIXELS)
    second = two(PIXELS)
    assert not torch.equal(first.z, second.z)
    assert torch.equal(one(PIXELS).z, first.z)
    assert torch.equal(first.weight, one.model[-1].weight.detach())
    assert torch.equal(second.weight, two.model[-1].weight.detach())


def test_batching_changes_next_to_nothing() -> None:
    extractor = FeatureExtractor(slim_resnet(), PREPROCESSING)
    records = random_records(30, 0)
    whole, small = (extract(extractor, records, batch_size=size).features for size in (30, 7))
    assert torch.allclose(whole.z, small.z, rtol=1e-5, atol=1e-6)
    assert whole.ids == small.ids
    again = extract(extractor, records, batch_size=7, workers=0).features
    assert torch.equal(small.z, again.z)


@pytest.mark.parametrize("compiled", ["wrapped", "in place"])
def test_compiled_networks(compiled: str) -> None:
    network = slim_resnet()
    plain = FeatureExtractor(network, PREPROCESSING)(PIXELS)
    if compiled == "wrapped":
        again = FeatureExtractor(torch.compile(network, backend="eager"), PREPROCESSING)(PIXELS)
    else:
        network.compile(backend="eager")
        again = FeatureExtractor(network, PREPROCESSING)(PIXELS)
    assert torch.equal(again.z, plain.z)
    assert plain.stage_norms is not None
    assert again.stage_norms is not None
    assert torch.equal(again.stage_norms, plain.stage_norms)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_precision(network: nn.Module, dtype: torch.dtype) -> None:
    plain = FeatureExtractor(network, PREPROCESSING)(PIXELS)
    extractor = FeatureExtractor(network.to(dtype), PREPROCESSING)
    features = extractor(PIXELS)
    assert features.z.dtype == features.logits.dtype == features.weight.dtype == torch.float32
    assert torch.allclose(features.z, plain.z, rtol=0.1, atol=0.1)
    prepared = torch.from_numpy(PREPROCESSING(PIXELS))
    assert torch.equal(extractor(prepared).z, features.z)


# ---------------------------------------------------------------------------------- where the magnitude is


def test_the_magnitude_is_read_before_a_layer_norm() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.LayerNorm(16), nn.Linear(16, 3))
    features = extract(FeatureExtractor(network, PREPROCESSING), random_records(30, 0)).features
    assert features.m is not None
    assert torch.equal(features.m, features.magnitude)
    norms, magnitudes = features.z.norm(dim=1), features.magnitude.norm(dim=1)
    assert norms.std() / norms.mean() < 0.001 < 0.01 < magnitudes.std() / magnitudes.mean()


@pytest.mark.parametrize(
    ("name", "options", "module", "width"),
    [
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, "head.norm", 16),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}, "norm", 24),
    ],
)
def test_the_magnitude_of_timms_convnext_and_vit(name: str, options: Any, module: str, width: int) -> None:
    import timm

    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3, **options)
    extractor = FeatureExtractor(network, Preprocessing((32, 32)))
    assert extractor.magnitude is not None
    assert extractor.magnitude.module == module
    inputs: list[torch.Tensor] = []
    network.get_submodule(module).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    features = extractor(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    assert features.m is not None
    assert features.m.shape == (6, width)
    own = inputs[0].flatten(1) if name.startswith("convnext") else inputs[0][:, 0]
    assert torch.equal(features.m, own)
    assert scores.create("norm").refusal(dataclasses.replace(features, m=None)) is not None


def test_the_magnitude_can_be_read_elsewhere(network: nn.Module) -> None:
    features = FeatureExtractor(network, PREPROCESSING, features="1")(PIXELS)
    assert features.m is not None
    with torch.inference_mode():
        maps = network.eval()[0](torch.from_numpy(PREPROCESSING(PIXELS)))
    assert torch.equal(features.m, maps.mean((2, 3)))
    with pytest.raises(MagnitudeError, match="no layer named 'layer9'"):
        FeatureExtractor(network, PREPROCESSING, features="layer9")
    with pytest.raises(MagnitudeError, match="no layer named 'gone'"):
        FeatureExtractor(network, PREPROCESSING, magnitude=MagnitudeSpec("gone"), search=False)


# ------------------------------------------------------------------------------------ what the network returns


class After(nn.Module):
    """A network whose forward does something with the head's logits."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.network = small_network()
        self.change = change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(self.network(x))


@pytest.mark.parametrize(
    "change", [torch.neg, lambda x: 30 * x, lambda x: 1.01 * x, torch.sigmoid, lambda x: x.flip(1)]
)
@pytest.mark.parametrize("features", [None, "network.1"])
def test_a_network_that_changes_its_logits_is_refused(change: Any, features: str | None) -> None:
    with pytest.raises(FeatureError, match=r"its head 'network.5' gives: .* head=\"network.5\""):
        FeatureExtractor(After(change), PREPROCESSING, features=features)
    named = FeatureExtractor(After(change), PREPROCESSING, head="network.5", features=features)
    assert torch.equal(named(PIXELS).logits, FeatureExtractor(small_network(), PREPROCESSING)(PIXELS).logits)


def test_the_error_says_what_differs() -> None:
    network = After(lambda x: 2 * x)
    with torch.no_grad():
        network.network[-1].weight.zero_()
        network.network[-1].bias.copy_(torch.tensor([0.0, 1.5, -1.0]))
    with pytest.raises(
        FeatureError, match=r"it returns 3 where the head gives 1\.5\. .*into the head's weight and bias"
    ):
        FeatureExtractor(network, PREPROCESSING)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 0,
        lambda x: x.float().bfloat16(),
        lambda x: 3 * (x / 3),
        lambda x: x.log_softmax(1),  # the same classes and probabilities
        lambda x: x.softmax(1),
        lambda x: x[:, :2],  # nothing that could be compared
        lambda x: (x, -x),
        lambda x: {"logits": -x},
        lambda x: np.nan * x,
    ],
)
@pytest.mark.parametrize("tau", [None, 0.1])
def test_other_outputs_are_accepted(change: Any, tau: float | None) -> None:
    network = After(change)
    if tau is not None:
        normgate.l2norm(network, temperature=tau)
    assert FeatureExtractor(network, PREPROCESSING)(PIXELS).finite.all()


def test_logits_of_an_object_are_compared() -> None:
    with pytest.raises(FeatureError, match="does not return what its head"):
        FeatureExtractor(After(lambda x: types.SimpleNamespace(logits=-x)), PREPROCESSING)
    FeatureExtractor(After(lambda x: types.SimpleNamespace(logits=x)), PREPROCESSING)


# --------------------------------------------------------------------------------------------- the stages


def test_stage_norms_are_those_of_pooled_stages() -> None:
    network = slim_resnet()
    outputs: dict[str, torch.Tensor] = {}
    extractor = FeatureExtractor(network, PREPROCESSING)
    assert extractor.stages == ("act1", "layer1", "layer2", "layer3", "layer4")
    for name in extractor.stages:
        module = network.get_submodule(name)
        module.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
    features = extractor(PIXELS)
    expected = [outputs[name].mean((2, 3)).norm(dim=1) for name in extractor.stages]
    assert features.stage_norms is not None
    assert torch.allclose(features.stage_norms, torch.stack(expected, dim=1))
    assert torch.allclose(features.stage_norms[:, -1], features.z.norm(dim=1), rtol=1e-5)


class Staged(nn.Module):
    """Stages as odd as timm's: twice the same name, lists, tuples, the network itself, channels last."""

    def __init__(self, output_fmt: str | None = None) -> None:
        super().__init__()
        names = ["patches", "patches", "unused", "pair", "", "map"]
        self.feature_info = [{"module": name, "num_chs": 4} for name in names]
        if output_fmt is not None:
            self.output_fmt = output_fmt
        self.patches = nn.Conv2d(3, 4, 2, 2)
        self.unused = nn.ModuleList([nn.Identity()])
        self.pair = Pair()
        self.map = nn.Identity()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x)
        self.pair(x)
        if hasattr(self, "output_fmt"):
            return self.fc(self.map(x.permute(0, 2, 3, 1)).mean((1, 2)))
        return self.fc(self.map(x).mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


@pytest.mark.parametrize("output_fmt", [None, "NHWC"])
def test_stages_that_give_no_feature_map_are_left_out(output_fmt: str | None) -> None:
    torch.manual_seed(0)
    network = Staged(output_fmt)
    features = FeatureExtractor(network, PREPROCESSING)(PIXELS)
    assert features.stage_norms is not None
    assert features.stage_norms.shape == (10, 2)
    assert torch.allclose(features.stage_norms[:, -1], features.z.norm(dim=1))


@pytest.mark.parametrize(
    ("shape", "told", "output_fmt", "axis"),
    [
        ((5, 7, 7), 5, None, 0),
        ((5, 7, 7), 5, "NHWC", 0),  # what a network says of itself need not be true of each stage
        ((7, 7, 5), 5, None, 2),
        ((7, 7, 5), 5, "NCHW", 2),
        ((5, 7, 5), 5, None, 0),
        ((5, 7, 5), 5, "NCHW", 0),
        ((5, 7, 5), 5, "NHWC", 2),
        ((5, 7, 7), 6, None, None),
        ((5, 7, 7), 7, "NHWC", 2),
        ((5, 7, 7), None, None, 0),
        ((7, 7, 5), None, "NHWC", 2),
        ((9, 5), 5, None, 1),
        ((9, 5), 6, None, 1),
    ],
)
def test_stages_are_pooled_over_all_but_the_axis_of_their_channels(
    shape: tuple[int, ...], told: int | None, output_fmt: str | None, axis: int | None
) -> None:
    torch.manual_seed(0)
    flat = int(np.prod(shape))
    network: Any = nn.Sequential(
        nn.Flatten(), nn.Linear(192, flat), nn.Unflatten(1, shape), nn.Flatten(), nn.Linear(flat, 3)
    )
    network.feature_info = [{"module": "2", "num_chs": told}]
    if output_fmt is not None:
        network.output_fmt = output_fmt
    norms = FeatureExtractor(network, PREPROCESSING)(PIXELS).stage_norms
    if axis is None:
        assert norms is None
        return
    with torch.inference_mode():
        maps = network[:3](torch.from_numpy(PREPROCESSING(PIXELS)))
    expected = maps.movedim(1 + axis, 1).flatten(2).mean(2).norm(dim=1)
    assert norms is not None
    assert torch.allclose(norms[:, 0], expected)


def test_a_vit_of_timm_with_maps_that_does_not_say_so() -> None:
    import timm

    torch.manual_seed(0)
    options = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "global_attn_indexes": (1,)}
    network = timm.create_model("samvit_base_patch16", num_classes=3, **options).eval()
    outputs: list[torch.Tensor] = []
    extractor = FeatureExtractor(network, Preprocessing((64, 64)))
    network.get_submodule(extractor.stages[-1]).register_forward_hook(lambda _, __, output: outputs.append(output))
    features = extractor(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    assert outputs[0].shape == (3, 4, 4, 24)
    assert features.stage_norms is not None
    assert torch.allclose(features.stage_norms[:, -1], outputs[0].mean((1, 2)).norm(dim=1))


def test_networks_without_stages_have_no_stage_norms(network: nn.Module) -> None:
    assert FeatureExtractor(network, PREPROCESSING)(PIXELS).stage_norms is None


def test_a_transformers_network() -> None:
    network = normgate.l2norm(transformers_vit(), temperature=0.5)
    features = FeatureExtractor(network, PREPROCESSING)(PIXELS)
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(PREPROCESSING(PIXELS))).logits
    assert torch.equal(features.logits, logits)
    assert features.m is not None
    assert features.temperature == 0.5


# ------------------------------------------------------------------------------------------- what is wrong


def test_nan_weights_are_an_error(network: nn.Module) -> None:
    extractor = FeatureExtractor(network, PREPROCESSING)
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(FeatureError, match="NaN or infinite features for 10 of 10 images; its weights or"):
        extractor(PIXELS)
    with pytest.raises(FeatureError, match="infinite features for all of 3 images; its weights or"):
        extract(extractor, random_records(3, 0))


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_without_finite_features_are_listed(batch_size: int) -> None:
    extractor = FeatureExtractor(overflowing_network(), PREPROCESSING)
    records = [*random_records(3, 0), Record("flat", FLAT, "cat"), Record("bad", b"no image", "cat")]
    extraction = extract(extractor, records, classes=CLASSES, batch_size=batch_size, digests=True)
    assert extraction.errors[0] == ("flat", NOT_FINITE)
    assert [name for name, _ in extraction.errors] == ["flat", "bad"]
    plain = extract(extractor, random_records(3, 0), classes=CLASSES, batch_size=batch_size, digests=True)
    assert extraction.features.digests == plain.features.digests
    assert extraction.features.ids == plain.features.ids
    assert extraction.features.labels is not None
    assert extraction.features.labels.tolist() == [0, 1, 2]
    torch.testing.assert_close(extraction.features.z, plain.features.z)


@pytest.mark.parametrize("device", ["abacus", "cuda:77", "cpu:x"])
def test_a_device_that_is_not_there_is_an_error(network: nn.Module, device: str) -> None:
    with pytest.raises(FeatureError, match="cannot be used here"):
        FeatureExtractor(network, PREPROCESSING, device=device)


def test_an_infinite_logit_is_an_error(network: nn.Module) -> None:
    extractor = FeatureExtractor(network, PREPROCESSING)
    with torch.no_grad():
        network[-1].bias[1] = float("inf")
    with pytest.raises(FeatureError, match="for 10 of 10"):
        extractor(PIXELS)


def test_a_wrong_input_size_is_said(network: nn.Module) -> None:
    with pytest.raises(FeatureError, match=r"batch of shape \(2, 3, 16, 16\): .*; if it wants another size"):
        FeatureExtractor(network, Preprocessing((16, 16)))


def test_unreadable_images_are_listed(network: nn.Module) -> None:
    extractor = FeatureExtractor(network, PREPROCESSING)
    bad = [Record("bad", b"no image", "cat"), Record("gone", Path("gone.png"), "cat")]
    records = [bad[0], *random_records(3, 0), bad[1]]
    extraction = extract(extractor, records, classes=CLASSES, batch_size=2, digests=True)
    assert [name for name, _ in extraction.errors] == ["bad", "gone"]
    assert "gone.png" in extraction.errors[1][1]
    assert extraction.features.ids == ("0/0", "0/1", "0/2")
    assert extraction.features.digests is not None
    assert len(extraction.features.digests) == 3
    with pytest.raises(FeatureError, match="no image that can be read; the first of 2 errors: bad: not an image"):
        extract(extractor, bad)
    with pytest.raises(FeatureError, match=r"no image that can be read$"):
        extract(extractor, [])


@pytest.mark.parametrize("label", ["emu", None])
def test_labels_that_are_no_class_are_errors(network: nn.Module, label: str | None) -> None:
    records = [*random_records(3, 0), Record("x", PIXELS[0], label)]
    with pytest.raises(FeatureError, match=rf"x has the label {label!r}, which is none of the 3 classes \(cat, dog"):
        extract(FeatureExtractor(network, PREPROCESSING), records, classes=CLASSES)
    assert extract(FeatureExtractor(network, PREPROCESSING), records).features.labels is None


def test_progress_and_digests(network: nn.Module) -> None:
    told: list[tuple[str, int, int | None]] = []
    features = extract(
        FeatureExtractor(network, PREPROCESSING),
        random_records(10, 0),
        total=10,
        batch_size=4,
        digests=True,
        task="testing",
        progress=lambda task, done, total, **_: told.append((task, done, total)),
    ).features
    assert told == [("testing", 4, 10), ("testing", 8, 10), ("testing", 10, 10)]
    assert features.digests == tuple(digest(Image.fromarray(image)) for image in PIXELS)


@pytest.mark.parametrize("temperature", [None, 0.5, "learned"])
def test_logits_of_narrow_weights_are_not_rounded(temperature: float | None) -> None:
    network = small_network()
    if temperature is not None:
        normgate.l2norm(network, temperature=temperature)
    pixels = np.stack([record.payload for record in random_records(100, 4)])
    narrow = FeatureExtractor(network.to(torch.bfloat16), PREPROCESSING)(pixels)
    features = narrow.z if temperature is None else narrow.u / narrow.temperature
    exact = features @ narrow.weight.T + narrow.bias
    assert torch.allclose(narrow.logits, exact, atol=1e-5)
    assert len(narrow.logits.amax(dim=1).unique()) == 100


class Cosine(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = 20 * F.linear(F.normalize(x.float(), dim=-1), F.normalize(self.weight.float(), dim=-1))
        return logits.to(x.dtype)


@pytest.mark.parametrize("other", ["head", "hook"])
def test_logits_of_narrow_weights_are_those_of_the_head_that_is_there(other: str) -> None:
    network, pixels = small_network(), np.stack([record.payload for record in random_records(100, 4)])
    if other == "hook":
        network[-1].register_forward_hook(lambda _, __, output: 7 * output)
    else:
        network[-1].__class__ = Cosine
    wide = FeatureExtractor(network, PREPROCESSING)(pixels).logits
    narrow = FeatureExtractor(network.to(torch.bfloat16), PREPROCESSING)(pixels).logits
    assert (narrow - wide).abs().max() < 0.02 * wide.abs().max()
    assert len(narrow.amax(dim=1).unique()) == 100


class Casting(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(torch.bfloat16))


def test_a_head_that_casts_its_input_gives_what_it_gives() -> None:
    network, pixels = small_network(), np.stack([record.payload for record in random_records(10, 4)])
    network[-1].__class__ = Casting
    found = FeatureExtractor(network.to(torch.bfloat16), PREPROCESSING)(pixels)
    assert torch.allclose(found.logits, found.z @ found.weight.T + found.bias, atol=0.02)
