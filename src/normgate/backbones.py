"""Networks by name: timm's, with slim widths and a stem for small images. Nothing is ever downloaded."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normgate.errors import NormgateError

if TYPE_CHECKING:
    import os


class BackboneError(NormgateError):
    """A network cannot be built or its weights cannot be loaded; the message says what would work."""


@dataclass(frozen=True)
class Backbone:
    """A network as plain data: what :meth:`build` needs, and what a saved gate keeps of it.

    Attributes:
        name: a model of ``timm.list_models()``.
        num_classes: number of classes, at least 2.
        width: channels of the stem and the first stage of a slim ResNet, an even number; further stages have
            2, 4 and 8 times as many. None: as timm has it.
        stem: stride, 1 or 2, of a single 3×3 first convolution without pooling after it, for small images;
            ResNets only. None: as timm has it.
        args: further arguments of the timm model, in JSON's types, such as ``{"layers": [1, 1, 1, 1]}``.
        head_bias: whether the linear head has a bias.
    """

    name: str
    num_classes: int
    width: int | None = None
    stem: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    head_bias: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"\w+", self.name):
            raise BackboneError(
                f"{self.name!r} is not the plain name of a timm model: hubs, folders and addresses are "
                'refused, and so are weight tags (what follows the dot in "resnet18.a1_in1k")'
            )
        if type(self.num_classes) is not int or self.num_classes < 2:
            raise BackboneError(f"num_classes must be a whole number of at least 2, not {self.num_classes!r}")
        if self.width is not None and (type(self.width) is not int or self.width < 2 or self.width % 2):
            raise BackboneError(f"width must be an even whole number above 0, not {self.width!r}")
        if self.stem is not None and (type(self.stem) is not int or self.stem not in (1, 2)):
            raise BackboneError(f"stem is the stride of the first convolution, 1 or 2, not {self.stem!r}")
        if not isinstance(self.head_bias, bool):
            raise BackboneError(f"head_bias is true or false, not {self.head_bias!r}")
        object.__setattr__(self, "args", _plain(self.args))
        if self.width is not None and (said := {"channels", "stem_width"} & set(self.args)):
            raise BackboneError(f"width already says the channels: leave {', '.join(sorted(said))} out of args")

    def build(self) -> nn.Module:
        """The network with fresh weights, drawn from torch's global generator.

        Raises:
            BackboneError: timm has no such model, or it does not take these arguments.
        """
        _check_known(self.name)
        if (self.width is not None or self.stem is not None) and not _is_resnet(self.name):
            raise BackboneError(
                f"{self.name} is not one of timm's ResNets, which alone take stem and width: leave both out "
                "(and resize small images), or use a ResNet such as resnet18"
            )
        args = dict(self.args)
        layers = args.get("layers", [1, 1, 1, 1])
        if _is_resnet(self.name) and not (
            isinstance(layers, list | tuple) and len(layers) == 4 and all(type(n) is int and n > 0 for n in layers)
        ):
            raise BackboneError(
                f"layers says how many blocks each of a ResNet's four stages has, such as [1, 1, 1, 1], not {layers!r}"
            )
        deep = False
        if self.width is not None:
            # timm gives a plain stem 64 channels, a deep one any number: build a deep one, then replace it.
            deep = self.stem is None and _has_deep_stem(self.name, args)
            args |= {"channels": [self.width * 2**stage for stage in range(4)], "stem_width": self.width // 2}
            args |= {} if deep else {"stem_type": "deep"}
        model = _timm_model(self.name, num_classes=self.num_classes, **args)
        if self.stem is not None:
            _replace_stem(model, kernel_size=3, stride=self.stem)
            _unpool(model, self.stem)
        elif self.width is not None and not deep:
            _replace_stem(model, kernel_size=7, stride=2)
        if not self.head_bias:
            head = getattr(model, "get_classifier", lambda: None)()
            if not isinstance(head, nn.Linear):
                raise BackboneError(f"{self.name} has no single linear head whose bias could be left out")
            head.register_parameter("bias", None)
        return model

    def nbytes(self) -> int:
        """How much memory the network's weights take, without taking it.

        Raises:
            BackboneError: as `build`; other errors where timm cannot build this network without memory.
        """
        _check_known(self.name)  # imports timm: what that makes for itself must have memory
        with torch.device("meta"):
            return sum(value.numel() * value.element_size() for value in self.build().state_dict().values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return {**values, "args": _plain(self.args)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Backbone:
        """The inverse of :meth:`to_dict`; unknown or missing entries are an error."""
        expected = {part.name for part in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != expected:
            raise BackboneError(f"a backbone has exactly the entries {sorted(expected)}, not {values!r}")
        return cls(**values)


# Arguments with which timm would read files or addresses, or build something else than this classifier.
_REFUSED = re.compile(
    r"pretrained.*|checkpoint_path|cache_dir|hf_hub.*|features_only|feature_cfg|feature_cls|out_indices|model_cfg"
    r"|kwargs_filter|scriptable|exportable|no_jit|device|dtype|num_classes|model_name"
)


def _plain(args: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the arguments in JSON's own types (tuples become lists)."""
    if not isinstance(args, Mapping):
        raise BackboneError(f"args must map names to values, not {args!r}")
    for name in args:
        if not isinstance(name, str) or _REFUSED.fullmatch(name):
            raise BackboneError(f"args cannot set {name!r}: only the architecture's own arguments are passed to timm")
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(args), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BackboneError(f"args must hold values that JSON can hold, not {args!r}: {error}") from None
    return copy


def _check_known(name: str) -> None:
    import timm

    if name not in (known := timm.list_models()):
        close = difflib.get_close_matches(name, known, n=5)
        hint = f"close names are {', '.join(close)}" if close else "timm.list_models() lists the names"
        raise BackboneError(f"timm has no model named {name!r}; {hint}")


def _timm_model(name: str, **args: Any) -> nn.Module:
    import timm

    try:
        model = timm.create_model(name, pretrained=False, **args)
    except Exception as error:
        why = ": ".join(part for part in (type(error).__name__, str(error)) if part)
        raise BackboneError(f"{name} cannot be built with {args}: {why}") from error
    assert isinstance(model, nn.Module)
    return model


def _is_resnet(name: str) -> bool:
    from timm.models import is_model, model_entrypoint

    return is_model(name) and model_entrypoint(name).__module__ == "timm.models.resnet"


def auto_stem(name: str, image_size: int | tuple[int, int]) -> int | None:
    """The stem for images of this size: 1 up to 40 pixels on the shorter side, 2 up to 96, else None.

    None also for networks that have no such stem (all but timm's ResNets).
    """
    shorter = image_size if isinstance(image_size, int) else min(image_size)
    if shorter > 96 or not _is_resnet(name):
        return None
    return 1 if shorter <= 40 else 2


def _has_deep_stem(name: str, args: Mapping[str, Any]) -> bool:
    with torch.device("meta"):
        return isinstance(_timm_model(name, **args).conv1, nn.Sequential)


def _replace_stem(model: Any, kernel_size: int, stride: int) -> None:
    """One first convolution in the place of whatever timm has before the first norm layer."""
    first = next(layer for layer in model.conv1.modules() if isinstance(layer, nn.Conv2d))
    channels = model.layer1[0].conv1.in_channels
    model.conv1 = nn.Conv2d(first.in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's ResNet does


def _unpool(model: Any, stride: int) -> None:
    """No pooling after the stem: the image shrinks by the stem's stride, not by 4 as timm has it."""
    model.maxpool = nn.Identity()
    stem, *stages = model.feature_info
    stem["reduction"] = stride
    for stage in stages:
        stage["reduction"] = stage["reduction"] * stride // 4


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that end timm's stages, early to late; empty where the model does not tell."""
    modules = dict(model.named_modules())
    names = (stage.get("module") for stage in _feature_info(model))
    return tuple(name for name in names if isinstance(name, str) and name in modules)


def stage_channels(model: nn.Module) -> dict[str, int]:
    """How many channels the modules of :func:`stage_names` give, where the model tells."""
    told = {stage.get("module"): stage.get("num_chs") for stage in _feature_info(model)}
    return {name: count for name in stage_names(model) if isinstance(count := told[name], int)}


def _feature_info(model: nn.Module) -> list[Mapping[str, Any]]:
    info = getattr(model, "feature_info", None)
    stages = info if isinstance(info, Sequence) else getattr(info, "info", ())
    return [stage for stage in stages if isinstance(stage, Mapping)]


# ------------------------------------------------------------------------------------------------- weights


_TEMPERATURE = "log_temperature"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_NESTED = 4  # dictionaries around the weights in a checkpoint; one that holds itself has no end


def load_weights(
    model: nn.Module, path: str | os.PathLike[str], head: str | None = None, *, exact: bool = False
) -> tuple[str, ...]:
    """Load weights from a safetensors file or a torch state dict (read without unpickling objects).

    Wrappers around the state dict (``state_dict``, ``model_state_dict``, ``model``), prefixes of DDP and
    ``torch.compile``, and the name of what holds the network, as in Lightning's checkpoints, are taken off.

    Args:
        model: the network to fill.
        path: the file.
        head: dotted name of the head; None asks timm's ``get_classifier()``.
        exact: whether the network is used as it was trained: a learned temperature is then part of it. Otherwise it
            belongs to how a network is trained, and either side may be without one.

    Returns:
        Names of the head's entries that keep their fresh values, because the file has no head or one of
        another size; empty where everything was loaded.

    Raises:
        BackboneError: the file cannot be read, does not fit the model, or holds values that are not finite; or, with
            `exact`, only one of them has a learned temperature.
    """
    own = model.state_dict()
    given = _without_prefix({_bare(name, own): value for name, value in _read(Path(path)).items()}, own)
    if exact:
        _check_temperature(path, given, own)
    given = {name: value for name, value in given.items() if name in own or not name.endswith(_TEMPERATURE)}
    for name, value in given.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise BackboneError(f"{path}: {name} holds values that are not finite (NaN or infinity)")
    head = _head_name(model) if head is None else head
    if head is not None and f"{head}.bias" not in own:  # a head that is to learn without one
        given.pop(f"{head}.bias", None)
    of_head = [name for name in own if head is not None and name.rpartition(".")[0] == head]
    kept: tuple[str, ...] = ()
    if of_head and _other_size(own, given, of_head):
        kept = tuple(of_head)
        given = {name: value for name, value in given.items() if name not in kept}
    optional = ("_tracked", _TEMPERATURE)
    missing = [name for name in own if name not in given and name not in kept and not name.endswith(optional)]
    problems = [f"missing {name}" for name in missing]
    problems += [f"unexpected {name}" for name in given if name not in own]
    problems += [
        f"{name} is {tuple(value.shape)}, the model's {tuple(own[name].shape)}"
        for name, value in given.items()
        if name in own and value.shape != own[name].shape
    ]
    if problems:
        more = f" … and {len(problems) - 6} more" if len(problems) > 6 else ""
        first = "conv1.weight"
        stem = first in given and first in own and given[first].shape != own[first].shape
        fix = "; where it has timm's own first layer, pass --stem standard (stem=None)" if stem else ""
        raise BackboneError(f"{path} does not fit the model: {', '.join(problems[:6])}{more}{fix}")
    model.load_state_dict(given, strict=False)
    return kept


def _check_temperature(path: str | os.PathLike[str], given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    stored, wanted = (any(name.endswith(_TEMPERATURE) for name in names) for names in (given, own))
    if stored and not wanted:
        raise BackboneError(f"{path} is of a network that was trained with a learned τ: pass --temperature learned")
    if wanted and not stored:
        raise BackboneError(
            f"{path} holds no learned τ: pass the number that it was trained with (--temperature 1), or none if it was "
            "trained without L2 normalisation"
        )


def _bare(name: str, own: Mapping[str, Tensor]) -> str:
    return name if name in own else re.sub(r"^(module\.)+", "", name.replace("_orig_mod.", ""))


def _without_prefix(given: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What lies below the one name below which the network's own names are found, if none is found without it."""
    first = next(iter(own), None)
    prefixes = [name.removesuffix(first) for name in given if first is not None and name.endswith(f".{first}")]
    if not prefixes or not own.keys().isdisjoint(given):
        return given
    found = {prefix: sum(prefix + name in given for name in own) for prefix in prefixes}
    prefix, *others = sorted(found, key=lambda prefix: -found[prefix])
    if others and found[others[0]] == found[prefix]:
        raise BackboneError(f"the file holds several networks ({prefix}*, {others[0]}*); save one alone")
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":  # a safetensors file: the length of a JSON header, then the header
            from safetensors.torch import load_file

            weights: object = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BackboneError(f"cannot read the weights: {error}") from None
    except Exception as error:
        # What torch says of such files is how to load them unsafely.
        raise BackboneError(
            f"{path} is neither a safetensors file nor a state dict of tensors; write one with "
            "torch.save(model.state_dict(), path): nothing else is unpickled"
        ) from error
    for _ in range(_NESTED):
        wrapped = [weights.get(name) for name in _WRAPPERS] if isinstance(weights, Mapping) else []
        weights = next((inner for inner in wrapped if isinstance(inner, Mapping)), weights)
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise BackboneError(f"{path} does not hold a state dict: names and tensors")
    return {str(name): value for name, value in weights.items()}


def _head_name(model: nn.Module) -> str | None:
    get_classifier = getattr(model, "get_classifier", None)
    classifier = get_classifier() if callable(get_classifier) else None
    return next((name for name, module in model.named_modules() if module is classifier), None)


def _other_size(own: Mapping[str, Tensor], given: Mapping[str, Tensor], of_head: list[str]) -> bool:
    """Whether the file has no head, or one that differs in the number of outputs alone."""
    present = [name for name in of_head if name in given]
    shapes = [(own[name].shape, given[name].shape) for name in present]
    return not present or (
        any(mine != theirs for mine, theirs in shapes) and all(mine[1:] == theirs[1:] for mine, theirs in shapes)
    )
