"""Features: everything that any score needs, from a single pass over the images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from normgate.backbones import stage_channels, stage_names
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.loading import load_batches
from normgate.errors import NormgateError
from normgate.normalization import find_head, stored, temperature, unwrap
from normgate.progress import silent
from normgate.taps import MagnitudeSpec, capture, features_last, find_magnitude, magnitude_at
from normgate.threads import lock_of, process_wide
from normgate.verdicts import NOT_FINITE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from normgate.data.loading import PixelBatch
    from normgate.data.preprocessing import Preprocessing
    from normgate.data.sources import Record
    from normgate.progress import Progress
    from normgate.taps import Capture


_TENSORS = ("z", "logits", "weight", "bias", "labels", "m", "stage_norms")


class FeatureError(NormgateError):
    """Features cannot be computed, or do not fit together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """One row an image, float32 on the CPU, with the head that the features feed.

    Arrays and tensors of other kinds of numbers are taken, and become that.

    Attributes:
        z: (N, D), the head's input before any normalisation.
        logits: (N, K), the head's output in trained form.
        weight: (K, D), the head's weight.
        bias: (K,), the head's bias; None where it has none.
        temperature: τ of the normalisation; 1 where there is none.
        ids: N names.
        labels: (N,) int64 class numbers; None where unknown.
        m: (N, D'), the magnitude vector where it is not z.
        stage_norms: (N, S), norms of the pooled output of each stage; None where the stages are not known.
        digests: N fingerprints of the decoded images; None where not asked for, never saved.

    Raises:
        FeatureError: shapes do not fit together, a label is no class number, or τ is no number above 0.
    """

    z: torch.Tensor
    logits: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    temperature: float
    ids: tuple[str, ...]
    labels: torch.Tensor | None = None
    m: torch.Tensor | None = None
    stage_norms: torch.Tensor | None = None
    digests: tuple[bytes, ...] | None = None

    def __post_init__(self) -> None:
        for name in _TENSORS:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _numbers(name, value))
        if not 0 < self.temperature < math.inf:
            raise FeatureError(f"the temperature τ is a number above 0, not {self.temperature!r}")
        n = len(self.ids)
        fits = (
            self.weight.ndim == 2
            and self.z.shape == (n, self.weight.shape[1])
            and self.logits.shape == (n, self.weight.shape[0])
            and (self.bias is None or self.bias.shape == self.weight.shape[:1])
            and (self.labels is None or self.labels.shape == (n,))
            and all(rows is None or (rows.ndim == 2 and len(rows) == n) for rows in (self.m, self.stage_norms))
            and (self.digests is None or len(self.digests) == n)
        )
        if not fits:
            shapes = {name: tuple(value.shape) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
            raise FeatureError(f"features do not fit together: {n} ids, {shapes}")
        if self.labels is not None and not ((self.labels >= 0) & (self.labels < len(self.weight))).all():
            raise FeatureError(f"labels are class numbers from 0 to {len(self.weight) - 1}, and one is not")

    def __len__(self) -> int:
        return len(self.z)

    @functools.cached_property
    def u(self) -> torch.Tensor:
        """Directions `z / ‖z‖₂`, (N, D); a zero feature stays zero."""
        with _kept():
            return F.normalize(self.z, dim=1)

    @property
    def finite(self) -> torch.Tensor:
        """Which rows are finite numbers, (N,) bool."""
        return torch.isfinite(self.z).all(dim=1) & torch.isfinite(self.logits).all(dim=1)

    @property
    def magnitude(self) -> torch.Tensor:
        """The vector whose norm is the magnitude: m where there is one, else z."""
        return self.z if self.m is None else self.m

    @functools.cached_property
    def raw_logits(self) -> torch.Tensor:
        """`head(z/τ)`, normalisation off, (N, K)."""
        with _kept():
            return self.head(self.z)

    def head(self, z: torch.Tensor) -> torch.Tensor:
        """What the head says of (N, D) features in the place of z, normalisation off: `head(z/τ)`, (N, K)."""
        # Dividing the rows of the head is the same, and spares a copy of all features.
        return F.linear(z, self.weight / self.temperature, self.bias)

    def space(self, name: str) -> torch.Tensor:
        """One of `z`, `u`, `logits`, `raw_logits` by name."""
        if name not in ("z", "u", "logits", "raw_logits"):
            raise FeatureError(f"there are no features {name!r}; choose from: z, u, logits, raw_logits")
        value: torch.Tensor = getattr(self, name)
        return value

    def select(self, rows: Sequence[int] | np.ndarray | torch.Tensor) -> Features:
        """The features of some rows, in the order given; row numbers or a mask."""
        index = torch.as_tensor(np.asarray(rows))
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index.long()
        positions = index.tolist()
        return dataclasses.replace(
            self,
            z=self.z[index],
            logits=self.logits[index],
            ids=tuple(self.ids[i] for i in positions),
            labels=None if self.labels is None else self.labels[index],
            m=None if self.m is None else self.m[index],
            stage_norms=None if self.stage_norms is None else self.stage_norms[index],
            digests=None if self.digests is None else tuple(self.digests[i] for i in positions),
        )

    def evenly(self, limit: int) -> Features:
        """At most so many rows, evenly over all."""
        if len(self) <= limit:
            return self
        return self.select([round(row) for row in np.linspace(0, len(self) - 1, limit).tolist()])

    def without(self, rows: Sequence[int]) -> Features:
        """All but some rows."""
        mask = np.ones(len(self), dtype=bool)
        mask[list(rows)] = False
        return self.select(mask)

    def class_balanced(self, limit: int, seed: int = 0) -> Features:
        """At most `limit` rows with as equal class counts as there are rows for, drawn at random; original order."""
        if len(self) <= limit:
            return self
        labels = np.zeros(len(self), dtype=np.int64) if self.labels is None else self.labels.numpy()
        order = np.random.default_rng(seed).permutation(len(self))
        # Each image's place within its class decides: all first images of the classes, then all second ones, …
        turn = np.empty(len(self), dtype=np.int64)
        for label in np.unique(labels):
            members = order[labels[order] == label]
            turn[members] = np.arange(len(members))
        chosen = order[np.argsort(turn[order], kind="stable")[:limit]]
        return self.select(np.sort(chosen))

    def save(self, path: Path) -> None:
        """Write to a safetensors file."""
        tensors = {
            field.name: value.contiguous()
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        save_file(tensors, path, metadata={"ids": json.dumps(self.ids), "temperature": repr(self.temperature)})

    @classmethod
    def load(cls, path: Path) -> Features:
        """Read what `save` wrote.

        Raises:
            FeatureError: the file is damaged or holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                # Copied, since a file's tensors may lie at odd addresses, where a product's last bit can differ.
                tensors: dict[str, Any] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
            ids, tau = tuple(json.loads(metadata["ids"])), float(metadata["temperature"])
            features = cls(**{"bias": None, **tensors}, ids=ids, temperature=tau)
            if other := [name for name, value in tensors.items() if value.dtype != getattr(features, name).dtype]:
                raise FeatureError(f"{other[0]} is {tensors[other[0]].dtype}")
            if not all(isinstance(name, str) for name in ids):
                raise FeatureError("an id is no text")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError, FeatureError) as error:
            raise FeatureError(f"{path.name} holds no features that this version can read: {error}") from error
        return features


class FeatureExtractor:
    """A network together with the way its images are prepared and its features are read.

    Threads may call it; they take turns, as they do where two extractors have the same network.

    Args:
        model: any module with one linear head, with or without `l2norm`.
        preprocessing: how images become its input.
        head: the head's name, where it cannot be found.
        magnitude: where the magnitude vector is read, as found earlier.
        search: whether to try the network on an example, and to look for that place, where `magnitude` is None.
        features: name of the module whose input is the magnitude vector, against what would be found.
        device: where to compute; None leaves the model where it is.

    Raises:
        FeatureError: the network does not take images of this size, the device cannot be used, or the network returns
            something else than the logits of the head that was found for it.
        HeadError: the head cannot be found (see :func:`~normgate.normalization.find_head`).
        MagnitudeError: there is no layer of the name given.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        head: str | nn.Linear | None = None,
        magnitude: MagnitudeSpec | None = None,
        search: bool = True,
        features: str | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.model = model if device is None else _moved(model, device)
        self.preprocessing = preprocessing
        self.head_name, self.head = find_head(model, head)
        self.stages = stage_names(unwrap(model))
        self.magnitude = magnitude
        if features is not None:
            self.magnitude = magnitude_at(model, features)
        elif magnitude is not None:
            magnitude_at(model, magnitude.module)
        if search and magnitude is None:
            self._try(checked=head is None)  # whoever names a head means what it gives

    def _try(self, checked: bool) -> None:
        """Let the network see an example: it must take it, and shows where its magnitude is."""
        example = self.example()
        with _inference(self.model), _explained(example), capture(self.model, self.head, self.magnitude) as tap:
            if self.magnitude is None:
                self.magnitude = find_magnitude(self.model, self.head, example)
            else:
                self.model(example)
            if checked:
                _check_output(tap)

    @property
    def device(self) -> torch.device:
        """Where the head's weight is."""
        return stored(self.head).device

    def __call__(self, images: np.ndarray | torch.Tensor) -> Features:
        """Features of a batch.

        Args:
            images: (N, H, W, 3) uint8 pixels of the preprocessing's size, or a prepared (N, 3, H, W) float tensor.

        Raises:
            FeatureError: the network does not take such a batch, or a feature or logit is not finite.
        """
        features = self.unchecked(images)
        if not (finite := features.finite).all():
            raise FeatureError(
                f"the network gives NaN or infinite features for {int((~finite).sum())} of {len(finite)} images; "
                "its weights or its preprocessing are broken"
            )
        return features

    def read(self, batch: PixelBatch) -> tuple[PixelBatch, Features | None]:
        """Features of a loaded batch, None without any; an image whose features are not finite counts as unreadable."""
        if not len(batch.pixels):
            return batch, None
        features = self.unchecked(batch.pixels)
        fine = features.finite.numpy()
        if fine.all():
            return batch, features
        return batch.only(fine, NOT_FINITE), features.select(fine) if fine.any() else None

    def unchecked(self, images: np.ndarray | torch.Tensor) -> Features:
        """Features of a batch, whether they are finite or not; otherwise as a call."""
        batch = self._input(images)
        with _inference(self.model), _explained(batch):
            rows = self.rows(batch)
        return Features(
            z=_host(rows.z),
            logits=_host(rows.logits),
            weight=_host(rows.weight),
            bias=None if rows.bias is None else _host(rows.bias),
            temperature=rows.temperature,
            ids=("",) * len(rows.z),
            m=None if rows.m is None else _host(rows.m),
            stage_norms=None if rows.stage_norms is None else _host(rows.stage_norms),
        )

    def rows(self, batch: torch.Tensor) -> Rows:
        """What a forward pass over a prepared batch (N, 3, H, W) shows, where the network is and with its graph."""
        with capture(self.model, self.head, self.magnitude) as tap, self._stage_tap() as stages:
            self.model(batch)
        return Rows(
            z=tap.z,
            logits=tap.logits,
            weight=self.head.weight.detach(),
            bias=None if self.head.bias is None else self.head.bias.detach(),
            temperature=temperature(self.model),
            ids=(),
            m=tap.m,
            stage_norms=torch.stack(list(stages.values()), dim=1) if stages else None,
        )

    def example(self) -> torch.Tensor:
        """Two images of noise, prepared: they stand in for real ones, so that none of those is seen twice."""
        return self._input(np.random.default_rng(0).integers(0, 256, (2, *self.preprocessing.size, 3), dtype=np.uint8))

    def _input(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        prepared = images
        if isinstance(prepared, np.ndarray):
            prepared = torch.from_numpy(self.preprocessing.normalized(prepared))
        return prepared.to(self.device, dtype=stored(self.head).dtype)

    @contextlib.contextmanager
    def _stage_tap(self) -> Iterator[dict[str, torch.Tensor]]:
        """Norms of the pooled output of each stage; a stage that gives no feature map of its channels is left out."""
        norms: dict[str, torch.Tensor] = {}
        root = unwrap(self.model)
        channels = stage_channels(root)
        says_last = getattr(root, "output_fmt", None) == "NHWC"  # not all networks whose maps are so say it

        def note(name: str, output: Any) -> None:
            if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
                return
            last: bool | None = True  # tokens
            if output.ndim == 4:
                last = features_last(output, channels[name], says_last) if name in channels else says_last
            if last is not None:
                norms[name] = torch.linalg.vector_norm(_pool(output.float(), last), dim=1)

        with contextlib.ExitStack() as stack:
            for name in self.stages:
                module = root.get_submodule(name)
                stack.enter_context(module.register_forward_hook(lambda _, __, output, name=name: note(name, output)))
            yield norms


class Rows(Features):
    """Features of a batch that may be of any size, as in a graph that is being exported: rows have no names."""

    def __post_init__(self) -> None:
        """Nothing is known of the number of rows."""


@dataclasses.dataclass(frozen=True)
class Extraction:
    """Features of the images that could be read, and `(id, message)` of those that could not.

    An image for which the network gives no finite features is among the latter.
    """

    features: Features
    errors: tuple[tuple[str, str], ...]


def extract(
    extractor: FeatureExtractor,
    records: Iterable[Record],
    *,
    classes: Sequence[str] | None = None,
    total: int | None = None,
    batch_size: int = 128,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    digests: bool = False,
    task: str = "features",
    progress: Progress = silent,
) -> Extraction:
    """Collect the features of a source in one pass.

    Args:
        extractor: the network.
        records: undecoded images, in the order of the rows.
        classes: names of the classes, where labels are wanted; a record's label must be one of them.
        total: number of records, for the progress report.
        batch_size: images in a forward pass.
        workers: decoding threads.
        max_pixels: larger images are errors.
        digests: also fingerprint the decoded images.
        task: name in the progress report.
        progress: told how far the pass is.

    Raises:
        FeatureError: no image can be read, or a label is missing or is no class.
    """
    parts: list[Features] = []
    errors: list[tuple[str, str]] = []
    numbers = None if classes is None else {name: i for i, name in enumerate(classes)}
    done = 0
    batches = load_batches(
        records,
        extractor.preprocessing,
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
        digests=digests,
    )
    for loaded in batches:
        batch, features = extractor.read(loaded)
        errors += [
            (record.id, error) for record, error in zip(batch.records, batch.errors, strict=True) if error is not None
        ]
        if features is not None:
            part = _labelled(features, batch, numbers)
            # One copy of the head for all rows, not one a batch: it may weigh as much as the batch's features.
            parts.append(dataclasses.replace(part, weight=parts[0].weight, bias=parts[0].bias) if parts else part)
        done += len(batch.records)
        progress(task, done, total)
    if not parts:
        raise unreadable(errors)
    return Extraction(concatenate(parts), tuple(errors))


def unreadable(errors: Sequence[tuple[str, str]]) -> FeatureError:
    """The error for a source of which no image can be read or judged, given `(id, message)` of each."""
    if errors and all(message == NOT_FINITE for _, message in errors):
        return FeatureError(
            f"the network gives NaN or infinite features for all of {len(errors)} images; its weights or its "
            "preprocessing are broken"
        )
    reason = f"; the first of {len(errors)} errors: {errors[0][0]}: {errors[0][1]}" if errors else ""
    return FeatureError(f"there is no image that can be read{reason}")


def _numbers(name: str, value: Any) -> torch.Tensor:
    """As `Features` keeps them."""
    try:
        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise FeatureError(f"{name} holds no numbers: {error}") from error
    if name != "labels":
        return tensor if tensor.dtype == torch.float32 else tensor.float()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise FeatureError(f"labels are whole numbers, not {tensor.dtype}")
    return tensor.long()


def class_numbers(ids: Sequence[str], labels: Sequence[str | None], numbers: Mapping[str, int]) -> torch.Tensor:
    """Class numbers (N,) of labelled images.

    Labels are names; they may be class numbers where no class has a number for its name.

    Raises:
        FeatureError: a label is missing or is no class.
    """
    names = list(numbers)
    if not any(name.isdecimal() for name in names):
        numbers = {**numbers, **{str(number): number for number in numbers.values()}}
    for name, label in zip(ids, labels, strict=True):
        if label not in numbers:
            raise FeatureError(
                f"{name} has the label {label!r}, which is none of the {len(names)} classes "
                f"({', '.join(names[:8])}{', …' if len(names) > 8 else ''})"
            )
    return torch.tensor([numbers[str(label)] for label in labels])


def concatenate(parts: Sequence[Features]) -> Features:
    """Rows of several features of one network, one after another."""

    def rows(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return dataclasses.replace(
        parts[0],
        **{name: rows(name) for name in ("z", "logits", "labels", "m", "stage_norms")},
        ids=tuple(name for part in parts for name in part.ids),
        digests=None if parts[0].digests is None else tuple(digest for part in parts for digest in part.digests or ()),
    )


def _labelled(features: Features, batch: PixelBatch, numbers: dict[str, int] | None) -> Features:
    records = [record for record, readable in zip(batch.records, batch.readable, strict=True) if readable]
    ids = tuple(record.id for record in records)
    labels = None if numbers is None else class_numbers(ids, [record.label for record in records], numbers)
    return dataclasses.replace(features, ids=ids, labels=labels, digests=batch.digests or None)


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Around what is computed once and kept: neither inference mode nor autocast, be whoever asks first in them."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():  # its tensors cannot be used by autograd afterwards
            stack.enter_context(torch.inference_mode(mode=False))
        if torch.is_autocast_enabled("cpu"):
            stack.enter_context(torch.autocast("cpu", enabled=False))
        yield


@contextlib.contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no autograd, no autocast, float32 products in float32; everything as it was afterwards.

    One thread at a time is let in with a network, since modes are the network's, and so are the hooks of a capture.
    """
    with lock_of(unwrap(model)):
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(torch.inference_mode())
                stack.enter_context(full_precision())
                for device_type in {parameter.device.type for parameter in model.parameters()}:
                    stack.enter_context(torch.autocast(device_type, enabled=False))
                yield
        finally:
            for module in training:
                module.training = True


@process_wide
@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Neither TF32 nor bfloat16 inside products of float32 numbers, whatever the process allows otherwise."""
    backends: Any = torch.backends
    parts: list[Any]
    value: str | bool
    if hasattr(backends, "fp32_precision"):
        parts = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
        name, value = "fp32_precision", "ieee"
    else:  # before PyTorch 2.9; later versions raise where switches of both kinds have been used
        parts, name, value = [backends.cuda.matmul, backends.cudnn], "allow_tf32", False
    before = [getattr(part, name) for part in parts]
    try:
        for part in parts:
            setattr(part, name, value)
        yield
    finally:
        for part, previous in zip(parts, before, strict=True):
            if name == "fp32_precision":
                part.fp32_precision = "none"  # as the process says for all, and goes on to where that changes later
                if part.fp32_precision == previous:
                    continue
            setattr(part, name, previous)


def _check_output(tap: Capture) -> None:
    """Refuse a network that changes what its head gives: its own labels and probabilities would be others."""
    output = getattr(tap.output, "logits", tap.output)
    if not isinstance(output, torch.Tensor) or output.shape != tap.logits.shape:
        return  # nothing to compare
    given, returned = tap.logits.double(), output.double()
    if not (given.isfinite().all() and returned.isfinite().all()):
        return  # said where images are read
    tolerance = 1e-4 if min(output.element_size(), tap.logits.element_size()) >= 4 else 1e-2
    # Logits that are all shifted are the same to a softmax: a network may return log-probabilities, or probabilities.
    shifted = given - (given - returned).mean(dim=1, keepdim=True)
    if not any(
        torch.allclose(returned, same, rtol=0, atol=tolerance * float(same.abs().max()))
        for same in (shifted, given.softmax(dim=1))
    ):
        worst = (given - returned).abs().argmax()
        raise FeatureError(
            f"the network does not return what its head {tap.head!r} gives: for an example it returns "
            f"{returned.flatten()[worst]:.4g} where the head gives {given.flatten()[worst]:.4g}. Labels and "
            "probabilities are read at the head: put what comes after it, such as a scale, into the head's weight and "
            f'bias; or, if the head\'s own logits are meant, name it with head="{tap.head}"'
        )


@contextlib.contextmanager
def _explained(batch: torch.Tensor) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise FeatureError(
            f"the network does not take a batch of shape {tuple(batch.shape)}: {error}; "
            "if it wants another size, change the preprocessing (--image-size), if it wants one channel, begin its "
            "forward with x.mean(1, keepdim=True), and if memory is short, change the batch size"
        ) from error


def _moved(model: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise FeatureError(f"the device {str(device)!r} cannot be used here: {error}; name another, or cpu") from error


def _pool(output: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Mean over space or tokens, (N, C, H, W), (N, H, W, C) or (N, T, C) → (N, C)."""
    return output.flatten(1, -2).mean(dim=1) if channels_last else output.mean(dim=(2, 3))


def _host(tensor: torch.Tensor) -> torch.Tensor:
    # clone(): tensors made in inference mode cannot be used by autograd afterwards.
    with torch.inference_mode(mode=False):
        return tensor.detach().to("cpu", torch.float32).clone()
