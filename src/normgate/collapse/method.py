"""The invariants of the method as numbers: is the push sideways, and how near is the loss to its floor."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.collapse.classes import CollapseError, labels_of, lengths_of, values_in
from normgate.normalization import cross_entropy_floor

if TYPE_CHECKING:
    from normgate.collapse.classes import Floats
    from normgate.features import Features

# Logits further than this share of their range from both forms of the head come from another head.
_FIT = 0.05
_BLOCK_ROWS = 2048
# Below this a float64 has lost digits.
_NO_GRADIENT = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True)
class Invariants:
    """What the method's equations say of a network, recomputed in float64 from features, labels and head.

    Attributes:
        normalized: whether the head was trained on directions: the logits are `head(u/τ)`, not `head(z/τ)`.
        temperature: τ.
        radial_gradient: the largest `|z·∂L/∂z| / ‖∂L/∂u‖` over the images, L the cross-entropy as trained and
            `∂L/∂u` its gradient at the direction, the length held. 0 to rounding where the head sees directions; up to
            1 where it sees raw features. None where every gradient is zero.
        loss: cross-entropy of the trained logits in nats, averaged within classes and then over them.
        chance_loss: log K, the loss of equal probabilities.
        head_norm: s, the root mean square of the norms of the head's centred rows.
        floor: the least that `loss` can be for this s and τ; None where the head sees raw features, whose length has no
            bound, or a class has no images.
        missing: why a value is None, by name.
    """

    normalized: bool
    temperature: float
    radial_gradient: float | None
    loss: float
    chance_loss: float
    head_norm: float
    floor: float | None
    missing: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def invariants(features: Features) -> Invariants:
    """Compute them from labelled features.

    Raises:
        CollapseError: there are no labels, or the logits are not those of the head.
    """
    labels = labels_of(features)
    k = len(features.weight)
    z = values_in(features, "z")
    lengths = lengths_of(features.z)[:, None]
    weight = features.weight.numpy().astype(np.float64)
    bias = np.zeros(k) if features.bias is None else features.bias.numpy().astype(np.float64)
    trained = features.logits.numpy().astype(np.float64)
    products = z @ weight.T / features.temperature
    on_z = products + bias
    on_u = np.divide(products, lengths, out=products, where=lengths > 0) + bias
    far_u, far_z = (float(np.abs(trained - logits).max()) for logits in (on_u, on_z))
    if min(far_u, far_z) > _FIT * max(float(np.ptp(trained)), 1):
        raise CollapseError("the logits are neither head(u/τ) nor head(z/τ); pass features with the head they feed")
    normalized = far_u <= far_z

    logits = on_u if normalized else on_z
    losses, residuals = _cross_entropy(logits, labels)
    by_class = np.bincount(labels, losses, k)[(counts := np.bincount(labels, minlength=k)) > 0]
    loss = float((by_class / counts[counts > 0]).mean())
    missing: dict[str, str] = {}
    blocks = (slice(start, start + _BLOCK_ROWS) for start in range(0, len(z), _BLOCK_ROWS))
    parts = [_radial_gradient(residuals[rows] @ weight / features.temperature, z[rows], normalized) for rows in blocks]
    radial = max((part for part in parts if part is not None), default=None)
    if radial is None:
        missing["radial_gradient"] = "every gradient is zero"
    centred = weight - weight.mean(axis=0)
    head_norm = float(np.sqrt(np.square(centred).sum(axis=1).mean()))
    floor = None
    if not normalized:
        missing["floor"] = "the head sees raw features, whose length has no bound"
    elif (counts == 0).any():
        missing["floor"] = f"{int((counts == 0).sum())} of {k} classes have no images"
    else:
        floor = cross_entropy_floor(k, head_norm, features.temperature)
    return Invariants(normalized, features.temperature, radial, loss, math.log(k), head_norm, floor, missing)


def _cross_entropy(logits: Floats, labels: np.ndarray) -> tuple[Floats, Floats]:
    """Losses (N,) and their gradients p − y at the logits (N, K)."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1)
    losses: Floats = np.log(sums) - shifted[rows, labels]
    residuals = exponentials / sums[:, None]
    # p_y − 1 as minus the sum of the others: near 1 the difference would be rounding alone.
    residuals[rows, labels] = 0
    residuals[rows, labels] = -residuals.sum(axis=1)
    return losses, residuals


def _radial_gradient(push: Floats, z: Floats, normalized: bool) -> float | None:
    """Largest `|z·∂L/∂z| / ‖∂L/∂u‖`, from the (N, D) gradient at the head's input, which is u/τ or z/τ, over τ."""
    size = np.abs(push).max(axis=1, keepdims=True)
    moved = (size[:, 0] > _NO_GRADIENT) & z.any(axis=1)
    if not moved.any():
        return None
    # The quotient does not depend on the gradient's size, whose square may be too small for a float.
    push, z = push[moved] / size[moved], z[moved]
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    if normalized:
        u = z / norms
        at_u, at_z = push, (push - (u * push).sum(axis=1, keepdims=True) * u) / norms
    else:  # z = ‖z‖ u: the gradient at u is ‖z‖ times that at z
        at_u, at_z = norms * push, push
    return float((np.abs((z * at_z).sum(axis=1)) / np.linalg.norm(at_u, axis=1)).max())
