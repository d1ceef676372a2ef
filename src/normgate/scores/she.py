"""SHE: simplified Hopfield energy, the inner product with the pattern of the predicted class."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from normgate.scores.base import Score, ScoreError
from normgate.scores.blocks import blocks
from normgate.scores.mahalanobis import class_means

if TYPE_CHECKING:
    from normgate.features import Features


@dataclasses.dataclass
class SHE(Score):
    """`⟨z, S_c⟩`, S_c the mean z of the correctly classified training images of class c, c the predicted class.

    Predictions are those of `head(z/τ)`, normalisation off; they differ from the trained ones only through the head's
    bias. A class of which no training image is classified correctly has no pattern and is left out of the prediction.
    Source: Zhang et al., ICLR 2023, "Out-of-Distribution Detection Based on In-Distribution Data Patterns Memorization
    with Modern Hopfield Energy" (inner product).
    """

    needs_fit = True

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        correct = features.raw_logits.argmax(dim=1) == features.labels
        if not correct.any():
            raise ScoreError(
                f"{self.name} takes means of correctly classified training images, and there are none; "
                "train the network first, or check that labels and classes fit together"
            )
        classes = torch.unique(features.labels[correct])
        means, _ = class_means(features.z, features.labels.where(correct, -1))
        return {"patterns": means[-len(classes) :], "classes": classes}  # without that of the wrong ones, the first

    def _score(self, features: Features) -> torch.Tensor:
        patterns = self.state["patterns"]
        predicted = features.raw_logits[:, self.state["classes"]].argmax(dim=1)
        return torch.cat([torch.linalg.vecdot(z.double(), patterns[c]) for z, c in blocks(features.z, predicted)])
