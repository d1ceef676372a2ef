"""Any detector of the package pytorch-ood that takes features or logits, as a score for evaluations."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from normgate.scores.base import Score, ScoreError

if TYPE_CHECKING:
    from normgate.features import Features

Kind = Literal["features", "logits"]
Space = Literal["z", "u", "logits", "raw_logits"]
# The representation in the names of a detector's methods, and what is given for it unless the caller says otherwise.
_DEFAULT_SPACES: dict[Kind, Space] = {"features": "z", "logits": "logits"}


@dataclasses.dataclass
class Detector(Score):
    """`−outlier score` of a detector, which counts larger as more outlying.

    It can be evaluated beside the scores of this package, but no gate is made of it: what it has learned lies in
    objects of another package, which could be stored by pickling alone. Made by `adapt`.
    """

    savable: ClassVar[bool] = False

    detector: Any
    kind: Kind
    space: Space

    @property
    def settings(self) -> dict[str, object]:
        """The detector's class and what it is given."""
        return {"detector": type(self.detector).__name__, "space": self.space}

    def _score(self, features: Features) -> torch.Tensor:
        outlying = _call(self.detector, f"predict_{self.kind}", features.space(self.space))
        if not isinstance(outlying, torch.Tensor) or outlying.shape != (len(features),):
            raise ScoreError(f"{self.name} does not give one number an image")
        return -outlying.detach().cpu().double()


@dataclasses.dataclass
class FittedDetector(Detector):
    """A detector that learns from training images, anew with each fit."""

    needs_fit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._unfitted = copy.deepcopy(self.detector)

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        self.detector = copy.deepcopy(self._unfitted)
        _call(self.detector, f"fit_{self.kind}", features.space(self.space).clone(), features.labels)
        return {"fitted": torch.tensor(True)}


def adapt(detector: object, *, name: str | None = None, space: Space | None = None) -> Score:
    """A score from a detector of pytorch-ood, for `evaluate` alone.

    Args:
        detector: unfitted; made with `encoder=None` or `model=None`, since features and logits are given. A head that
            it asks for takes what `space` says: of z, the weights are `features.weight / features.temperature`.
        name: of the score; `pytorch_ood.<class>` where None.
        space: what the detector is given. None: `z` where it takes features, `logits` (in trained form) where it takes
            logits.

    Raises:
        ScoreError: pytorch-ood is not installed, or the detector takes neither features nor logits.
    """
    try:
        from pytorch_ood.api import Detector as Peer
    except ImportError as error:
        raise ScoreError(f"pytorch-ood cannot be imported ({error}); pip install 'normgate[pytorch-ood]'") from error
    if not isinstance(detector, Peer):
        raise ScoreError(f"{detector!r} is no detector of pytorch-ood; make one of those in pytorch_ood.detector")
    label = f"pytorch_ood.{type(detector).__name__}"
    kind = next((kind for kind in _DEFAULT_SPACES if callable(getattr(detector, f"predict_{kind}", None))), None)
    if kind is None or (detector.requires_fit and not callable(getattr(detector, f"fit_{kind}", None))):
        raise ScoreError(
            f"{label} takes images or feature maps, and there are only features and logits here; choose a detector "
            "with predict_features or predict_logits, or one of this package's own scores"
        )
    if space is not None and space not in ("z", "u", "logits", "raw_logits"):
        raise ScoreError(f"{label} can be given z, u, logits or raw_logits, not {space!r}")
    adapter = FittedDetector if detector.requires_fit else Detector
    return adapter(name or label, detector, kind, space or _DEFAULT_SPACES[kind])


def _call(detector: object, method: str, *values: Any) -> Any:
    try:
        return getattr(detector, method)(*values)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
        AttributeError,
        IndexError,
        NotImplementedError,
    ) as error:
        name = type(detector).__name__
        raise ScoreError(
            f"pytorch-ood's {name}.{method} fails on features of shape {tuple(values[0].shape)}: "
            f"{type(error).__name__}: {error}; see that package's documentation of {name}"
        ) from error
