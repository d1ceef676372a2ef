"""A network as it judges: in evaluation mode, and float32 numbers multiplied as such."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from normgate.normalization import unwrap
from normgate.threads import lock_of, process_wide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
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
    """Neither TF32 nor bfloat16 inside products of float32 numbers, whatever the process allows otherwise.

    What each switch says is the same afterwards. Whether it was set for itself or follows what is set for all cannot be
    read where both say the same; it then follows.
    """
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
