"""Labelled features of known geometry, for the tests of `normgate.collapse`."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from normgate.features import Features


def simplex(classes: int) -> np.ndarray:
    """K unit rows in K dimensions, all cosines −1/(K−1)."""
    rows = np.eye(classes) - 1 / classes
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rotation(dimensions: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions)))[0]


def features_of(z, labels, weight, bias=None, temperature=1.0, normalized=True, m=None) -> Features:
    """Features whose logits are what the head says of them."""
    z, weight = (torch.as_tensor(np.asarray(values), dtype=torch.float32) for values in (z, weight))
    bias = None if bias is None else torch.as_tensor(np.asarray(bias), dtype=torch.float32)
    seen = torch.nn.functional.normalize(z, dim=1) if normalized else z
    return Features(
        z=z,
        logits=torch.nn.functional.linear(seen / temperature, weight, bias),
        weight=weight,
        bias=bias,
        temperature=temperature,
        ids=tuple(str(i) for i in range(len(z))),
        labels=None if labels is None else torch.as_tensor(np.asarray(labels), dtype=torch.int64),
        m=None if m is None else torch.as_tensor(np.asarray(m), dtype=torch.float32),
    )


def random_classes(
    images: int = 60,
    dimensions: int = 7,
    classes: int = 4,
    seed: int = 0,
    spread: float = 1.0,
    weight_scale: float = 1.0,
    **settings,
) -> Features:
    """Gaussian classes of about equal numbers, with a head that knows their centres and a little noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = 2 * rng.normal(size=(classes, dimensions))
    z = centres[labels] + spread * rng.normal(size=(images, dimensions))
    weight = centres + 0.3 * rng.normal(size=centres.shape)
    return features_of(z, labels, weight_scale * weight, bias=0.1 * rng.normal(size=classes), **settings)


def collapsed(classes: int = 5, each: int = 6, temperature: float = 0.5, head_norm: float = 3.0) -> Features:
    """Every image at its class's corner of a simplex, which the head's rows form too; norms are 2."""
    labels = np.repeat(np.arange(classes), each)
    return features_of(2 * simplex(classes)[labels], labels, head_norm * simplex(classes), temperature=temperature)


def relabelled(features: Features, labels) -> Features:
    return dataclasses.replace(features, labels=None if labels is None else torch.as_tensor(labels))
