"""Softmax: log-probabilities that keep their digits where a probability rounds to 1."""

from __future__ import annotations

import math

import torch

_LOWEST = math.log(torch.finfo(torch.float64).tiny)


def log_softmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`log p_k` (N, K), and `log((1 − p_max) / p_max)` (N,), the log odds against the likeliest class; float64.

    Both come from the sum over the classes other than the likeliest, so that neither is lost where p_max rounds to 1.
    With one class the odds are −inf.
    """
    gaps = logits.double()
    gaps = gaps - gaps.amax(dim=1, keepdim=True)
    others = gaps.scatter(1, gaps.argmax(dim=1, keepdim=True), float("-inf"))
    odds = torch.logsumexp(others, dim=1)
    # Σ_k exp(gap_k): the likeliest class contributes exactly 1.
    return gaps - torch.log1p(odds.exp())[:, None], odds


def negated(x: torch.Tensor, log_x: torch.Tensor) -> torch.Tensor:
    """`−x`, and where x ≥ 0 is too small for a normal float64 t, `log t − log x`: above 0 it keeps the order.

    Without this, images would tie at 0 as soon as their logits are some 700 apart, as raw logits may well be.
    Nothing at all (log x = −∞) stays 0.
    """
    goes_on = (log_x < _LOWEST) & (log_x > float("-inf"))
    return torch.where(goes_on, _LOWEST - log_x, -x)
