"""Features: everything that any score needs, a row an image."""

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

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_TENSORS = ("z", "logits", "weight", "bias", "labels", "m", "stage_norms")


class FeatureError(NormgateError):
    """Features cannot be computed, or do not fit together."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Features:
    """One row an image, float32 on the CPU, with the head that the features feed.

    Arrays and tensors of other kinds of numbers are taken, and become that. Tensors that are float32 on the CPU already
    are kept and not copied: do not write to them afterwards.

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
        object.__setattr__(self, "temperature", _number_above_0(self.temperature))
        object.__setattr__(self, "ids", tuple(name if isinstance(name, str) else str(name) for name in self.ids))
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

    def __repr__(self) -> str:
        """On one line."""
        k, d = self.weight.shape
        return f"<Features: {len(self)} images, {d} dimensions, {k} classes{', no labels' * (self.labels is None)}>"

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
        """The features of some rows, in the order given; row numbers or a mask.

        Raises:
            FeatureError: a mask is not of as many rows.
        """
        index = torch.as_tensor(np.asarray(rows))
        if index.dtype == torch.bool and index.shape != (len(self),):
            raise FeatureError(f"a mask of shape {tuple(index.shape)} does not fit {len(self)} images")
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
        # Under one key, since safetensors writes several in any order: the same features are the same file.
        about = json.dumps({"ids": self.ids, "temperature": self.temperature})
        save_file(tensors, path, metadata={"features": about})

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
            about = json.loads(metadata["features"])
            ids = tuple(about["ids"])
            features = cls(**{"bias": None, **tensors}, ids=ids, temperature=about["temperature"])
            if other := [name for name, value in tensors.items() if value.dtype != getattr(features, name).dtype]:
                raise FeatureError(f"{other[0]} is {tensors[other[0]].dtype}")
            if not all(isinstance(name, str) for name in ids):
                raise FeatureError("an id is no text")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError, FeatureError) as error:
            raise FeatureError(f"{path.name} holds no features that this version can read: {error}") from error
        return features


class Rows(Features):
    """Features of a batch that may be of any size, as in a graph that is being exported: rows have no names."""

    def __post_init__(self) -> None:
        """Nothing is known of the number of rows."""


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


def _numbers(name: str, value: Any) -> torch.Tensor:
    """As `Features` keeps them."""
    kind, wanted = (np.int64, torch.int64) if name == "labels" else (np.float32, torch.float32)
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        if tensor.dtype == wanted:
            return tensor
        value = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()  # NumPy has none
    array = np.asarray(value)
    if array.dtype.kind not in ("iu" if name == "labels" else "fiu") and array.size:
        raise FeatureError(f"{name} are {'whole ' if name == 'labels' else ''}numbers, not {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=kind))  # a copy, whatever its byte order and strides


def _number_above_0(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not 0 < number < math.inf:
        raise FeatureError(f"the temperature τ is a number above 0, not {value!r}")
    return number


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Around what is computed once and kept: neither inference mode nor autocast, be whoever asks first in them."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():  # its tensors cannot be used by autograd afterwards
            stack.enter_context(torch.inference_mode(mode=False))
        if torch.is_autocast_enabled("cpu"):
            stack.enter_context(torch.autocast("cpu", enabled=False))
        yield
