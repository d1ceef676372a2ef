from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import normgate
from normgate.backbones import Backbone, BackboneError, auto_stem, load_weights, stage_channels, stage_names


def tiny(num_classes: int = 4, **changes: object) -> Backbone:
    return Backbone("resnet18", num_classes, **{"width": 4, "stem": 1, "args": {"layers": [1, 1, 1, 1]}} | changes)


def test_the_size_of_a_network_is_that_of_its_weights() -> None:
    for backbone in (tiny(), Backbone("resnet26d", 3, 8), Backbone("vit_tiny_patch16_224", 2, args={"depth": 1})):
        weights = backbone.build().state_dict().values()
        assert backbone.nbytes() == sum(value.untyped_storage().nbytes() for value in weights)
    assert Backbone("vit_giant_patch14_224", 10**9).nbytes() > 10**12
    with pytest.raises(BackboneError, match="no model named"):
        Backbone("resnet81", 2).nbytes()


def test_timm_is_not_loaded_where_tensors_have_no_memory() -> None:
    """What it and its libraries make as they are loaded would stay so; of torch 2.8 the compiler fails to load."""
    code = """
import sys, torch
from normgate.backbones import Backbone
class Watch:
    def find_spec(self, name, *_):
        if name in ("timm", "torch._dynamo"):
            print(name, torch.empty(0).device)
sys.meta_path.insert(0, Watch())
Backbone("resnet18", 2).nbytes()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()) <= {"timm cpu", "torch._dynamo cpu"}
    assert "timm cpu" in done.stdout


def stages(model: nn.Module, size: int) -> dict[str, torch.Size]:
    """Shape of every stage's output for one image."""
    shapes: dict[str, torch.Size] = {}
    for name in stage_names(model):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: shapes.__setitem__(name, output.shape)
        )
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return shapes


# ------------------------------------------------------------------------------------------ architecture


@pytest.mark.parametrize(
    ("name", "width", "stem", "args"),
    [
        ("resnet18", None, None, {}),
        ("resnet18", None, 1, {}),
        ("resnet18", 16, None, {}),
        ("resnet18", 16, 1, {"layers": [1, 1, 1, 1]}),
        ("resnet18", 16, 2, {}),
        ("resnet18", 64, 1, {}),
        ("resnet50", 16, 1, {}),
        ("resnet50", 8, None, {}),
        ("resnet50", 8, 2, {"output_stride": 8}),
        ("resnet26d", 16, None, {}),
        ("resnet26d", 16, 1, {}),
        ("resnet26t", 24, None, {}),
        ("seresnet50", 16, 1, {"layers": [1, 1, 1, 1]}),
        ("resnetrs50", 16, 1, {"layers": [1, 1, 1, 1]}),
        ("resnetblur50", 16, 2, {"layers": [1, 1, 1, 1]}),
        ("resnet18", 16, 1, {"norm_layer": "groupnorm1"}),
    ],
)
def test_widths_stems_and_stage_information(name, width, stem, args):
    model = Backbone(name, 5, width, stem, args or {}).build()
    shapes = stages(model, 64)
    assert list(shapes) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    for info in model.feature_info:
        shape = shapes[info["module"]]
        assert shape[1] == info["num_chs"]
        assert shape[2] * info["reduction"] == max(64, info["reduction"])
    if width is not None:
        expansion = model.layer1[0].expansion
        assert [shape[1] for shape in shapes.values()] == [
            width,
            *(width * expansion * 2**i for i in range(4)),
        ]
    if stem is not None:
        assert model.conv1.kernel_size == (3, 3)
        assert model.feature_info[0]["reduction"] == stem
        assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())
    assert model.get_classifier().out_features == 5


def test_a_slim_stem_is_timms_own_but_for_its_width():
    slim, timms = Backbone("resnet18", 4, width=16).build(), timm.create_model("resnet18", num_classes=4)
    for attribute in ("kernel_size", "stride", "padding", "bias", "in_channels"):
        assert getattr(slim.conv1, attribute) == getattr(timms.conv1, attribute)
    assert slim.state_dict().keys() == timms.state_dict().keys()
    assert Backbone("resnet18", 4, width=64).build().state_dict().keys() == timms.state_dict().keys()
    assert sum(p.numel() for p in Backbone("resnet18", 4, width=64).build().parameters()) == sum(
        p.numel() for p in timms.parameters()
    )


def test_new_convolutions_start_as_timms_do():
    torch.manual_seed(0)
    weight = Backbone("resnet18", 4, stem=1).build().conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)  # He, fan out
    assert weight.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("backbone", [tiny(), tiny(stem=None), Backbone("resnet26d", 4, width=8)])
def test_building_under_a_seed_is_deterministic(backbone):
    def build(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return backbone.build().state_dict()

    one, same, other = build(0), build(0), build(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])
    assert (one["conv1.weight" if "conv1.weight" in one else "conv1.0.weight"] != 0).all()


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 32, 1),
        ("resnet50", (40, 300), 1),
        ("resnet18", 41, 2),
        ("resnet18", (96, 128), 2),
        ("resnet18", 97, None),
        ("resnet18", 224, None),
        ("vit_tiny_patch16_224", 32, None),
        ("convnext_atto", 32, None),
        ("no_such_model", 32, None),
    ],
)
def test_the_stem_follows_the_image_size(name, size, expected):
    assert auto_stem(name, size) == expected


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("convnext_atto", "stages.0", 4),
        ("vit_tiny_patch16_224", "blocks.0", 12),
        ("efficientnet_b0", "blocks.0", 5),
    ],
)
def test_stages_of_other_families(name, first, count):
    with torch.device("meta"):
        names = stage_names(timm.create_model(name))
    assert names[0] == first
    assert len(names) == count


def test_stages_are_empty_where_a_model_does_not_tell():
    model = nn.Linear(2, 2)
    assert stage_names(model) == ()
    model.feature_info = [{"module": "gone", "num_chs": 2}, {"num_chs": 2}]
    assert stage_names(model) == ()
    assert stage_channels(model) == {}


def test_channels_of_stages_are_those_that_they_give():
    model = tiny().build()
    given = {name: shape[1] for name, shape in stages(model, 16).items()}
    assert stage_channels(model) == given == {"act1": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    del model.feature_info[0]["num_chs"]
    assert list(stage_channels(model)) == ["layer1", "layer2", "layer3", "layer4"]


# -------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "hf-hub:someone/something"}, "not the plain name"),
        ({"name": "hf_hub:someone/something"}, "not the plain name"),
        ({"name": "local-dir:/tmp/x"}, "not the plain name"),
        ({"name": "https://example.org/model"}, "not the plain name"),
        ({"name": "../resnet18"}, "not the plain name"),
        ({"name": "resnet18.a1_in1k"}, "weight tags"),
        ({"name": ""}, "not the plain name"),
        ({"name": None}, "not the plain name"),
        ({"num_classes": 1}, "at least 2"),
        ({"num_classes": True}, "at least 2"),
        ({"num_classes": 2.0}, "at least 2"),
        ({"width": 0}, "even whole number"),
        ({"width": 7}, "even whole number"),
        ({"width": 8.0}, "even whole number"),
        ({"stem": 3}, "1 or 2"),
        ({"stem": True}, "1 or 2"),
        ({"args": [1]}, "must map names"),
        ({"args": {1: 2}}, "cannot set 1"),
        ({"args": {"layers": {1, 2}}}, "JSON"),
        ({"args": {"drop_rate": float("nan")}}, "JSON"),
        ({"args": {"act_layer": nn.ReLU}}, "JSON"),
        ({"args": {"channels": [4, 8, 16, 32]}}, "leave channels out"),
        ({"args": {"stem_width": 4}}, "leave stem_width out"),
        ({"args": {"pretrained": True}}, "cannot set 'pretrained'"),
        ({"args": {"pretrained_cfg": {"url": "https://example.org"}}}, "cannot set 'pretrained_cfg'"),
        ({"args": {"pretrained_cfg_overlay": {}}}, "cannot set"),
        ({"args": {"checkpoint_path": "x.pt"}}, "cannot set 'checkpoint_path'"),
        ({"args": {"cache_dir": "x"}}, "cannot set"),
        ({"args": {"features_only": True}}, "cannot set"),
        ({"args": {"num_classes": 3}}, "cannot set"),
        ({"head_bias": 0}, "head_bias is true or false"),
    ],
)
def test_a_backbone_is_checked_when_it_is_made(changes, message):
    values = tiny().to_dict() | changes
    with pytest.raises(BackboneError, match=message):
        Backbone(**values)
    with pytest.raises(BackboneError, match=message):
        Backbone.from_dict(values)


def test_nothing_is_ever_downloaded(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("resnet18", "vit_tiny_patch16_224", "convnext_atto"):
        Backbone(name, 4).build()


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Backbone("resnet81", 4), "no model named 'resnet81'; close names are resnet18"),
        (Backbone("resnet81", 4, width=8), "no model named 'resnet81'"),
        (Backbone("zzzzzz", 4), "list_models"),
        (Backbone("vit_tiny_patch16_224", 4, stem=1), "not one of timm's ResNets"),
        (Backbone("convnext_atto", 4, width=8), "not one of timm's ResNets"),
        (Backbone("resnet18", 4, args={"no_such_argument": 1}), "no_such_argument"),
        (Backbone("resnet18", 4, args={"act_layer": "no_such_activation"}), "cannot be built"),
        (Backbone("deit_tiny_distilled_patch16_224", 4, head_bias=False), "no single linear head whose bias"),
    ],
)
def test_what_cannot_be_built_says_why(backbone, message):
    with pytest.raises(BackboneError, match=message):
        backbone.build()


def test_a_backbone_goes_through_json():
    backbone = tiny(args={"layers": (1, 1, 1, 1), "drop_rate": 0.1})
    assert backbone.args["layers"] == [1, 1, 1, 1]
    again = Backbone.from_dict(json.loads(json.dumps(backbone.to_dict())))
    assert again == backbone
    assert again.build().drop_rate == 0.1
    values = backbone.to_dict()
    values["args"]["layers"].append(9)
    assert len(backbone.args["layers"]) == 4
    for damaged in ({**backbone.to_dict(), "more": 1}, {"name": "resnet18"}, []):
        with pytest.raises(BackboneError, match="exactly the entries"):
            Backbone.from_dict(damaged)


def test_a_head_without_a_bias():
    backbone = tiny(head_bias=False)
    model = backbone.build()
    assert model.get_classifier().bias is None
    assert "fc.bias" not in model.state_dict()
    assert model.state_dict().keys() | {"fc.bias"} == tiny().build().state_dict().keys()
    again = Backbone.from_dict(json.loads(json.dumps(backbone.to_dict())))
    assert again == backbone
    assert again.build().get_classifier().bias is None
    assert len({backbone, again, tiny()}) == 2


# --------------------------------------------------------------------------------------------- weights


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(0)
    return tiny().build()


@pytest.fixture
def fresh() -> nn.Module:
    torch.manual_seed(1)
    return tiny().build()


def same(one: nn.Module, other: nn.Module) -> list[str]:
    """Names of the parameters that differ."""
    theirs = other.state_dict()
    return [name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])]


WRAPPINGS = {
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model": lambda weights: {"model": weights},
    "tutorial": lambda weights: {"epoch": 3, "model_state_dict": weights},
    "lightning": lambda weights: {
        "state_dict": {f"net.{name}": value for name, value in weights.items()} | {"loss.weight": torch.ones(4)}
    },
    "both": lambda weights: {"model": {"state_dict": weights}},
    "ddp": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "compiled": lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
    "compiled ddp": lambda weights: {f"_orig_mod.module.{name}": value for name, value in weights.items()},
    "ddp of compiled": lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
    "compiled stage": lambda weights: {name.replace("layer1.", "layer1._orig_mod."): v for name, v in weights.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_state_dicts_are_unwrapped(wrapping, trained, fresh, tmp_path):
    torch.save(WRAPPINGS[wrapping](trained.state_dict()), tmp_path / "weights.pt")
    assert load_weights(fresh, tmp_path / "weights.pt") == ()
    assert same(fresh, trained) == []


def test_a_checkpoint_of_two_networks_is_refused(fresh, trained, tmp_path):
    weights = {f"{who}.{name}": value for who in ("teacher", "student") for name, value in trained.state_dict().items()}
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(BackboneError, match=r"several networks \(teacher\.\*, student\.\*\)"):
        load_weights(fresh, tmp_path / "weights.pt")


def test_weights_of_another_first_layer_are_told_how_to_be_taken(tmp_path):
    save_file(tiny(stem=None).build().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"conv1\.weight is .*pass --stem standard \(stem=None\)"):
        load_weights(tiny(stem=1).build(), tmp_path / "w.safetensors")


def test_a_checkpoint_that_holds_itself_is_refused(fresh, tmp_path):
    endless: dict[str, object] = {}
    endless["state_dict"] = endless
    torch.save(endless, tmp_path / "weights.pt")
    with pytest.raises(BackboneError, match="does not hold a state dict"):
        load_weights(fresh, tmp_path / "weights.pt")


def test_a_learned_temperature_is_part_of_a_network_that_is_used_as_it_was_trained(trained, fresh, tmp_path):
    save_file(trained.state_dict(), tmp_path / "plain.safetensors")
    learned = normgate.l2norm(trained, temperature="learned")
    save_file(learned.state_dict(), tmp_path / "learned.safetensors")
    assert load_weights(fresh, tmp_path / "learned.safetensors") == ()  # to be trained further, in its own way
    with pytest.raises(BackboneError, match="a learned τ: pass --temperature learned"):
        load_weights(fresh, tmp_path / "learned.safetensors", exact=True)
    normgate.l2norm(fresh, temperature="learned")
    assert load_weights(fresh, tmp_path / "learned.safetensors", exact=True) == ()
    with pytest.raises(BackboneError, match="holds no learned τ: pass the number"):
        load_weights(fresh, tmp_path / "plain.safetensors", exact=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_safetensors_are_known_by_their_content(name, trained, fresh, tmp_path):
    save_file(trained.state_dict(), tmp_path / name)
    assert load_weights(fresh, str(tmp_path / name)) == ()
    assert same(fresh, trained) == []


@pytest.mark.parametrize("kind", ["another size", "none"])
def test_a_head_that_does_not_fit_keeps_its_fresh_values_and_is_reported(kind, trained, fresh, tmp_path):
    weights = tiny(num_classes=7).build().state_dict() | {
        name: value for name, value in trained.state_dict().items() if not name.startswith("fc.")
    }
    if kind == "none":
        del weights["fc.weight"], weights["fc.bias"]
    torch.save(weights, tmp_path / "weights.pt")
    before = fresh.fc.weight.clone()
    assert load_weights(fresh, tmp_path / "weights.pt") == ("fc.weight", "fc.bias")
    assert torch.equal(fresh.fc.weight, before)
    assert same(fresh, trained) == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("classes", [4, 7])
def test_a_head_without_a_bias_starts_from_weights_that_have_one(classes, tmp_path):
    source = tiny(num_classes=classes).build()
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    model = tiny(num_classes=4, head_bias=False).build()
    assert load_weights(model, tmp_path / "weights.pt") == (("fc.weight",) if classes == 7 else ())
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    assert torch.equal(model.fc.weight, source.fc.weight) == (classes == 4)


def test_the_head_of_any_model_may_be_named(tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 9)).state_dict(), tmp_path / "weights.pt")
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(BackboneError, match=r"1\.weight is \(9, 4\), the model's \(2, 4\)"):
        load_weights(model, tmp_path / "weights.pt")
    assert load_weights(model, tmp_path / "weights.pt", head="1") == ("1.weight", "1.bias")


def test_a_mismatch_names_the_first_few_entries_and_changes_nothing(trained, fresh, tmp_path):
    wider = tiny(width=8).build().state_dict()
    wider["extra"] = wider.pop("bn1.bias")
    torch.save(wider, tmp_path / "weights.pt")
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(BackboneError, match=r"missing bn1\.bias, unexpected extra, .* and \d+ more"):
        load_weights(fresh, tmp_path / "weights.pt")
    assert all(torch.equal(before[name], value) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error(value, trained, fresh, tmp_path):
    trained.layer1[0].conv1.weight.data[0, 0, 0, 0] = value
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(BackboneError, match=r"layer1\.0\.conv1\.weight .*not finite"):
        load_weights(fresh, tmp_path / "weights.pt")


class Bomb:
    def __reduce__(self):
        return (print, ("code in a weight file was run",))


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x00" * 8 + b"{", pickle.dumps(Bomb(), protocol=2)])
def test_files_that_are_no_weights_are_errors_and_never_run(content, fresh, tmp_path, capsys):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(BackboneError, match="neither"):
        load_weights(fresh, tmp_path / "weights.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [[1, 2], {"weights": [1, 2]}, {"state_dict": 3}, torch.zeros(3)])
def test_files_without_a_state_dict_are_errors(content, fresh, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(BackboneError, match="does not hold a state dict"):
        load_weights(fresh, tmp_path / "weights.pt")


def test_a_model_saved_whole_is_refused(trained, fresh, tmp_path):
    torch.save(trained, tmp_path / "weights.pt")
    with pytest.raises(BackboneError, match="neither"):
        load_weights(fresh, tmp_path / "weights.pt")


def test_a_missing_file_is_an_error(fresh, tmp_path):
    with pytest.raises(BackboneError, match="cannot read the weights"):
        load_weights(fresh, tmp_path / "weights.pt")
    with pytest.raises(BackboneError, match="cannot read the weights"):
        load_weights(fresh, tmp_path)


@pytest.mark.parametrize("layers", [[1, 1], [0, 0, 0, 0], [1, 1, 1, 1.5], 4, None])
def test_blocks_are_of_four_stages(layers: object) -> None:
    with pytest.raises(BackboneError, match="four stages"):
        Backbone("resnet18", 3, width=8, args={"layers": layers}).build()
