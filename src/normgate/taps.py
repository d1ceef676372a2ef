"""What a forward pass shows: the head's raw input, its logits, and the vector whose norm is the magnitude."""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normgate.errors import NormgateError
from normgate.normalization import HeadError, find_head, is_compiled, named_layers, only_input, unwrap, width_read
from normgate.precision import inference
from normgate.threads import process_wide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_EXAMPLES = 4


class MagnitudeError(NormgateError):
    """The magnitude vector cannot be found where it was said to be; the message says what is there."""


@dataclass(frozen=True)
class MagnitudeSpec:
    """Which vector carries the magnitude, where it is not the head's input: a layer's input, at one position.

    Attributes:
        module: dotted name of the layer in the unwrapped model.
        position: index of the token or pixel, counted along the flattened positions; None takes an input by
            its shape: (N, D) as it is, (N, T, D) at its first token, a map (N, C, H, W) or (N, H, W, C) as the
            mean over its pixels.
        channels_last: whether features are the last axis; False: axis 1. Without a position a map's are found anew.
    """

    module: str
    position: int | None = None
    channels_last: bool = True

    def __post_init__(self) -> None:
        index = self.position is None or (type(self.position) is int and self.position >= 0)
        if not (isinstance(self.module, str) and index and isinstance(self.channels_last, bool)):
            raise MagnitudeError(f"not a description of a magnitude vector: {self}")

    def to_dict(self) -> dict[str, str | int | bool | None]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MagnitudeSpec:
        """The inverse of :meth:`to_dict`; unknown or missing entries are an error."""
        if set(values) != {"module", "position", "channels_last"}:
            raise MagnitudeError(f"a magnitude vector has module, position and channels_last, not {sorted(values)}")
        return cls(**values)

    def select(self, x: Tensor, maps_last: bool = False) -> Tensor:
        """The magnitude vectors (N, D) in the layer's input ``x``.

        Without a position, ``maps_last`` says whether the features of a map are its last axis.
        """
        if self.position is not None and x.ndim >= 2:
            rows = _rows(x, self.channels_last)
            if self.position < rows.shape[1]:
                return rows[:, self.position]
        elif self.position is None and x.ndim in (2, 3, 4):
            return x if x.ndim == 2 else x[:, 0] if x.ndim == 3 else x.mean((1, 2) if maps_last else (2, 3))
        raise MagnitudeError(f"no magnitude vector at {self} in an input of shape {tuple(x.shape)}")


def _rows(x: Tensor, channels_last: bool) -> Tensor:
    """``x`` as (N, positions, D)."""
    if x.ndim == 2:
        return x[:, None]
    return x.flatten(1, -2) if channels_last else x.flatten(2).transpose(1, 2)


def features_last(x: Tensor, width: int | None, network_says: bool | None) -> bool | None:
    """Whether the axis of so many features is the last of a map (N, C, H, W) or (N, H, W, C); None: not to be told.

    ``network_says`` counts where both axes are as long.
    """
    first, last = x.shape[1] == width, x.shape[-1] == width
    if first and last:
        return network_says
    return last if first or last else None


def _reads_last(layer: nn.Module) -> bool | None:
    """Whether a layer of torch takes the last axis for features; None where its kind does not say."""
    if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)):
        return False
    return True if type(layer) in (nn.Linear, nn.LayerNorm) else None  # some heirs of LayerNorm read axis 1


class Capture:
    """The latest forward pass, as :func:`capture` saw it. Tensors keep their graph, dtype and device."""

    def __init__(self, root: nn.Module, head: str, magnitude: MagnitudeSpec | None) -> None:
        self.head = head
        self.magnitude = magnitude
        self._root = root
        self._reset()

    def _reset(self) -> None:
        self._calls = 0
        self._images: torch.Size | None = None
        self._z: Tensor | None = None
        self._logits: Tensor | None = None
        self._m: Tensor | None = None
        self.output: object = None
        """What the model returned."""

    @property
    def z(self) -> Tensor:
        """The head's raw input (N, D), before any normalisation."""
        return self._seen(self._z)

    @property
    def logits(self) -> Tensor:
        """The head's output (N, K), in trained form: of normalised features where the model is normalised."""
        return self._seen(self._logits)

    @property
    def m(self) -> Tensor | None:
        """The magnitude vectors (N, D'); None where they are ``z`` itself."""
        return None if self.magnitude is None else self._seen(self._m)

    @staticmethod
    def _seen(value: Tensor | None) -> Tensor:
        if value is None:
            raise HeadError("no forward pass was captured: call the model itself inside `with capture(model) as tap:`")
        return value

    def _model_called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._reset()
        self._images = next((x.shape for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim), None)

    def _layer_called(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert self.magnitude is not None
        x = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        found_anew = self.magnitude.position is None and x.ndim == 4
        # Kept as it is now: the layer itself, or a later one, may work in place.
        self._m = self.magnitude.select(x, found_anew and self._maps_last(layer, x)).clone()

    def _maps_last(self, layer: nn.Module, x: Tensor) -> bool:
        """Whether the features of a map that the layer reads are its last axis.

        Told by the width that the layer or the first of its parts reads, else by timm's ``output_fmt``, else, for
        square images, by the two axes that are alike.
        """
        says = getattr(self._root, "output_fmt", None)
        told = None if says is None else bool(says == "NHWC")
        reader = next((part for part in layer.modules() if width_read(part) is not None), None)
        if reader is not None:
            kind = _reads_last(reader)
            by_width = features_last(x, width_read(reader), told if kind is None else kind)
            told = told if by_width is None else by_width
        square = self._images is not None and len(set(self._images[2:])) == 1
        rows_first, rows_last = x.shape[1] == x.shape[2], x.shape[2] == x.shape[3]
        if told is None and square and rows_first != rows_last:
            told = rows_first
        if told is None:
            assert self.magnitude is not None
            raise MagnitudeError(
                f"it cannot be told which axis holds the features in the input {tuple(x.shape)} of "
                f"{self.magnitude.module!r}: name a layer that says how many features it reads, such as a norm "
                "layer, a convolution or a linear layer"
            )
        return told

    def _head_called(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        z = only_input(args)
        if z.ndim != 2:
            raise HeadError(
                f"the head {self.head!r} reads an input of shape {tuple(z.shape)}: "
                "one vector an image is needed, (N, D)"
            )
        self._calls += 1
        # As it is now, since later layers may work in place; where a graph is kept, autograd refuses that by itself.
        self._z = z if z.requires_grad else z.clone()

    def _head_done(self, _: nn.Module, __: tuple[Tensor], logits: Tensor) -> None:
        self._logits = logits.clone()

    def _model_done(self, _: nn.Module, __: tuple[Any, ...], output: object) -> None:
        self.output = output
        if self._calls != 1:
            raise HeadError(f"the head {self.head!r} was called {self._calls} times in one forward pass, not once")
        if self._images is not None and self.z.shape[0] != self._images[0]:
            raise HeadError(
                f"the head {self.head!r} read {self.z.shape[0]} rows for {self._images[0]} images, not one for each"
            )
        if self.magnitude is not None and (self._m is None or self._m.shape[0] != self.z.shape[0]):
            rows = "no input" if self._m is None else f"{self._m.shape[0]} rows"
            raise MagnitudeError(f"the layer {self.magnitude.module!r} read {rows} for {self.z.shape[0]} images")


@contextlib.contextmanager
def capture(
    model: nn.Module, head: str | nn.Linear | None = None, magnitude: MagnitudeSpec | None = None
) -> Iterator[Capture]:
    """See what the head reads and gives while the model runs; modes, weights and outputs stay as they are.

    ``with capture(model) as tap: model(images)`` leaves the raw features in ``tap.z``, the logits in
    ``tap.logits`` and, with a ``magnitude``, the magnitude vectors in ``tap.m``; each forward pass replaces
    those of the one before. Compiled models run eagerly meanwhile, since compiled code ignores new hooks.

    Raises:
        HeadError: the head cannot be found (:func:`~normgate.normalization.find_head`), is not called exactly
            once in a forward pass, or does not read one vector an image.
        MagnitudeError: the layer of ``magnitude`` does not exist, does not read one such vector an image, or reads maps
            of which it cannot be told which axis holds the features.
    """
    name, linear = find_head(model, head)
    root = unwrap(model)
    tap = Capture(root, name, magnitude)
    with contextlib.ExitStack() as stack:
        if is_compiled(model):
            stack.enter_context(_eager())
        # Prepended hooks run in the reverse of this order, which matters where the model is itself the head.
        stack.enter_context(linear.register_forward_pre_hook(tap._head_called, prepend=True))
        if magnitude is not None:
            layer = root.get_submodule(magnitude_at(model, magnitude.module).module)
            stack.enter_context(layer.register_forward_pre_hook(tap._layer_called, prepend=True, with_kwargs=True))
        stack.enter_context(root.register_forward_pre_hook(tap._model_called, prepend=True, with_kwargs=True))
        stack.enter_context(linear.register_forward_hook(tap._head_done))
        stack.enter_context(root.register_forward_hook(tap._model_done))
        yield tap


@process_wide
@contextlib.contextmanager
def _eager() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


def magnitude_at(model: nn.Module, module: str) -> MagnitudeSpec:
    """The input of the layer named ``module`` as the magnitude vector, whatever its shape (``features=``).

    Raises:
        MagnitudeError: the model has no such layer; the message names similar ones.
    """
    names = [name for name in named_layers(model) if name]
    if module not in names:
        close = difflib.get_close_matches(module, names, n=5, cutoff=0.4) or names[-5:]
        raise MagnitudeError(f"the model has no layer named {module!r}; similar names: {', '.join(close)}")
    return MagnitudeSpec(module)


def find_magnitude(model: nn.Module, head: str | nn.Linear | None, example_batch: Tensor) -> MagnitudeSpec | None:
    """Where the magnitude is, if a norm layer takes it away before the head; None: in the head's input ``z``.

    A LayerNorm or RMSNorm that feeds the head with no averaging in between (ConvNeXt's head, a ViT's class
    token) makes all norms of z alike; the magnitude is then in that layer's input at the same position. The
    first images of the batch go through the model once, in eval mode, and the last norm layer whose
    output holds z exactly is taken.
    """
    root = unwrap(model)
    outputs: dict[str, Tensor] = {}

    def record(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[name] = output

    with contextlib.ExitStack() as stack:
        for name, module in named_layers(model).items():
            if _removes_magnitude(module):
                hook = module.register_forward_hook(lambda _, __, output, name=name: record(name, output))
                stack.enter_context(hook)
        stack.enter_context(inference(root))
        tap = stack.enter_context(capture(root, head))
        root(example_batch[:_EXAMPLES])
    found = (_position(name, output, tap.z) for name, output in reversed(outputs.items()))
    return next((spec for spec in found if spec is not None), None)


def _removes_magnitude(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or "layernorm" in name or "rmsnorm" in name


def _position(module: str, output: Tensor, z: Tensor) -> MagnitudeSpec | None:
    for channels_last, axis in ((True, -1), (False, 1)):
        if output.ndim >= 2 and len(output) == len(z) and output.shape[axis] == z.shape[1]:
            same = (_rows(output, channels_last) == z[:, None]).all(2).all(0)
            if same.any():
                return MagnitudeSpec(module, int(same.nonzero()[0]), channels_last)
    return None
