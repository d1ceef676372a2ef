"""Fingerprints: what features depend on, so that two networks or two images never share a cache entry."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normgate.data.decoding import Fetchable, ImageError, decode, digest
from normgate.evaluation.results import EvaluationError
from normgate.identity import IdentityError, network_digest
from normgate.normalization import is_normalized, temperature

if TYPE_CHECKING:
    from normgate.data.decoding import Payload
    from normgate.extractor import FeatureExtractor


def settings(extractor: FeatureExtractor, max_pixels: int) -> dict[str, Any]:
    """Everything but the images that features depend on, as plain data.

    Raises:
        EvaluationError: the network holds something whose content cannot be seen, so it cannot be told from others.
    """
    try:
        network = network_digest(extractor.model)
    except IdentityError as error:
        raise EvaluationError(f"{error}; its features cannot be cached, so pass cache=None (--no-cache)") from error
    return {
        "network": network,
        "head": extractor.head_name,
        "normalized": is_normalized(extractor.model),
        "temperature": temperature(extractor.model),
        "magnitude": None if extractor.magnitude is None else extractor.magnitude.to_dict(),
        "stages": list(extractor.stages),
        "preprocessing": extractor.preprocessing.to_dict(),
        "max_pixels": max_pixels,
        "device": extractor.device.type,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy", "pillow")},
    }


def image_digest(payload: Payload, max_pixels: int) -> str:
    """A digest of an image's content: the bytes of its file wherever they are, else its pixels, else its error."""
    if isinstance(payload, Fetchable):
        try:
            payload = payload.fetch()
        except ImageError as error:
            payload = error
    if isinstance(payload, bytes | bytearray | memoryview):
        return "f" + hashlib.blake2b(payload, digest_size=16).hexdigest()
    if isinstance(payload, str | os.PathLike):
        try:
            if stat.S_ISREG(Path(payload).stat().st_mode):  # opening a pipe would wait for ever
                with Path(payload).open("rb") as file:
                    return "f" + hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except (OSError, ValueError):
            pass
    try:
        return "p" + digest(decode(payload, max_pixels)).hex()
    except ImageError as error:
        return "e" + hashlib.blake2b(str(error).encode(), digest_size=16).hexdigest()


def file_mark(payload: Payload) -> tuple[int, ...] | None:
    """What changes when a file is written to; None for anything but a path that is there."""
    if not isinstance(payload, str | os.PathLike):
        return None
    try:
        found = Path(payload).stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
