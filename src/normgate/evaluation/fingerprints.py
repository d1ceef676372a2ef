"""Fingerprints: what features depend on, so that two networks or two images never share a cache entry."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import stat
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch

from normgate.data.decoding import ImageError, decode, digest
from normgate.evaluation.results import EvaluationError
from normgate.normalization import is_normalized, temperature, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normgate.data.decoding import Payload
    from normgate.features import FeatureExtractor

_PLAIN = (bool, int, float, str, type(None), torch.dtype)
_FUNCTIONS = (FunctionType, MethodType, staticmethod, classmethod)
# What every module has, and the marks that torch.compile and Lightning's wrapper of it leave.
_BOOKKEEPING = {*vars(torch.nn.Module()), "_is_torch_compile", "_compile_kwargs"}


def settings(extractor: FeatureExtractor, max_pixels: int) -> dict[str, Any]:
    """Everything but the images that features depend on, as plain data.

    Raises:
        EvaluationError: the network holds something else than tensors, so that it cannot be told from others.
    """
    return {
        "network": network_digest(extractor.model),
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


def network_digest(model: torch.nn.Module) -> str:
    """A digest of weights, buffers and architecture: the printed layers, their plain attributes and their code."""
    model = unwrap(model)
    if foreign := [name for name, value in model.state_dict().items() if not isinstance(value, torch.Tensor)]:
        raise EvaluationError(
            f"the network's state holds more than tensors ({foreign[0]}), so its features cannot be cached; "
            "pass cache=None (--no-cache)"
        )
    found = hashlib.sha256(str(model).encode())
    for name, module in model.named_modules():
        for part in _description(name, module):
            found.update(f"{len(part)}:".encode() + part)
    for name, value in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(_bytes(value))
    return found.hexdigest()


def image_digest(payload: Payload, max_pixels: int) -> str:
    """A digest of an image's content: the bytes of its file wherever they are, else its pixels, else its error."""
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


def _description(name: str, module: torch.nn.Module) -> Iterator[bytes]:
    """What the printed form leaves out."""
    yield f"{name} {type(module).__module__}.{type(module).__qualname__}".encode()
    seen: set[CodeType] = set()
    for key, value in sorted(vars(module).items()):
        if "hooks" in key and isinstance(value, dict):
            for hook in value.values():
                yield from _hook(key, hook)
        elif key not in _BOOKKEEPING:
            yield from _value(key, value, seen)
    for cls in type(module).__mro__:
        if not _is_torch(cls.__module__) and cls is not object:
            for key, value in sorted(vars(cls).items()):
                function = getattr(value, "fget", value)
                if isinstance(function, _FUNCTIONS) or not key.startswith("__"):
                    yield from _value(key, function, seen)


def _value(key: str, value: Any, seen: set[CodeType]) -> Iterator[bytes]:
    """Bytes of a plain value, a tensor or a function; nothing of what else there may be."""
    if isinstance(value, _PLAIN):
        yield f"{key}={value!r}".encode()
    elif isinstance(value, torch.Tensor):
        yield f"{key} {value.dtype} {tuple(value.shape)}".encode()
        yield _bytes(value)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _value(f"{key}.{number}", part, seen)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _value(f"{key}.{name}", part, seen)
    elif isinstance(value, functools.partial):
        yield from _value(key, [value.func, value.args, value.keywords], seen)
    elif isinstance(value, _FUNCTIONS):
        function: Any = value
        yield from _function(key, getattr(function, "__func__", function), seen)


def _function(key: str, function: FunctionType, seen: set[CodeType]) -> Iterator[bytes]:
    """The code of a function, its defaults and closure, and the functions and constants that it names."""
    code = function.__code__
    yield f"{key}: {function.__module__}.{function.__qualname__}".encode()
    if code in seen or _is_torch(function.__module__):
        return
    seen.add(code)
    yield from _code(code)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell that is still empty
            yield from _value(f"{key}()", cell.cell_contents, seen)
    yield from _value(f"{key}()", [function.__defaults__, function.__kwdefaults__], seen)
    for name in code.co_names:
        named = function.__globals__.get(name)
        if isinstance(named, (*_PLAIN, *_FUNCTIONS, torch.Tensor)):
            yield from _value(name, named, seen)


def _hook(key: str, hook: Any) -> Iterator[bytes]:
    """What a hook is, without what it holds: it may only watch, and note what it sees."""
    function = getattr(hook, "__func__", hook)
    if callable(function):
        known = function if isinstance(function, FunctionType) else type(function)
        yield f"{key}: {known.__module__}.{known.__qualname__}".encode()
        if isinstance(function, FunctionType):
            yield from _code(function.__code__)


def _code(code: CodeType) -> Iterator[bytes]:
    yield code.co_code + repr((code.co_names, code.co_varnames)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:  # the order of a set changes from process to process
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode()


def _is_torch(module: str | None) -> bool:
    """PyTorch's own layers print what they do, and its version is noted."""
    return str(module).partition(".")[0] == "torch"


def _bytes(value: torch.Tensor) -> bytes:
    host = value.detach().cpu().contiguous()
    return host.reshape(-1).view(torch.uint8).numpy().tobytes()
