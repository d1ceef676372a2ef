"""What a network is, as a digest: the same in every process, another for whatever might compute something else."""

from __future__ import annotations

import contextlib
import copyreg
import enum
import functools
import hashlib
import logging
import operator
import sys
import threading
import types
import weakref
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from normgate.errors import NormgateError
from normgate.normalization import unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = (
    *(bool, int, float, complex, str, bytes, bytearray, range, type(None), type(...), PurePath, np.generic, np.dtype),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_FUNCTIONS = (types.FunctionType, types.MethodType, staticmethod, classmethod)
_NATIVE = (
    *(types.BuiltinFunctionType, types.MethodDescriptorType, types.MethodWrapperType, types.WrapperDescriptorType),
    *(types.ClassMethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType),
)
# They compute nothing; a handle's number depends on what else the process has done.
_BYSTANDERS = (RemovableHandle, logging.Logger, type(threading.Lock()), type(threading.RLock()))
# What every module has, and the marks that torch.compile and Lightning's wrapper of it leave.
_BOOKKEEPING = {*vars(torch.nn.Module()), "_is_torch_compile", "_compile_kwargs"}


class IdentityError(NormgateError):
    """A network cannot be told from others."""


def network_digest(model: torch.nn.Module) -> str:
    """A digest of weights, buffers and architecture: the printed layers, what they hold, their hooks and their code.

    Raises:
        IdentityError: it holds something whose content cannot be seen.
    """
    try:
        return Describer().digest(unwrap(model)).hex()
    except RecursionError as error:
        raise IdentityError("the network holds too long a chain of objects to be told from others") from error


class Describer:
    """Digests of objects that may hold one another, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, Any]] = {}  # with the object, so that no other gets its id
        self._depth = 0

    def digest(self, value: Any) -> bytes:
        """A digest of a value and all that it holds.

        Raises:
            IdentityError: it holds something whose content cannot be seen, such as a generator.
        """
        if id(value) not in self._known:
            self._known[id(value)] = (f"inside {self._depth}".encode(), value)  # what it is to what it holds
            self._depth += 1
            found = hashlib.sha256(_name(type(value)))
            for part in self._parts(value):
                found.update(f"{len(part)}:".encode() + part)
            self._depth -= 1
            self._known[id(value)] = (found.digest(), value)
        return self._known[id(value)][0]

    def _parts(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, enum.Enum):
            yield value.name.encode()
            yield self.digest(value.value)
        elif isinstance(value, _PLAIN):
            yield repr(value).encode()
        elif isinstance(value, torch.nn.Module):
            yield from self._network(value)
        elif isinstance(value, torch.Tensor):
            yield f"{value.dtype} {tuple(value.shape)}".encode()
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        elif isinstance(value, np.ndarray):
            yield f"{value.dtype!r} {value.shape}".encode()
            yield self.digest(value.tolist()) if value.dtype.hasobject else value.tobytes()
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield self.digest(value.__func__)
            yield self.digest(value.__self__)
        elif isinstance(value, staticmethod | classmethod):
            yield self.digest(value.__func__)
        elif isinstance(value, property | functools.cached_property):
            yield self.digest(value.fget if isinstance(value, property) else value.func)
        elif isinstance(value, contextlib._GeneratorContextManager):  # as a decorator it makes its generator anew
            yield self.digest([value.func, value.args, value.kwds])
        elif isinstance(value, _NATIVE):
            yield value.__qualname__.encode()
            yield self.digest(getattr(value, "__self__", None))
        elif isinstance(value, types.ModuleType):
            yield value.__name__.encode()
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, weakref.ReferenceType):
            yield self.digest(value())
        elif not isinstance(value, _BYSTANDERS):
            yield self.digest(type(value))
            yield from self._content(value)

    def _content(self, value: Any) -> Iterator[bytes]:
        """Elements, attributes, and what a copy would be made of."""
        if isinstance(value, slice):
            value = [value.start, value.stop, value.step]
        if isinstance(value, list | tuple):
            yield from map(self.digest, value)
        elif isinstance(value, dict | types.MappingProxyType):
            yield from (self.digest(part) for pair in value.items() for part in pair)
        elif isinstance(value, set | frozenset):  # their order changes from process to process
            yield from sorted(map(self.digest, value))
        if hasattr(value, "__dict__"):
            yield self.digest(vars(value))
        if isinstance(value, list | tuple | dict | types.MappingProxyType | set | frozenset):
            return
        try:
            reduced: Any = copyreg.dispatch_table.get(type(value), operator.methodcaller("__reduce_ex__", 4))(value)
        except Exception as error:
            raise IdentityError(
                f"the network holds a {_name(type(value)).decode()}, whose content cannot be seen, so that it cannot "
                "be told from others"
            ) from error
        if isinstance(reduced, str):
            yield reduced.encode()
        else:
            make, arguments, state, elements, items = (list(reduced) + [None] * 3)[:5]
            yield from map(self.digest, (make, arguments, state, list(elements or ()), list(items or ())))

    def _network(self, model: torch.nn.Module) -> Iterator[bytes]:
        """The printed layers, their attributes and code, weights and buffers."""
        if foreign := [name for name, value in model.state_dict().items() if not isinstance(value, torch.Tensor)]:
            raise IdentityError(
                f"the network's state holds more than tensors ({foreign[0]}), so that it cannot be told from others"
            )
        yield str(model).encode()
        modules = dict(model.named_modules())
        for name, module in modules.items():
            self._known[id(module)] = (f"module {name}".encode(), module)
        for name, module in modules.items():
            yield name.encode()
            yield self.digest(type(module))
            for key, value in sorted(vars(module).items()):
                if key not in _BOOKKEEPING:
                    yield key.encode()
                    yield self.digest(value)
                elif key.startswith("_forward_"):  # hooks by a number that depends on what else the process has done
                    yield key.encode()
                    yield from map(self.digest, value.values())
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        for name, tensor in tensors:
            yield name.encode()
            yield self.digest(tensor)

    def _class(self, kind: type) -> Iterator[bytes]:
        """Methods and plain attributes of a class and of those it derives from."""
        yield _name(kind)
        for cls in kind.__mro__:
            if not _is_given(cls.__module__):
                for key, value in sorted(vars(cls).items()):
                    if isinstance(value, (*_FUNCTIONS, property)) or not (key.startswith("__") or key == "_abc_impl"):
                        yield key.encode()
                        yield self.digest(value)

    def _function(self, function: types.FunctionType) -> Iterator[bytes]:
        """Code, defaults and closure, and the functions and constants that it names."""
        yield f"{function.__module__}.{function.__qualname__}".encode()
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # a cell that is still empty
                yield self.digest(cell.cell_contents)
        yield self.digest([function.__defaults__, function.__kwdefaults__])
        if _is_given(function.__module__):
            return
        yield self.digest(function.__code__)
        for name in _names(function.__code__):
            named = function.__globals__.get(name)
            if isinstance(named, _FUNCTIONS) or _is_constant(named):
                yield name.encode()
                yield self.digest(named)

    def _code(self, code: types.CodeType) -> Iterator[bytes]:
        yield code.co_code
        yield repr((code.co_names, code.co_varnames)).encode()
        yield from map(self.digest, code.co_consts)


def _is_constant(value: Any) -> bool:
    """Whether it is plain data, alone or in tuples; lists and dictionaries may be what code takes notes in."""
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    return isinstance(value, (*_PLAIN, enum.Enum, torch.Tensor, np.ndarray))


def _names(code: types.CodeType) -> Iterator[str]:
    """What code names, and the comprehensions, lambdas and functions within it."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names(part)


def _name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__}".encode()


def _is_given(module: str | None) -> bool:
    """Whether it is PyTorch's, whose version is noted and whose layers print what they do, or Python's own."""
    package = str(module).partition(".")[0]
    return package == "torch" or package in sys.stdlib_module_names
