from __future__ import annotations

import json
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import nn

from normgate.normalization import HeadError, l2norm
from normgate.taps import MagnitudeError, MagnitudeSpec, capture, find_magnitude, magnitude_at


def images(n: int = 6, size: int = 32) -> torch.Tensor:
    """Noise of rising contrast: features of rising norms."""
    noise = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return noise * torch.linspace(0.2, 2, n)[:, None, None, None]


def variation(x: torch.Tensor) -> float:
    """Coefficient of variation of the rows' norms."""
    norms = x.norm(dim=1)
    return (norms.std() / norms.mean()).item()


class Encoder(nn.Module):
    """Images to (N, T, 8) tokens, or to their (N, 8) mean."""

    def __init__(self, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.patches = nn.Conv2d(3, 8, 8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return tokens.mean(1) if self.pool else tokens


class Token(nn.Module):
    """One token of a sequence."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.index]


# ---------------------------------------------------------------------------------------------- capture


@pytest.mark.parametrize("normalised", [False, True])
def test_raw_features_and_trained_logits(normalised):
    torch.manual_seed(0)
    model = nn.Sequential(Encoder(pool=True), nn.ReLU(), nn.Linear(8, 4))
    if normalised:
        l2norm(model, temperature=0.5)
    x = images()
    with capture(model) as tap:
        output = model(x)
    z = model[:2](x)
    assert torch.equal(tap.z, z)
    assert torch.equal(tap.logits, output)
    u = F.normalize(z, dim=-1) / 0.5 if normalised else z
    torch.testing.assert_close(tap.logits, F.linear(u, model[2].weight, model[2].bias))
    assert tap.m is None


def test_the_gradient_is_orthogonal_to_the_features_of_a_whole_network():
    torch.manual_seed(0)
    model = l2norm(timm.create_model("resnet18", num_classes=4, channels=(8, 8, 8, 8))).double()
    with capture(model) as tap:
        model(images().double())
    z, logits = tap.z, tap.logits
    z.retain_grad()
    F.cross_entropy(logits, torch.arange(6) % 4, reduction="sum").backward()
    assert z.grad.norm() > 0
    assert ((z * z.grad).sum(1).abs() <= 1e-12 * z.norm(dim=1) * z.grad.norm(dim=1).clamp(min=1)).all()


def test_norms_in_float32_are_distinct_under_autocast():
    torch.manual_seed(0)
    model = l2norm(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)))
    with torch.autocast("cpu", torch.bfloat16), capture(model) as tap:
        model(torch.randn(500, 8))
    assert tap.z.dtype == torch.bfloat16
    assert len(tap.z.norm(dim=1).unique()) < 300
    assert len(tap.z.float().norm(dim=1).unique()) > 490


def test_capture_leaves_nothing_behind():
    model = l2norm(timm.create_model("convnext_atto", num_classes=4))
    spec = magnitude_at(model, "head.norm")
    before = {
        name: (len(module._forward_pre_hooks), len(module._forward_hooks), module.training)
        for name, module in model.named_modules()
    }
    find_magnitude(model, None, images())
    with pytest.raises(RuntimeError, match="channels"), capture(model, magnitude=spec):
        model(images()[:, :2])
    assert before == {
        name: (len(module._forward_pre_hooks), len(module._forward_hooks), module.training)
        for name, module in model.named_modules()
    }


def test_each_forward_pass_replaces_the_one_before():
    model = nn.Linear(8, 4)
    with capture(model) as tap:
        for n in (3, 5):
            model(torch.zeros(n, 8))
            assert tap.z.shape == (n, 8)
            assert tap.logits.shape == (n, 4)


def test_two_captures_do_not_mix():
    one, other = nn.Linear(8, 4), nn.Linear(8, 4)
    x = torch.randn(3, 8)
    with capture(one) as a, capture(other) as b:
        one(x)
        other(x + 1)
    assert torch.equal(a.z, x)
    assert torch.equal(b.z, x + 1)


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_models_are_seen_even_after_they_ran(in_place):
    model = l2norm(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)))
    x = torch.randn(3, 8)
    if in_place:
        model.compile(backend="eager")
        compiled = model
    else:
        compiled = torch.compile(model, backend="eager")
    expected = compiled(x)
    for factor in (1, 2):
        with capture(compiled) as tap:
            compiled(factor * x)
        assert torch.equal(tap.z, model[0](factor * x))
        torch.testing.assert_close(tap.logits, compiled(factor * x))
    torch.testing.assert_close(compiled(x), expected)


def test_a_compiled_part_hides_nothing_and_does_not_show_in_names():
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.norm = Encoder(pool=True), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(self.encoder(x))

    part = Part()
    model = nn.Sequential(torch.compile(part, backend="eager"), nn.Linear(8, 4))
    model(images())
    spec = find_magnitude(model, None, images())
    assert spec == MagnitudeSpec("0.norm", 0)
    with capture(model, magnitude=spec) as tap:
        model(images())
    assert torch.equal(tap.m, part.encoder(images()))


def test_keyword_inputs_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    model = transformers.ViTForImageClassification(config)
    spec = find_magnitude(model, None, images())
    assert spec == MagnitudeSpec("vit.layernorm", 0, channels_last=True)
    with torch.no_grad(), capture(model.eval(), magnitude=spec) as tap:
        output = model(pixel_values=images())
    assert torch.equal(tap.logits, output.logits)
    assert variation(tap.z) < 1e-3 < variation(tap.m)


class Misuse(nn.Module):
    """A head that is called in the way ``use`` says."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.use == "never":
            return x
        if self.use == "twice":
            return self.head(x) + self.head(-x)
        if self.use == "pixels":
            return self.head(x[:, None].expand(-1, 5, -1))
        return self.head(x.repeat(2, 1))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("never", "called 0 times"),
        ("twice", "called 2 times"),
        ("pixels", r"shape \(3, 5, 8\): one vector an image"),
        ("rows", "6 rows for 3 images"),
    ],
)
def test_a_head_that_does_not_read_one_vector_an_image_is_an_error(use, message):
    model = Misuse(use)
    with capture(model), pytest.raises(HeadError, match=message):
        model(torch.zeros(3, 8))
    assert not model.head._forward_pre_hooks


def test_looking_before_the_model_ran_is_an_error():
    with capture(nn.Sequential(nn.Linear(8, 4)), magnitude=MagnitudeSpec("0")) as tap:
        for look in (lambda: tap.z, lambda: tap.logits, lambda: tap.m):
            with pytest.raises(HeadError, match="call the model itself"):
                look()


# --------------------------------------------------------------------------------------------- magnitude


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("convnext_atto", {}, MagnitudeSpec("head.norm", 0, channels_last=False)),
        ("vit_tiny_patch16_224", {"img_size": 32}, MagnitudeSpec("norm", 0)),
        ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg"}, MagnitudeSpec("fc_norm", 0)),
        ("vit_tiny_patch16_224", {"img_size": 32, "drop_rate": 0.5}, MagnitudeSpec("norm", 0)),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2}, None),
        ("resnet18", {"channels": (8, 8, 8, 8)}, None),
        ("regnety_002", {}, None),
    ],
)
@pytest.mark.parametrize("normalised", [False, True])
def test_where_networks_of_timm_keep_their_magnitude(name, args, expected, normalised):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, **args)
    if normalised:
        l2norm(model)
    x = images(size=args.get("img_size", 32))
    assert find_magnitude(model, None, x) == expected
    assert model.training
    with torch.no_grad(), capture(model.eval(), magnitude=expected) as tap:
        model(x)
    if expected is None:
        assert tap.m is None
        assert variation(tap.z) > 0.01
    else:
        assert tap.m.shape == tap.z.shape
        assert variation(tap.z) < 1e-3
        assert variation(tap.m) > 0.01


def test_torchvision_and_channels_first_norms():
    import torchvision

    torch.manual_seed(0)
    block = torchvision.models.convnext.CNBlockConfig
    model = torchvision.models.ConvNeXt([block(8, 16, 1), block(16, None, 1)], num_classes=4).eval()
    spec = find_magnitude(model, None, images())
    assert spec == MagnitudeSpec("classifier.0", 0, channels_last=False)
    with torch.no_grad(), capture(model, magnitude=spec) as tap:
        model(images())
    pooled = model.avgpool(model.features(images())).flatten(1)
    torch.testing.assert_close(tap.m, pooled)


@pytest.mark.parametrize("index", [0, 5, 15])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_the_norm_layer_is_read_at_the_token_that_the_head_reads(index, norm):
    torch.manual_seed(0)
    encoder = Encoder(pool=False)
    model = nn.Sequential(encoder, nn.LayerNorm(8), norm(8), Token(index), nn.Dropout(0.5), nn.Linear(8, 4))
    spec = find_magnitude(model, None, images())
    assert spec == MagnitudeSpec("2", index)
    with capture(model.eval(), magnitude=spec) as tap:
        model(images())
    assert torch.equal(tap.m, model[:2](images())[:, index])


def test_a_norm_layer_of_ones_own_is_known_by_its_name():
    class CustomRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LayerNorm(8)

        def forward(self, hidden):
            return self.inner(hidden)

    model = nn.Sequential(Encoder(pool=True), CustomRMSNorm(), nn.Linear(8, 4))
    assert find_magnitude(model, None, images()) == MagnitudeSpec("1", 0)  # the last of the two to give z


def test_averaging_after_the_norm_leaves_the_magnitude_in_z():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    model = nn.Sequential(Encoder(pool=False), nn.LayerNorm(8), Mean(), nn.Linear(8, 4))
    assert find_magnitude(model, None, images()) is None


def test_specs_go_through_json():
    spec = MagnitudeSpec("head.norm", 3, channels_last=False)
    assert MagnitudeSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"module": "norm", "position": 0},
        {"module": "norm", "position": 0, "channels_last": True, "more": 1},
        {"module": 1, "position": 0, "channels_last": True},
        {"module": "norm", "position": -1, "channels_last": True},
        {"module": "norm", "position": True, "channels_last": True},
        {"module": "norm", "position": 0, "channels_last": 1},
    ],
)
def test_damaged_specs_are_errors(values):
    with pytest.raises(MagnitudeError):
        MagnitudeSpec.from_dict(values)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 8), lambda x: x),
        ((2, 8, 1, 1), lambda x: x.flatten(1)),
        ((2, 5, 8), lambda x: x[:, 0]),
        ((2, 8, 3, 4), lambda x: x.flatten(2).mean(2)),
    ],
)
def test_an_override_takes_a_layers_input_by_its_shape(shape, expected):
    x = torch.randn(shape)
    torch.testing.assert_close(MagnitudeSpec("layer").select(x), expected(x))


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (MagnitudeSpec("layer"), (8,)),
        (MagnitudeSpec("layer"), (2, 3, 4, 5, 6)),
        (MagnitudeSpec("layer", 5), (2, 5, 8)),
        (MagnitudeSpec("layer", 0), (8,)),
    ],
)
def test_inputs_without_such_a_vector_are_errors(spec, shape):
    with pytest.raises(MagnitudeError, match="no magnitude vector"):
        spec.select(torch.zeros(shape))


class Map(nn.Module):
    """An image as a feature map of one shape, read by a layer, and then by the head."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = layer
        self.shape = shape
        self.head = nn.LazyLinear(4)

    def forward(self, x):
        pixels = x.flatten(1)[:, : math.prod(self.shape)]
        return self.head(self.layer(pixels.unflatten(1, self.shape)).flatten(1))


@pytest.mark.parametrize(
    ("layer", "shape", "output_fmt", "axis"),
    [
        (nn.BatchNorm2d(5), (5, 3, 4), None, 1),
        (nn.BatchNorm2d(5), (5, 5, 5), "NHWC", 1),  # it reads axis 1 whatever the network says
        (nn.Conv2d(5, 2, 1), (5, 6, 5), None, 1),
        (nn.GroupNorm(1, 5), (5, 6, 6), None, 1),
        (nn.LayerNorm(5), (3, 4, 5), None, -1),
        (nn.LayerNorm(5), (5, 5, 5), None, -1),
        (nn.Linear(5, 2), (6, 6, 5), None, -1),
        (nn.Sequential(nn.Identity(), nn.LayerNorm(5)), (6, 6, 5), None, -1),
        (nn.Sequential(nn.Conv2d(5, 7, 1), nn.BatchNorm2d(7)), (5, 7, 7), None, 1),
        (LayerNorm2d(5), (5, 3, 4), None, 1),
        (LayerNorm2d(5), (5, 5, 5), "NCHW", 1),
        (LayerNorm2d(5), (5, 5, 5), None, None),
        (nn.ReLU(), (5, 6, 6), None, 1),
        (nn.ReLU(), (6, 6, 5), None, -1),
        (nn.ReLU(), (6, 7, 5), "NHWC", -1),
        (nn.ReLU(), (5, 5, 5), "NCHW", 1),
        (nn.ReLU(), (5, 5, 5), None, None),
        (nn.ReLU(), (5, 6, 7), None, None),
    ],
)
def test_the_features_of_a_map_are_on_the_axis_that_its_layer_reads(layer, shape, output_fmt, axis):
    model = Map(layer, shape)
    if output_fmt is not None:
        model.output_fmt = output_fmt
    model(images())
    with torch.no_grad(), capture(model, magnitude=magnitude_at(model, "layer")) as tap:
        if axis is None:
            with pytest.raises(MagnitudeError, match=r"cannot be told which axis .* of 'layer': name a layer"):
                model(images())
            return
        model(images())
    maps = images().flatten(1)[:, : math.prod(shape)].unflatten(1, shape)
    torch.testing.assert_close(tap.m, maps.movedim(axis, 1).flatten(2).mean(2))


def test_two_axes_alike_say_nothing_where_images_are_no_squares():
    model = Map(nn.ReLU(), (5, 6, 6))
    model(images())
    with (
        capture(model, magnitude=magnitude_at(model, "layer")),
        pytest.raises(MagnitudeError, match="cannot be told"),
    ):
        model(images()[:, :, :, :16])


def test_the_last_norm_layer_of_a_swin_transformer():
    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, img_size=64, window_size=2).eval()
    read = []
    model.norm.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad(), capture(model, magnitude=magnitude_at(model, "norm")) as tap:
        model(images(size=64))
    assert tap.m.shape == (6, model.num_features)
    torch.testing.assert_close(tap.m, read[0].mean((1, 2)))


class InPlace(nn.Module):
    """Everything that is captured is changed afterwards, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(pool=True)
        self.layer = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        hidden = self.encoder(x)
        z = self.layer(hidden - 1)
        logits = self.head(z)
        z.zero_()
        return logits.mul_(0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_captured_is_kept_as_it_was(mode):
    torch.manual_seed(0)
    model = InPlace()
    with mode(), capture(model, magnitude=magnitude_at(model, "layer")) as tap:
        model(images())
        m = model.encoder(images()) - 1
    assert torch.equal(tap.m, m)
    assert torch.equal(tap.z, m.relu())
    assert torch.equal(tap.logits, model.head(m.relu()))


@pytest.mark.parametrize("shape", [(8,), (5, 8), (8, 1, 1)])
def test_the_input_of_a_layer_that_works_in_place(shape):
    model = Map(nn.ReLU(inplace=True), shape)
    model(images())
    with torch.no_grad(), capture(model, magnitude=magnitude_at(model, "layer")) as tap:
        model(images() - 1)
    x = (images() - 1).flatten(1)[:, : math.prod(shape)]
    assert torch.equal(tap.m, x[:, :8])
    assert (tap.m < 0).any()


def test_gradients_go_through_what_is_captured():
    torch.manual_seed(0)
    model = nn.Sequential(Encoder(pool=True), nn.ReLU(inplace=True), nn.Linear(8, 4))
    with capture(model, magnitude=magnitude_at(model, "1")) as tap:
        model(images())
    weight = model[0].patches.weight
    (of_m,) = torch.autograd.grad(tap.m.sum(), weight, retain_graph=True)
    (expected,) = torch.autograd.grad(model[0](images()).sum(), weight)
    torch.testing.assert_close(of_m, expected)
    of_z, of_logits = torch.autograd.grad([tap.z.sum(), tap.logits.sum()], [weight, model[2].weight])
    assert of_z.norm() > 0
    assert of_logits.norm() > 0


def test_overrides_name_a_layer_of_the_model():
    model = nn.Sequential(Encoder(pool=True), nn.ReLU(), nn.Linear(8, 4))
    with capture(model, magnitude=magnitude_at(model, "1")) as tap:
        model(images())
    assert torch.equal(tap.m, model[0](images()))
    with pytest.raises(MagnitudeError, match=r"no layer named 'patchs'; similar names: .*0\.patches"):
        magnitude_at(model, "patchs")


def test_a_layer_that_the_model_does_not_use_is_an_error():
    model = Misuse("once")
    model.unused = nn.LayerNorm(8)
    model.forward = lambda x: model.head(x)
    with (
        capture(model, magnitude=MagnitudeSpec("unused", 0)),
        pytest.raises(MagnitudeError, match="'unused' read no input for 3 images"),
    ):
        model(torch.zeros(3, 8))
