"""Features on disk: what a network said of images that it has seen before."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from normgate.cache_folder import trim
from normgate.data.decoding import DIGEST_BYTES
from normgate.errors import NormgateError
from normgate.files import OutputError, whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from normgate.features import Features

_ROWS = ("z", "logits", "m", "stage_norms")
_SUFFIX = ".safetensors"


class CacheError(NormgateError):
    """The cache's folder cannot be used."""


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """What a network said of N images.

    Attributes:
        rows: by name of `Features` attribute, a row for each of the R readable images, in order; empty where R is 0.
            `digests` are (R, 16) uint8.
        errors: a message for each of the N images that cannot be read or judged, None for the others.
    """

    rows: Mapping[str, torch.Tensor]
    errors: tuple[str | None, ...]

    @classmethod
    def of(cls, features: Features | None, errors: Sequence[str | None]) -> Self:
        """The entry of N images; features of those that can be read, None if that is none."""
        found = {} if features is None else {name: getattr(features, name) for name in _ROWS}
        if features is not None and features.digests is not None:
            joined = bytearray(b"".join(features.digests))
            found["digests"] = torch.frombuffer(joined, dtype=torch.uint8).view(-1, DIGEST_BYTES)
        return cls({name: value for name, value in found.items() if value is not None}, tuple(errors))

    @property
    def columns(self) -> dict[str, Any]:
        """The rows as `Features` has them."""
        digests = self.rows.get("digests")
        own = None if digests is None else tuple(bytes(row) for row in digests.numpy())
        return {**self.rows, "digests": own}

    def reordered(self, order: Sequence[int]) -> Self:
        """The entry of the same images in another order, given by their present numbers."""
        row_of, rows = [], 0
        for error in self.errors:
            row_of.append(rows)
            rows += error is None
        taken = torch.tensor([row_of[i] for i in order if self.errors[i] is None], dtype=torch.int64)
        errors = tuple(self.errors[i] for i in order)
        return dataclasses.replace(self, rows={name: value[taken] for name, value in self.rows.items()}, errors=errors)

    def digest(self) -> str:
        """Of everything in it, against damage."""
        found = hashlib.sha256(json.dumps(self.errors).encode())
        for name, value in sorted(self.rows.items()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
        return found.hexdigest()

    def fits(self, count: int, width: int, outputs: int) -> bool:
        """Whether it can be of `count` images and a head with so many inputs and outputs."""
        readable = sum(error is None for error in self.errors)
        shapes = {name: tuple(value.shape) for name, value in self.rows.items()}
        return len(self.errors) == count and (
            not shapes
            if readable == 0
            else shapes.get("z") == (readable, width)
            and shapes.get("logits") == (readable, outputs)
            and set(shapes) <= {*_ROWS, "digests"}
            and all(len(shape) == 2 and shape[0] == readable for shape in shapes.values())
            and shapes.get("digests", (readable, DIGEST_BYTES)) == (readable, DIGEST_BYTES)
            and all(
                value.dtype == (torch.uint8 if name == "digests" else torch.float32) and bool(value.isfinite().all())
                for name, value in self.rows.items()
            )
        )


class FeatureCache:
    """A folder of entries, one safetensors file for each chunk of images and each network.

    An entry is found under the digest of its key (network, preprocessing and the content of the images) and holds
    the whole key. What is damaged or does not belong there is never used: it is computed again and replaced. Entries
    appear whole; those that were used longest ago are removed when there are too many. Features derive from the
    images, so the folder of the entries, where it is made, is the user's alone.

    Args:
        folder: entries lie in `normgate-features` below it; made if need be.
        limit: bytes that all entries may take; where those of one data set take more, a second run finds none of them.
        chunk: images of an entry; a run that was killed has lost at most so many.

    Raises:
        CacheError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int = 4 * 2**30, chunk: int = 1024) -> None:
        self.folder = Path(folder) / "normgate-features"
        self.limit = limit
        self.chunk = chunk
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"features cannot be cached in {folder}: {error.strerror or error}; name another folder (--cache DIR), "
                "or do without (--no-cache)"
            ) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise CacheError(f"features cannot be cached in {folder}: no permission; use --cache DIR or --no-cache")

    def read(self, key: str, *, count: int, width: int, outputs: int) -> Entry | None:
        """The entry of this key; None where there is none that can be trusted.

        Args:
            key: what the features depend on.
            count: number of images.
            width: inputs of the head.
            outputs: outputs of the head.
        """
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != key:
                    return None
                rows = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            rows.pop("none", None)
            entry = Entry(rows, tuple(json.loads(metadata["errors"])))
            if metadata["digest"] != entry.digest() or not entry.fits(count, width, outputs):
                return None
            os.utime(path)  # used now
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError):
            return None
        return entry

    def write(self, key: str, entry: Entry) -> None:
        """Keep an entry.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(key)
        metadata = {"key": key, "errors": json.dumps(entry.errors), "digest": entry.digest()}
        # A file without any tensor cannot be written.
        rows = {name: value.contiguous() for name, value in entry.rows.items()} or {"none": torch.zeros(0)}
        try:
            with whole_file(path, overwrite=True) as partial:
                save_file(rows, partial, metadata=metadata)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OutputError(f"{path} cannot be written: {error}") from error
        trim(self.folder, _SUFFIX, limit=self.limit, newest=path)

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}{_SUFFIX}"
