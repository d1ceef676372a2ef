"""The method: the head sees the direction of the features, so that their magnitude stays free.

During training the linear head reads ``z / ‖z‖ / τ`` under plain cross-entropy (Haas, Yolland and Rabus,
arXiv 2306.04072). The loss then pushes ``z`` sideways, never outward: ``z · ∂L/∂z = 0``, image by image. At
test time ``‖z‖`` is read from the head's raw input, and tells how familiar an image is.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Iterable

M = TypeVar("M", bound=nn.Module)


class HeadError(NormgateError):
    """The model's classification head cannot be found or used; the message says which layers there are."""


# ---------------------------------------------------------------------------------------------- the method


def l2norm(model: M, head: str | nn.Linear | None = None, temperature: float | Literal["learned"] = 1.0) -> M:
    """Let the linear head of ``model`` see only directions: its input z becomes ``z / ‖z‖₂ / τ``.

    Call it before training (and before ``torch.compile`` and, for a learned τ, before DDP), then train with
    plain cross-entropy. The normalisation runs in float32 (float64 in a float64 model) whatever autocast
    says, and ``z = 0`` gives zero. The head's own matrix product follows autocast: in bfloat16 logits have 8
    significant bits, as without normalisation. The hook survives ``deepcopy``, pickling, ``torch.compile``,
    DDP and ``torch.export``.

    Args:
        model: any module with one linear head.
        head: the head's dotted name, or the layer itself, where it cannot be found (see :func:`find_head`).
        temperature: τ. A number is a plain attribute of the head and leaves state-dict keys as they were;
            ``"learned"`` adds one parameter to the head, ``log_temperature``, which starts at τ = 1 (and is
            held there by weight decay).

    Returns:
        The same object.

    Raises:
        HeadError: no head or more than one was found, or the model is already normalised, or compiled.
        NormgateError: τ is not a finite number above 0.
    """
    if temperature != "learned" and not _is_positive(temperature):
        raise NormgateError(f'temperature must be a finite number above 0, or "learned", not {temperature!r}')
    if is_normalized(model):
        raise HeadError("the model is already normalised; call remove_l2norm(model) first to change its temperature")
    if temperature == "learned" and unwrap(model) is not model:
        raise HeadError("a wrapped model does not train new parameters; call l2norm(model) before wrapping it")
    _, linear = find_head(model, head)
    if is_compiled(model, linear):
        raise HeadError(
            "a compiled model ignores new hooks; call l2norm(model) first and torch.compile(model) after it"
        )
    if temperature == "learned":
        linear.register_parameter("log_temperature", nn.Parameter(stored(linear).new_zeros(())))
    else:
        linear.temperature = float(temperature)  # type: ignore[assignment]
    # The handle travels with the module: when it is unpickled it moves torch's counter of hook ids past ours.
    # Without it the next hook that a new process puts on the head could silently take the place of this one.
    linear._l2norm_handle = linear.register_forward_pre_hook(_normalize_input)  # type: ignore[assignment]
    return model


def only_input(args: tuple[Tensor, ...]) -> Tensor:
    """What a head is called with.

    Raises:
        HeadError: it is named in the call, and hooks do not see it.
    """
    if len(args) != 1:
        raise HeadError("the network calls its head with a named argument; write head(x), not head(input=x)")
    return args[0]


def _normalize_input(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
    z = only_input(args)
    assert isinstance(head, nn.Linear)
    u = F.normalize(_at_least_float32(z), dim=-1)  # autocast leaves norms and quotients of float32 alone
    return ((u / _temperature(head)).to(head.weight.dtype),)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _temperature(head: nn.Linear) -> Tensor | float:
    log_temperature = getattr(head, "log_temperature", None)
    if log_temperature is not None:
        return _at_least_float32(log_temperature).exp()
    return float(head.temperature)  # type: ignore[arg-type]


def remove_l2norm(model: M) -> M:
    """Undo :func:`l2norm` fully: hook, attributes and state-dict keys; the head reads ``z`` again.

    Raises:
        HeadError: the model is not normalised, or is compiled (and would not notice).
    """
    head = _normalized_head(model)
    if head is None:
        raise HeadError("the model is not normalised: there is nothing to remove")
    if is_compiled(model, head):
        raise HeadError("a compiled model does not notice that hooks are gone; remove them before torch.compile")
    head._l2norm_handle.remove()  # type: ignore[operator,union-attr]
    for name in ("_l2norm_handle", "temperature", "log_temperature"):
        if hasattr(head, name):
            delattr(head, name)
    return model


def trained_logits(head: nn.Linear, z: Tensor) -> Tensor:
    """What a head says of its inputs in trained form, in float32 however narrow its weights are: (N, K).

    Args:
        head: normalised or not.
        z: (N, D) features before any normalisation.
    """
    # The head itself is asked, with whatever a subclass or hooks of others do.
    own = (*head.named_parameters(), *head.named_buffers())
    wide = {name: _at_least_float32(value) if value.is_floating_point() else value for name, value in own}
    logits: Tensor = torch.func.functional_call(head, wide, (_at_least_float32(z),))
    return logits


def is_normalized(model: nn.Module) -> bool:
    """Whether :func:`l2norm` is on; true of deep copies, unpickled copies and wrapped models too."""
    return _normalized_head(model) is not None


def temperature(model: nn.Module) -> float:
    """The τ by which the normalised features are divided; 1 where the model is not normalised."""
    head = _normalized_head(model)
    with torch.no_grad():
        return 1.0 if head is None else float(_temperature(head))


def set_temperature(model: nn.Module, value: float) -> None:
    """Change the fixed τ of a normalised model, while it trains as a rule.

    Raises:
        HeadError: the model is not normalised, or learns its τ.
        NormgateError: τ is not a finite number above 0.
    """
    if not _is_positive(value):
        raise NormgateError(f"temperature must be a finite number above 0, not {value!r}")
    head = _normalized_head(model)
    if head is None or hasattr(head, "log_temperature"):
        raise HeadError("only a model that is normalised with a fixed temperature can be given another")
    head.temperature = float(value)  # type: ignore[assignment]


def _normalized_head(model: nn.Module) -> nn.Linear | None:
    for module in model.modules():
        if _normalize_input in module._forward_pre_hooks.values():
            assert isinstance(module, nn.Linear)
            return module
    return None


def cross_entropy_floor(num_classes: int, rms_norm: float, temperature: float = 1.0) -> float:
    """The least mean cross-entropy (in nats) that a head can reach on unit features of K balanced classes.

    Subtracting the mean row from the head's rows changes no probability, so let them be centred,
    ``Σ_k w_k = 0``, with RMS norm ``s``. An image of class y with direction u has the loss
    ``log(1 + Σ_{k≠y} exp((w_k − w_y)·u/τ))``, which by Jensen's inequality is at least
    ``φ(t) = log(1 + (K−1)·exp(−t))`` at minus the mean exponent; with ``Σ_{k≠y} w_k = −w_y`` that is
    ``t = K/(K−1) · w_y·u/τ ≤ K/(K−1) · ‖w_y‖/τ``. φ is convex and falling and the mean of the ``‖w_y‖`` is at
    most s, so the mean over balanced classes is at least

        ``log(1 + (K−1)·exp(−(s/τ)·K/(K−1)))``

    with equality where the rows form a simplex and every u points along its own row. A bias cannot lower it:
    its share in t averages to zero over the classes.

    Args:
        num_classes: K, at least 2.
        rms_norm: s, the root mean square of the norms of the head's centred rows.
        temperature: τ.
    """
    if num_classes < 2 or not (math.isfinite(rms_norm) and rms_norm >= 0) or not _is_positive(temperature):
        raise NormgateError(
            "a cross-entropy floor needs num_classes >= 2, rms_norm >= 0 and temperature > 0, "
            f"not {num_classes}, {rms_norm} and {temperature}"
        )
    others = num_classes - 1
    return math.log1p(others * math.exp(-(rms_norm / temperature) * num_classes / others))


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


# ------------------------------------------------------------------------------------------------ wrappers


# What is inside is under this attribute. Known by name, so that no library is imported to ask; a module that merely
# calls its only child `module` is somebody's own, and what it does beside calling it belongs to the network.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "_fsdp_wrapped_module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "lightning_fabric.wrappers._FabricModule": "_original_module",
    "lightning.fabric.wrappers._FabricModule": "_original_module",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
}


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``, DataParallel, DDP, FSDP, Lightning Fabric and weight-averaging wrappers.

    Any other module is the model itself, whatever it wraps.
    """
    while (attribute := _inside(model)) is not None:
        model = model.get_submodule(attribute)
    return model


def _inside(model: nn.Module) -> str | None:
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All modules of the unwrapped model by dotted name; names do not tell which parts are compiled."""
    return {name.replace("_orig_mod.", ""): module for name, module in unwrap(model).named_modules()}


def is_compiled(model: nn.Module, layer: nn.Module | None = None) -> bool:
    """Whether part of the model, that with the ``layer`` if given, is compiled: it then ignores new hooks."""
    compiled = (
        module
        for module in model.modules()
        if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
    )
    return any(layer is None or layer in set(module.modules()) for module in compiled)


# ---------------------------------------------------------------------------------------- finding the head


def find_head(model: nn.Module, head: str | nn.Linear | None = None) -> tuple[str, nn.Linear]:
    """The linear layer whose outputs are the class logits, with its dotted name in the unwrapped model.

    Without ``head`` it is what timm's ``get_classifier()`` gives; else the last linear layer inside the
    attribute ``classifier``, ``fc`` or ``head``; else the last one of the model. Modules that only wrap
    another are looked into. Another layer looks like an output where neither the head nor a later layer reads
    as many features as it gives: hidden layers of an MLP do not, a second task's head does.

    Args:
        model: any module; wrappers such as DDP and ``torch.compile`` are seen through.
        head: dotted name of the head, or the layer itself.

    Raises:
        HeadError: there is no such layer, it is not an ordinary ``nn.Linear``, or several layers look like
            parallel outputs (auxiliary, distillation or further tasks' heads).
    """
    root = unwrap(model)
    if head is None:
        name, rivals = _locate(root)
        if rivals:
            linears = _linears(root)
            layers = {rival: linears[rival] for rival in [*rivals, name]}
            raise HeadError(f'more than one layer looks like an output: {_listing(layers)}; say which with head="..."')
    else:
        name = _resolve(model, root, head)
    return name.replace("_orig_mod.", ""), _checked(root, name)


def _resolve(model: nn.Module, root: nn.Module, head: str | nn.Linear) -> str:
    names = {id(module): name for name, module in named_layers(model).items()}
    if isinstance(head, str):
        modules = {**dict(model.named_modules()), **named_layers(model)}
        if head not in modules:
            close = difflib.get_close_matches(head, [name for name in modules if name], n=3)
            hint = f" (close: {', '.join(close)})" if close else ""
            raise HeadError(f"the model has no module named {head!r}{hint}; {_seen(root)}")
        return names.get(id(modules[head]), head)
    if id(head) not in names:
        raise HeadError(f"the given head is not part of the model; {_seen(root)}")
    return names[id(head)]


def _checked(root: nn.Module, name: str) -> nn.Linear:
    module = root.get_submodule(name)
    if not isinstance(module, nn.Linear):
        kind = type(module).__name__
        raise HeadError(f"{name!r} is a {kind}: only nn.Linear heads are supported; {_seen(root)}")
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        raise HeadError(f"{name!r} is a lazy layer without weights yet; run one batch through the model first")
    if not (dtype := stored(module).dtype).is_floating_point:
        raise HeadError(f"{name!r} is quantised ({dtype}); use the model as it was before quantisation")
    return module


def stored(layer: nn.Module) -> Tensor:
    """The first of the layer's parameters, for its dtype and device.

    To read a parametrised weight is to compute it, and in training mode a spectral norm then takes another step.
    """
    return next(layer.parameters())


def _locate(root: nn.Module) -> tuple[str, list[str]]:
    """The head's name, and the names of other linear layers that look like outputs beside it."""
    linears = _linears(root)
    head, suspects = _walk(root, linears)
    suspects |= {name for name, linear in linears.items() if linear.out_features == linears[head].out_features}
    rivals = [name for name in linears if name in suspects and name != head]
    return head, [name for name in rivals if not _in_attention(root, name) and not _is_read(root, name, head)]


def _walk(root: nn.Module, linears: dict[str, nn.Linear]) -> tuple[str, set[str]]:
    """Go down from the root to the head; the set holds layers passed by that may be outputs too."""
    name, module, suspects = "", root, set[str]()
    while not isinstance(module, nn.Linear):
        if not _under(linears, name):
            raise _no_head(root, module)
        if declared := _declared(module):
            parts = {part for classifier in declared for part in classifier.modules()}
            inside = [linear for linear in _under(linears, name) if linears[linear] in parts]
            if not inside:
                raise _no_head(root, *declared)
            return inside[-1], suspects.union(inside if len(declared) > 1 else ())
        if named := _named_child(root, module, name, linears):
            head = _under(linears, named)[-1]
            return head, suspects | _beside(module, name, named, linears)
        children = [_join(name, child) for child, _ in module.named_children()]
        children = [child for child in children if _under(linears, child)]
        children = [child for child in children if not _is_headless(root.get_submodule(child))] or children
        if not isinstance(module, nn.Sequential):
            suspects |= {_under(linears, child)[-1] for child in children[:-1]}
        name = children[-1]
        module = root.get_submodule(name)
    return name, suspects


def _declared(module: nn.Module) -> list[nn.Module]:
    """What a timm model declares as its classifier: one module or, with distillation, several."""
    get_classifier = getattr(module, "get_classifier", None)
    classifier = get_classifier() if callable(get_classifier) else ()
    parts = classifier if isinstance(classifier, (tuple, list, nn.ModuleList)) else (classifier,)
    return [part for part in parts if isinstance(part, nn.Module)]


def _is_headless(module: nn.Module) -> bool:
    """Whether the module is a timm model without a head (``num_classes=0``): an encoder for one elsewhere."""
    declared = _declared(module)
    return bool(declared) and all(isinstance(part, nn.Identity) for part in declared)


def _named_child(root: nn.Module, module: nn.Module, name: str, linears: dict[str, nn.Linear]) -> str | None:
    for attribute in ("classifier", "fc", "head"):
        child = module._modules.get(attribute)
        if child is not None and _under(linears, _join(name, attribute)):
            return _join(name, attribute)
        if child is not None and any(_is_other_head(layer) for layer in child.modules()):
            raise _no_head(root, child)
    return None


_HEAD_LIKE = re.compile(r"aux|head|fc|classif|logit|cls", re.IGNORECASE)


def _beside(module: nn.Module, name: str, named: str, linears: dict[str, nn.Linear]) -> set[str]:
    """Linear layers in children of ``module`` that are named like heads, or registered after the one with the head."""
    children = [_join(name, child) for child, _ in module.named_children()]
    later = children[children.index(named) + 1 :]
    like_heads = [child for child in children if _HEAD_LIKE.match(child.rpartition(".")[2])]
    return {linear for child in (*like_heads, *later) for linear in _under(linears, child)}


def _is_read(root: nn.Module, name: str, head: str) -> bool:
    """Whether the head, or a layer registered later, reads as many features as the layer ``name`` gives.

    A layer that can read what the head gives is not read by the head: it may come after it.
    """
    layers = dict(root.named_modules())
    linear, chosen = layers[name], layers[head]
    order = list(layers.values())
    readers = order[order.index(linear) + 1 :]
    if linear.in_features != chosen.out_features:
        readers.append(chosen)
    return linear.out_features in {width_read(reader) for reader in readers}


def width_read(layer: nn.Module) -> int | None:
    """How many features a layer reads, where it has a number for that; None for others, and for containers."""
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    if next(layer.children(), None) is not None:  # containers repeat the widths of what they hold
        return None
    widths = (getattr(layer, name, None) for name in ("in_features", "in_channels", "num_features", "num_channels"))
    return next((width for width in widths if isinstance(width, int)), None)


def _in_attention(root: nn.Module, name: str) -> bool:
    parents = name.split(".")[:-1]
    owners = (root.get_submodule(".".join(parents[:depth])) for depth in range(len(parents) + 1))
    return any("attention" in type(owner).__name__.lower() for owner in owners)


def _is_other_head(layer: nn.Module) -> bool:
    return _is_convolution(layer) or "Linear" in type(layer).__name__


def _is_convolution(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _linears(root: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in root.named_modules()
        # nn.MultiheadAttention keeps its output projection in a linear layer that is never called.
        if isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)
    }


def _under(names: Iterable[str], prefix: str) -> list[str]:
    return [name for name in names if not prefix or name == prefix or name.startswith(prefix + ".")]


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _no_head(root: nn.Module, *places: nn.Module) -> HeadError:
    layers = [layer for place in places for layer in place.modules()]
    other = next((type(layer) for layer in layers if "Linear" in type(layer).__name__), None)
    if all(isinstance(place, nn.Identity) for place in places):
        reason = "the model has no head (was it built with num_classes=0?)"
    elif other is not None and not issubclass(other, nn.Linear):
        reason = f"only nn.Linear heads are supported, not {other.__module__}.{other.__name__}"
    elif any(_is_convolution(layer) for layer in layers):
        reason = "the model classifies with a convolution: only linear heads are supported"
    else:
        reason = "no linear head was found"
    return HeadError(f"{reason}; {_seen(root)}")


def _seen(root: nn.Module) -> str:
    linears = _linears(root)
    if not linears:
        return "the model has no nn.Linear at all"
    return f'if one of its linear layers is the head, name it with head="...": {_listing(linears)}'


def _listing(layers: dict[str, nn.Linear]) -> str:
    words = [
        f"{name or 'the model itself'}: {layer.in_features}→{layer.out_features}" for name, layer in layers.items()
    ]
    if len(words) > 8:
        words = [*words[:3], f"… {len(words) - 8} more …", *words[-5:]]
    return ", ".join(words)
