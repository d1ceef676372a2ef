"""What every score shares: checks once, so that a score's file holds its formula and nothing else."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import math
import numbers
from typing import TYPE_CHECKING, ClassVar, Self

import torch

from normgate.errors import NormgateError
from normgate.precision import full_precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from normgate.features import Features


class ScoreError(NormgateError):
    """A score cannot be fitted or computed on these features."""


@dataclasses.dataclass
class Score(abc.ABC):
    """A function of features; larger = more familiar.

    A subclass is a dataclass: its fields are hyper-parameters (plain JSON values), what it learns from
    training features goes into `state` (named tensors), and it writes only the mathematics: `_score`, `_fit` where
    it learns from training images (`needs_fit`), `_scale` where it learns from tuning images (`needs_tuning`), and
    `_refusal` where it is not for every network. `needs_stages` says that it reads the norms of early stages.
    """

    needs_fit: ClassVar[bool] = False
    needs_tuning: ClassVar[bool] = False
    needs_stages: ClassVar[bool] = False
    savable: ClassVar[bool] = True
    remedy: ClassVar[str] = "check the network's weights and the preprocessing"  # where scores are not finite

    name: str
    state: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def fit(self, features: Features | None, tuning: Features | None = None) -> Self:
        """Learn from training features (N, D) with labels; a second fit forgets the first.

        A score that learns nothing (`needs_fit`) is returned as it is.

        Args:
            features: of training images; None where there are none.
            tuning: of tuning images, for scores that are scaled on them (`needs_tuning`).

        Raises:
            ScoreError: no rows, labels or tuning images are missing where the score needs them, or features are not
                finite.
        """
        if not self.needs_fit:
            return self
        if features is None or len(features) == 0:
            raise ScoreError(
                f"{self.name} is fitted to training images, and there are none (a lean gate keeps none); pass some "
                "(train=, --train)"
            )
        self.check_rows(len(features))
        if self.needs_tuning and (tuning is None or len(tuning) == 0):
            raise ScoreError(
                f"{self.name} is scaled on tuning images, and there are none; pass tuning images (tuning=, --tuning): "
                "calibration images are for the threshold alone"
            )
        if features.labels is None:
            raise ScoreError(f"{self.name} is fitted to labelled training images; pass these with their labels")
        _check_finite(features.z, "features", Score.remedy)
        with _float32():
            self.state = self._learned(self._fit(features))
            if self.needs_tuning and tuning is not None:
                self.state |= self._learned(self._scale(tuning))
        return self

    def _learned(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not (isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())):
            raise ScoreError(f"{self.name} has learned {_kind(state)}; _fit and _scale return tensors by name")
        return {key: value.contiguous() for key, value in state.items()}

    @property
    def least_rows(self) -> int:
        """Training images that it needs, if it is fitted."""
        return 1

    def check_rows(self, rows: int) -> None:
        """Refuse too few training images; said before training, where it is known.

        Raises:
            ScoreError: as said.
        """
        if self.needs_fit and rows < self.least_rows:
            raise ScoreError(
                f"{self.name} with these settings needs at least {self.least_rows} training images, and it is fitted "
                f"to {rows}; choose a smaller k"
            )

    def __call__(self, features: Features) -> torch.Tensor:
        """Score each image.

        Args:
            features: N rows.

        Returns:
            Scores of shape (N,), float64.

        Raises:
            ScoreError: the score was not fitted, does not give one number an image, or one is not a number.
        """
        scores = self.unchecked(features)
        _check_finite(scores, f"{self.name} scores", self.remedy)
        return scores

    def unchecked(self, features: Features) -> torch.Tensor:
        """Scores, be they numbers or not; otherwise as a call."""
        if self.needs_fit and not self.state:
            raise ScoreError(f"{self.name} has not been fitted; call fit(training_features) first")
        with torch.inference_mode(), _float32():
            found = self._score(features)
        if not isinstance(found, torch.Tensor) or found.shape != (len(features),) or found.is_complex():
            raise ScoreError(
                f"{self.name} does not give one number an image: of {len(features)} images {_kind(found)}; _score "
                "returns a tensor of shape (N,)"
            )
        return found.double()

    def traced(self, features: Features) -> torch.Tensor:
        """The score in operations that take a whole batch of any size, for an exported graph; (N,) float64."""
        return self._traced(features).double()

    def refusal(self, features: Features) -> str | None:
        """Why this score must not be offered for a network with such features; None where it may."""
        with torch.inference_mode(), _float32():
            return self._refusal(features)

    @property
    def settings(self) -> dict[str, object]:
        """Hyper-parameters as plain data."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("name", "state")
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        """Take over what another instance learned."""
        if self.needs_fit and not state:
            raise ScoreError(f"{self.name} needs what it was fitted to, and nothing is stored")
        self.state = dict(state)
        return self

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def _scale(self, tuning: Features) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def _refusal(self, features: Features) -> str | None:
        """`refusal`, where there are features that the score is not made for."""
        return None

    def _traced(self, features: Features) -> torch.Tensor:
        """`_score`, where its operations depend on the values of the features."""
        return self._score(features)

    @abc.abstractmethod
    def _score(self, features: Features) -> torch.Tensor: ...


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Products are taken in float32 at least, whatever is allowed around."""
    with full_precision(), torch.autocast("cpu", enabled=False):
        yield


def _kind(value: object) -> str:
    """What something is that should have been tensors."""
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def whole(value: object, least: int) -> int | None:
    """A setting that is a whole number of at least so much, as an int (NumPy's are not JSON); None where it is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        return None
    return int(value)


def _check_finite(values: torch.Tensor, what: str, remedy: str) -> None:
    if math.isfinite(values.sum()):
        return  # a fast pass that says yes of nearly all
    if not torch.isfinite(values).all():
        count = int((~torch.isfinite(values)).reshape(len(values), -1).any(dim=1).sum())
        raise ScoreError(f"{what} of {count} of {len(values)} images are NaN or infinite; {remedy}")
