from __future__ import annotations

import contextlib
import copy
import math
import pickle
from collections.abc import Callable

import lightning_fabric
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.hooks import RemovableHandle

from normgate.errors import NormgateError
from normgate.normalization import (
    HeadError,
    cross_entropy_floor,
    find_head,
    is_compiled,
    is_normalized,
    l2norm,
    remove_l2norm,
    set_temperature,
    temperature,
    unwrap,
)
from normgate.taps import capture

TEMPERATURES = [1.0, 0.1, "learned"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same weights in whatever order tests run: one network in hundreds gives an image no feature at all."""
    torch.manual_seed(0)


def mlp(features: int = 8, classes: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, classes))


def images(n: int = 5, features: int = 8) -> torch.Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Children by keyword, in the order given; forward is not needed to find heads."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


# -------------------------------------------------------------------------------------- the mathematics


def gradients(dtype: torch.dtype, seed: int, scale: float, tau: float) -> tuple[torch.Tensor, ...]:
    """Features z, the loss's gradient at z through the hook, and at u = z/‖z‖ through plain formulas."""
    generator = torch.Generator().manual_seed(seed)
    head = l2norm(nn.Linear(16, 5).to(dtype), temperature=tau)
    with torch.no_grad():
        head.weight.copy_(torch.randn(5, 16, generator=generator))
    z = (scale * torch.randn(7, 16, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    labels = torch.randint(5, (7,), generator=generator)
    (at_z,) = torch.autograd.grad(F.cross_entropy(head(z), labels, reduction="sum"), z)
    u = (z / z.norm(dim=1, keepdim=True)).detach().requires_grad_()
    loss = F.cross_entropy(F.linear(u / tau, head.weight, head.bias), labels, reduction="sum")
    (at_u,) = torch.autograd.grad(loss, u)
    return z.detach(), at_z, u.detach(), at_u


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), tau=st.sampled_from([0.1, 1.0, 3.0]))
def test_the_loss_never_pushes_outward(dtype, tolerance, seed, scale, tau):
    z, at_z, _, at_u = gradients(dtype, seed, scale, tau)
    radial = (z * at_z).sum(1).abs()
    assert (radial <= tolerance * at_u.norm(dim=1)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_the_gradient_is_the_tangential_part_over_the_norm(seed, scale):
    z, at_z, u, at_u = gradients(torch.float64, seed, scale, 0.5)
    tangential = at_u - (u * at_u).sum(1, keepdim=True) * u
    torch.testing.assert_close(at_z, tangential / z.norm(dim=1, keepdim=True), rtol=1e-10, atol=1e-13 / scale)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_the_head_reads_unit_features_over_tau(tau):
    model = mlp()
    z = model[:2](images())
    l2norm(model, temperature=tau)
    if tau == "learned":
        nn.init.constant_(model[2].log_temperature, math.log(0.3))
        tau = 0.3
    expected = F.linear(F.normalize(z, dim=-1) / tau, model[2].weight, model[2].bias)
    torch.testing.assert_close(model(images()), expected)
    assert temperature(model) == pytest.approx(tau)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-4, 1e6))
def test_logits_do_not_move_when_features_are_rescaled(scale):
    head = l2norm(nn.Linear(8, 4))
    torch.testing.assert_close(head(images() * scale), head(images()))


def simplex(num_classes: int) -> torch.Tensor:
    rows = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
@pytest.mark.parametrize(("rms_norm", "tau"), [(0.0, 1.0), (1.0, 1.0), (5.0, 0.5), (2.0, 0.1)])
def test_a_simplex_reaches_the_floor(num_classes, rms_norm, tau):
    head = l2norm(nn.Linear(num_classes, num_classes, bias=False).double(), temperature=tau)
    with torch.no_grad():
        head.weight.copy_(rms_norm * simplex(num_classes))
    loss = F.cross_entropy(head(simplex(num_classes)), torch.arange(num_classes))
    assert loss.item() == pytest.approx(cross_entropy_floor(num_classes, rms_norm, tau), rel=1e-9, abs=1e-14)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_classes=st.integers(2, 8),
    features=st.integers(1, 10),
    spread=st.floats(0, 2),
    aligned=st.floats(0, 1),
    tau=st.sampled_from([0.1, 1.0, 2.0]),
)
def test_nothing_goes_below_the_floor(seed, num_classes, features, spread, aligned, tau):
    torch.manual_seed(seed)
    weight = torch.randn(num_classes, features, dtype=torch.float64) * torch.rand(num_classes, 1) ** spread
    bias = torch.randn(num_classes, dtype=torch.float64)
    rows = weight - weight.mean(0)
    u = F.normalize(aligned * F.normalize(rows, dim=1) + (1 - aligned) * torch.randn_like(rows), dim=1)
    loss = F.cross_entropy(F.linear(u / tau, weight, bias), torch.arange(num_classes)).item()
    floor = cross_entropy_floor(num_classes, rows.square().sum(1).mean().sqrt().item(), tau)
    assert loss >= floor - 1e-12 * (1 + floor)


@pytest.mark.parametrize("arguments", [(1, 1.0, 1.0), (3, -1.0, 1.0), (3, 1.0, 0.0), (3, math.nan, 1.0)])
def test_a_floor_needs_sensible_numbers(arguments):
    with pytest.raises(NormgateError, match="num_classes >= 2"):
        cross_entropy_floor(*arguments)


# ------------------------------------------------------------------------------------------- precision


class Spy:
    """Keeps what the head reads after the normalisation."""

    def __init__(self, head: nn.Linear) -> None:
        head.register_forward_pre_hook(self)

    def __call__(self, _, args):
        (self.u,) = args


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [1.0, "learned"])
def test_normalisation_stays_in_float32_under_autocast(device, low, tau):
    model = l2norm(mlp(), temperature=tau).to(device)
    spy = Spy(model[2])
    with torch.autocast(device, low):
        logits = model(images(200).to(device))
    assert logits.dtype == low
    assert spy.u.dtype == torch.float32
    assert (spy.u.norm(dim=1) - 1).abs().max() < 1e-6  # rounding to bfloat16 would give 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("tau", [0.5, "learned"])
def test_modules_of_other_precisions_work(dtype, tau):
    model = l2norm(mlp(), temperature=tau).to(dtype)
    x = images().to(dtype)
    logits = model(x)
    assert logits.dtype == dtype
    u = F.normalize(model[:2](x).double(), dim=-1) / temperature(model)
    expected = F.linear(u.to(dtype), model[2].weight, model[2].bias)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_zero_features_give_the_bias(dtype):
    head = l2norm(nn.Linear(8, 4).to(dtype))
    z = torch.zeros(3, 8, dtype=dtype)
    assert torch.equal(head(z), head.bias.expand(3, 4))
    with torch.autocast("cpu", torch.float16):
        assert head(z).isfinite().all()


def test_zero_features_have_finite_gradients():
    z = torch.zeros(3, 8, requires_grad=True)
    l2norm(nn.Linear(8, 4))(z).sum().backward()
    assert z.grad.isfinite().all()


# ---------------------------------------------------------------------------------------- what it survives


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_normalised_and_independent(tau, copied):
    model = l2norm(mlp(), temperature=tau)
    twin = copied(model)
    assert torch.equal(twin(images()), model(images()))
    assert is_normalized(twin)
    assert temperature(twin) == temperature(model)
    remove_l2norm(twin)
    assert not is_normalized(twin)
    assert is_normalized(model)


def test_a_hook_added_after_unpickling_in_a_new_process_does_not_take_our_place(monkeypatch):
    pickled = pickle.dumps(l2norm(mlp()))
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # as in a new process
    model = pickle.loads(pickled)
    for _ in range(100):
        model[2].register_forward_pre_hook(lambda _, args: None).remove()
    assert is_normalized(model)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_state_dict_keys_and_removal(tau):
    plain = mlp()
    model = l2norm(copy.deepcopy(plain), temperature=tau)
    added = {"2.log_temperature"} if tau == "learned" else set()
    assert set(model.state_dict()) - set(plain.state_dict()) == added
    assert remove_l2norm(model) is model
    assert list(model.state_dict()) == list(plain.state_dict())
    assert vars(model[2]).keys() == vars(plain[2]).keys()
    assert not model[2]._forward_pre_hooks
    assert torch.equal(model(images()), plain(images()))
    assert temperature(model) == 1.0
    assert is_normalized(l2norm(model, temperature=2.0))


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_compiled_whole_and_exported(tau):
    model = l2norm(mlp(), temperature=tau)
    expected = model(images())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), expected)
    assert is_normalized(compiled)
    assert temperature(compiled) == temperature(model)
    assert find_head(compiled) == ("2", model[2])
    exported = torch.export.export(model, (images(),), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    torch.testing.assert_close(exported.module()(images()), expected)
    assert exported.module()(images(9)).shape == (9, 4)


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_trains_under_ddp(tau, process_group):
    model = l2norm(mlp(), temperature=tau)
    alone = copy.deepcopy(model)
    ddp = nn.parallel.DistributedDataParallel(model)
    assert find_head(ddp) == ("2", model[2])
    assert temperature(ddp) == temperature(alone)
    labels = torch.tensor([0, 1, 2, 3, 0])
    for network in (ddp, alone):
        F.cross_entropy(network(images()), labels).backward()
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_fixed_temperature_may_be_set_on_a_wrapped_model_and_a_learned_one_not(process_group):
    with pytest.raises(HeadError, match="before wrapping"):
        l2norm(nn.parallel.DistributedDataParallel(mlp()), temperature="learned")
    model = mlp()
    l2norm(nn.parallel.DistributedDataParallel(model), temperature=0.5)
    assert temperature(model) == 0.5


def test_a_learned_temperature_learns():
    torch.manual_seed(0)
    model = l2norm(mlp(), temperature="learned")
    optimizer = torch.optim.SGD([model[2].log_temperature], lr=0.1)
    labels = model(images()).argmax(1)
    loss = F.cross_entropy(model(images()), labels)
    loss.backward()
    optimizer.step()
    assert temperature(model) < 1  # logits that are all right already: sharper is better
    assert F.cross_entropy(model(images()), labels) < loss


def test_works_without_data_on_the_meta_device():
    with torch.device("meta"):
        assert l2norm(mlp())(torch.empty(3, 8)).shape == (3, 4)


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("tau", [0, -1.0, math.nan, math.inf, True, "1", None])
def test_a_temperature_is_a_finite_number_above_zero(tau):
    model = mlp()
    with pytest.raises(NormgateError, match="finite number above 0"):
        l2norm(model, temperature=tau)
    assert not is_normalized(model)


def test_normalising_twice_and_removing_nothing_are_errors():
    model = l2norm(mlp())
    with pytest.raises(HeadError, match=r"remove_l2norm\(model\) first"):
        l2norm(model, temperature=0.5)
    with pytest.raises(HeadError, match="nothing to remove"):
        remove_l2norm(mlp())


def test_compiled_models_are_refused_since_they_would_not_notice():
    in_place = mlp()
    in_place.compile(backend="eager")
    for model in (torch.compile(mlp(), backend="eager"), in_place):
        assert is_compiled(model)
        with pytest.raises(HeadError, match=r"torch\.compile"):
            l2norm(model)
    with pytest.raises(HeadError, match=r"torch\.compile"):
        remove_l2norm(torch.compile(l2norm(mlp()), backend="eager"))


def test_a_compiled_encoder_does_not_hinder_its_head():
    model = nn.Sequential(torch.compile(nn.Linear(8, 16), backend="eager"), nn.Linear(16, 4))
    assert is_compiled(model)
    assert not is_compiled(model, model[1])
    z = model[0](images())
    torch.testing.assert_close(l2norm(model)(images()), model[1](z))


# --------------------------------------------------------------------------------- networks of many makers


def vgg_of_timm() -> nn.Module:
    """With a slim head: the original has 120 million weights."""
    with torch.device("meta"):
        model = timm.create_model("vgg16_bn", num_classes=5)
    model.pre_logits.fc1, model.pre_logits.fc2 = nn.Conv2d(512, 8, 7, device="meta"), nn.Conv2d(8, 8, 1, device="meta")
    model.head.fc = nn.Linear(8, 5, device="meta")
    return drawn(model)


def vgg_of_torchvision() -> nn.Module:
    with torch.device("meta"):
        model = torchvision.models.vgg11(num_classes=5)
        model.classifier[0], model.classifier[3] = nn.Linear(25088, 8), nn.Linear(8, 8)
        model.classifier[6] = nn.Linear(8, 5)
    return drawn(model)


def drawn(model: nn.Module) -> nn.Module:
    """Off the meta device, with weights drawn in the cheapest way."""
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.05, 0.05)
        for name, buffer in model.named_buffers():
            buffer.fill_(name.endswith("running_var"))
    return model


def vit_of_transformers() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.ViTForImageClassification(transformers.ViTConfig(**{**SMALL, "num_labels": 5}))


NETWORKS = {
    "resnet18": lambda: timm.create_model("resnet18", num_classes=5, layers=[1, 1, 1, 1]),
    "resnet50": lambda: timm.create_model("resnet50", num_classes=5, layers=[1, 1, 1, 1]),
    "vgg16_bn": vgg_of_timm,
    "convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=5),
    "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=1),
    "torchvision": vgg_of_torchvision,
    "transformers": vit_of_transformers,
    "home-made": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 5)),
}


def logits_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    output = model(batch)
    return output if isinstance(output, torch.Tensor) else output.logits


def photos() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_method_on_real_networks(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    keys, plain = list(model.state_dict()), logits_of(model, photos()).detach()
    _, head = find_head(model)
    seen = []
    # Registered before l2norm, and so called before it: what the encoder gives.
    before = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert l2norm(model, temperature=0.5) is model
    logits = logits_of(model, photos())
    z = seen[0]
    torch.testing.assert_close(logits, F.linear(F.normalize(z, dim=-1) / 0.5, head.weight, head.bias))
    (at_z,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 3]), reduction="sum"), z)
    # ‖∂L/∂u‖ is at least ‖z‖·‖∂L/∂z‖: this is the invariant at its strictest.
    assert ((z * at_z).sum(-1).abs() <= 1e-5 * z.norm(dim=-1) * at_z.norm(dim=-1)).all()
    before.remove()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits_of(twin, photos()), logits)
    assert list(model.state_dict()) == keys
    assert torch.equal(logits_of(remove_l2norm(model), photos()), plain)


@pytest.mark.parametrize("name", ["resnet18", "transformers"])
def test_real_networks_compiled_and_exported(name):
    torch.manual_seed(0)
    model = l2norm(NETWORKS[name]().eval())
    with torch.inference_mode():
        expected = logits_of(model, photos())
    exported = torch.export.export(model, (photos(),)).module()
    torch.testing.assert_close(logits_of(exported, photos()), expected)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(logits_of(compiled, photos()), expected)
    torch._dynamo.reset()


# --------------------------------------------------------------------------------------- finding the head

LINEAR = nn.Linear
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 10,
}


def from_timm(name: str, **kwargs: object) -> nn.Module:
    return without_memory(lambda: timm.create_model(name, **kwargs))


def without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    """On the meta device, where that can be done: older versions of libraries ask some tensors for their values."""
    with contextlib.suppress(RuntimeError), torch.device("meta"):
        return make()
    return make()


def from_torchvision(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name, **kwargs)


def from_transformers(name: str, **config: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    family = name.partition("For")[0]
    return without_memory(lambda: getattr(transformers, name)(getattr(transformers, f"{family}Config")(**config)))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("resnet50", "fc"),
        ("vgg16_bn", "head.fc"),
        ("convnext_atto", "head.fc"),
        ("vit_tiny_patch16_224", "head"),
        ("efficientnet_b0", "classifier"),
        ("mobilenetv3_small_100", "classifier"),
        ("swin_tiny_patch4_window7_224", "head.fc"),
        ("mixer_s16_224", "head"),
        ("regnety_002", "head.fc"),
        ("efficientvit_b0", "head.classifier.4"),
        ("levit_128s", ["head.linear", "head_dist.linear"]),
        ("deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
        ("volo_d1_224", ["head", "aux_head"]),
        ("dpn68", "convolution"),
    ],
)
def test_heads_of_timm(name, head):
    check_head(from_timm(name), head)


@pytest.mark.parametrize("num_classes", [192, 576, 768])
def test_a_head_as_wide_as_hidden_layers_is_still_the_head(num_classes):
    check_head(from_timm("vit_tiny_patch16_224", num_classes=num_classes), "head")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("vgg11", "classifier.6"),
        ("alexnet", "classifier.6"),
        ("mobilenet_v2", "classifier.1"),
        ("densenet121", "classifier"),
        ("vit_b_16", "heads.head"),
        ("swin_t", "head"),
        ("swin_v2_t", "head"),
        ("convnext_tiny", "classifier.2"),
        ("googlenet", ["aux1.fc2", "aux2.fc2", "fc"]),
        ("inception_v3", ["AuxLogits.fc", "fc"]),
        ("squeezenet1_0", "convolution"),
    ],
)
def test_heads_of_torchvision(name, head):
    check_head(from_torchvision(name, **({"init_weights": False} if isinstance(head, list) else {})), head)


@pytest.mark.parametrize(
    ("name", "config", "head"),
    [
        ("ViTForImageClassification", SMALL, "classifier"),
        ("DeiTForImageClassification", SMALL, "classifier"),
        ("DeiTForImageClassificationWithTeacher", SMALL, ["cls_classifier", "distillation_classifier"]),
        ("BeitForImageClassification", SMALL, "classifier"),
        (
            "ResNetForImageClassification",
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
            "classifier.1",
        ),
        (
            "ConvNextForImageClassification",
            {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4},
            "classifier",
        ),
        (
            "SwinForImageClassification",
            {"image_size": 32, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
            "classifier",
        ),
    ],
)
def test_heads_of_transformers(name, config, head):
    check_head(from_transformers(name, **config), head)


def encoder() -> nn.Module:
    return from_timm("resnet18", num_classes=0)


def transformer() -> nn.Module:
    return from_timm("vit_tiny_patch16_224", num_classes=0)


def two(a: nn.Module, b: nn.Module) -> dict[str, nn.Module]:
    return {"a": a, "b": b}


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (lambda: nn.Linear(3, 4), ""),
        (lambda: nn.Sequential(LINEAR(10, 10), nn.ReLU(), LINEAR(10, 10)), "2"),
        (
            lambda: Net(conv=nn.Conv2d(3, 16, 5), fc1=LINEAR(400, 120), fc2=LINEAR(120, 84), fc3=LINEAR(84, 10)),
            "fc3",
        ),
        (
            lambda: Net(conv=nn.Conv2d(3, 16, 5), fc1=LINEAR(400, 120), fc2=LINEAR(120, 84), fc=LINEAR(84, 10)),
            "fc",
        ),
        (lambda: nn.Sequential(nn.Identity(), from_timm("convnext_atto")), "1.head.fc"),
        (lambda: Net(model=from_timm("resnet18")), "model.fc"),
        (lambda: nn.Sequential(transformer(), LINEAR(192, 10)), "1"),
        (lambda: Net(encoder=transformer(), out=LINEAR(192, 10)), "out"),
        (lambda: Net(out=LINEAR(192, 10), encoder=transformer()), "out"),
        (lambda: Net(encoder=encoder(), projector=mlp(512, 128), head=LINEAR(512, 10)), "head"),
        (lambda: Net(encoder=encoder(), head=LINEAR(512, 10), projector=mlp(512, 128)), ["head", "projector.2"]),
        (lambda: Net(encoder=encoder(), **two(LINEAR(512, 10), LINEAR(512, 5))), ["a", "b"]),
        (lambda: Net(net=Net(encoder=encoder(), **two(mlp(512, 10), mlp(512, 5)))), ["net.a.2", "net.b.2"]),
        (
            lambda: Net(encoder=encoder(), tasks=nn.ModuleDict(two(LINEAR(512, 10), LINEAR(512, 5)))),
            ["tasks.a", "tasks.b"],
        ),
        (
            lambda: Net(encoder=encoder(), head=nn.ModuleList([LINEAR(512, 10), LINEAR(512, 5)])),
            ["head.0", "head.1"],
        ),
        # As many classes as the encoder has channels: still two outputs.
        (lambda: Net(encoder=encoder(), fc=LINEAR(512, 64), fine=LINEAR(512, 64)), ["fc", "fine"]),
        (lambda: Net(encoder=encoder(), fc=LINEAR(512, 64), fc_coarse=LINEAR(512, 5)), ["fc", "fc_coarse"]),
        # The usual name of a head on a hidden layer, whatever reads it: a layer, layers, or a layer of another width.
        *(
            (
                lambda name=name: Net(conv=nn.Conv2d(3, 16, 3), **{name: LINEAR(16, 32)}, out=LINEAR(32, 10)),
                [name, "out"],
            )
            for name in ("fc", "head", "classifier")
        ),
        (lambda: Net(conv=nn.Conv2d(3, 16, 3), fc=LINEAR(16, 32), fc2=LINEAR(32, 16)), ["fc", "fc2"]),
        (lambda: Net(fc=LINEAR(16, 32), mid=LINEAR(32, 32), last=LINEAR(32, 10)), ["fc", "last"]),
        (lambda: Net(fc=LINEAR(16, 32), pairs=LINEAR(64, 10)), ["fc", "pairs"]),
        (
            lambda: Net(gate=LINEAR(8, 64), conv=nn.Conv2d(64, 64, 1), classifier=nn.Conv2d(64, 10, 1)),
            "convolution",
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "no linear head was found"),
        (transformer, "num_classes=0"),
    ],
)
def test_heads_of_home_made_models(model, head):
    check_head(model(), head)


def check_head(model: nn.Module, expected: str | list[str]) -> None:
    """``expected``: the head's name; or the names of several outputs; or what an error says."""
    if isinstance(expected, str) and (expected == "" or expected in dict(model.named_modules())):
        name, linear = find_head(model)
        assert name == expected
        assert linear is model.get_submodule(name)
        return
    with pytest.raises(HeadError) as caught:
        find_head(model)
    if isinstance(expected, str):
        assert expected in str(caught.value)
        return
    assert "more than one layer looks like an output" in str(caught.value)
    assert 'head="..."' in str(caught.value)
    for name in expected:
        linear = model.get_submodule(name)
        assert f"{name}: {linear.in_features}→{linear.out_features}" in str(caught.value)
        assert find_head(model, name) == (name, linear)
        assert find_head(model, linear) == (name, linear)


def test_a_long_list_of_layers_is_shortened():
    with pytest.raises(HeadError) as caught:
        find_head(transformer())
    assert "blocks.0.attn.qkv: 192→576" in str(caught.value)
    assert "… 40 more …" in str(caught.value)
    assert str(caught.value).count("→") == 8


def test_a_wrong_name_and_a_foreign_layer_are_errors():
    model = Net(encoder=nn.Conv2d(3, 8, 1), classifier=nn.Linear(8, 4))
    with pytest.raises(HeadError, match=r"'clasifier' \(close: classifier\).*classifier: 8→4"):
        find_head(model, "clasifier")
    with pytest.raises(HeadError, match="'encoder' is a Conv2d"):
        find_head(model, "encoder")
    with pytest.raises(HeadError, match="not part of the model"):
        find_head(model, nn.Linear(8, 4))


def test_lazy_and_quantised_layers_are_refused():
    with pytest.raises(HeadError, match="run one batch"):
        l2norm(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)))

    class Linear8bit(nn.Linear):
        """Stands for layers that keep integers where a float weight is expected."""

        def __init__(self) -> None:
            super().__init__(8, 4)
            self.weight = nn.Parameter(self.weight.to(torch.int8), requires_grad=False)

    with pytest.raises(HeadError, match=r"quantised \(torch\.int8\)"):
        l2norm(nn.Sequential(Linear8bit()))

    class QuantizedLinear(nn.Module):
        """Stands for a quantised layer that is no nn.Linear."""

    with pytest.raises(HeadError, match=r"not .*QuantizedLinear"):
        find_head(Net(gate=nn.Linear(4, 8), fc=QuantizedLinear()))


def test_wrappers_are_seen_through(process_group):
    model = Net(encoder=nn.Linear(8, 8), head=nn.Linear(8, 4))
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    wrapped = [
        nn.parallel.DistributedDataParallel(model),
        torch.compile(model, backend="eager"),
        torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager"),
        nn.DataParallel(model),
        fabric.setup(model),
    ]
    for wrapper in wrapped:
        assert unwrap(wrapper) is model
        assert find_head(wrapper) == ("head", model.head)
    inside = Net(part=torch.compile(model, backend="eager"))
    assert find_head(inside) == find_head(inside, "part.head") == ("part.head", model.head)
    assert find_head(inside, model.head) == find_head(inside, "part._orig_mod.head") == ("part.head", model.head)
    assert find_head(wrapped[0], "module.head") == ("head", model.head)
    average = torch.optim.swa_utils.AveragedModel(model)
    for copied in (average, timm.utils.ModelEmaV2(model), timm.utils.ModelEmaV3(model)):
        assert unwrap(copied) is copied.module
        assert find_head(copied) == ("head", copied.module.head)


@pytest.mark.filterwarnings("ignore:FSDP")
def test_fully_sharded_models_are_seen_through(process_group):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = Net(encoder=nn.Linear(8, 8), head=nn.Linear(8, 4))
    assert unwrap(FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)) is model


class Own(nn.Module):
    """Somebody's own layer around a network that it calls what DDP calls it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(self.gain * x)


def test_a_module_that_wraps_another_in_its_own_way_is_the_model(process_group):
    own = Own(mlp())
    assert unwrap(own) is own
    assert unwrap(nn.DataParallel(own)) is unwrap(nn.parallel.DistributedDataParallel(own)) is own
    assert find_head(own) == ("module.2", own.module[2])
    assert is_normalized(l2norm(own, temperature="learned"))
    assert set(unwrap(own).state_dict()) > {"gain", "module.2.log_temperature"}


def test_a_fixed_temperature_can_be_changed_and_no_other():
    model = l2norm(nn.Sequential(nn.Linear(4, 3)), temperature=0.5)
    x = torch.randn(5, 4)
    before = model(x) - model[0].bias
    set_temperature(model, 2.0)
    assert temperature(model) == 2.0
    assert torch.allclose(model(x) - model[0].bias, before / 4, atol=1e-6)
    for other in (nn.Linear(4, 3), l2norm(nn.Linear(4, 3), temperature="learned")):
        with pytest.raises(HeadError, match="normalised with a fixed temperature"):
            set_temperature(other, 2.0)
    with pytest.raises(NormgateError, match="above 0"):
        set_temperature(model, 0.0)


def test_a_head_that_is_called_by_name_is_refused():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(input=self.body(x))

    with pytest.raises(HeadError, match=r"write head\(x\)"):
        l2norm(Named(), head="fc")(torch.zeros(2, 8))
    model = Named()
    with pytest.raises(HeadError, match=r"write head\(x\)"), capture(model, "fc"):
        model(torch.zeros(2, 8))
