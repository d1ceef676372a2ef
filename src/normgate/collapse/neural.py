"""Neural collapse NC1–NC4, of raw features or of directions (Papyan, Han & Donoho 2020, arXiv 2008.08186).

All averages are taken within each class and then over the classes, so that each class weighs the same: these are the
paper's where classes are balanced. `h` is an image's feature, `μ_c` a class mean, `μ_G` the mean of those.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.collapse.classes import ROUNDING, ClassMeans, labels_of, values_in
from normgate.collapse.frame import Frame

if TYPE_CHECKING:
    from normgate.collapse.classes import Floats, Space
    from normgate.features import Features


@dataclasses.dataclass(frozen=True)
class NeuralCollapse:
    """NC1–NC4 of labelled features in one space; all are 0 at full collapse.

    Attributes:
        space: `z`, raw features, or `u`, directions.
        images: their number.
        classes: C, the number of classes that have images.
        rank: the number of dimensions that the class means span, C−1 or D at most.
        within_between: NC1, `Tr(Σ_W Σ_B⁺)/C` with `Σ_W = Ave_c Ave_i (h − μ_c)(h − μ_c)ᵀ` and
            `Σ_B = Ave_c (μ_c − μ_G)(μ_c − μ_G)ᵀ`. The pseudo-inverse leaves out eigenvalues below 10⁻¹² of the largest.
        means: NC2 of the vectors `μ_c − μ_G`.
        head: NC2 of the head's rows, as they are.
        self_duality: NC3, `‖W/‖W‖_F − M/‖M‖_F‖_F`, M the rows `μ_c − μ_G`; between 0 and 2.
        nearest_mean_disagreement: NC4, the share of images whose predicted class is not that of the nearest class mean
            (classes without images are never the nearest).
        missing: why a value is None, by name.
    """

    space: Space
    images: int
    classes: int
    rank: int
    within_between: float | None
    means: Frame
    head: Frame
    self_duality: float | None
    nearest_mean_disagreement: float
    missing: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def neural_collapse(features: Features, space: Space = "z") -> NeuralCollapse:
    """Measure the collapse of labelled features, in float64.

    Everything happens in the span of the class means, (N, C−1) numbers: Σ_W is never formed.

    Args:
        features: N labelled images, with the head.
        space: `z` for raw features, `u` for directions.

    Raises:
        CollapseError: there is no such space, there are no labels, or fewer than two classes have images.
    """
    classes = ClassMeans.of(values_in(features, space), labels_of(features))
    weight = features.weight.numpy().astype(np.float64)
    c = len(classes.present)
    # means = U S Vᵀ, so that Σ_B⁺ = C · V S⁻² Vᵀ; its eigenvalues are squares of S.
    _, singular, axes = np.linalg.svd(classes.means, full_matrices=False)
    kept = singular > ROUNDING * singular[0]
    singular, axes = singular[kept], axes[kept]
    projected, means = classes.deviations @ axes.T, classes.means @ axes.T

    missing: dict[str, str] = {}
    within_between = self_duality = None
    if not kept.any():
        missing["within_between"] = missing["self_duality"] = "all class means are the same"
    elif classes.counts.max() == 1:
        missing["within_between"] = "no class has two images, so that nothing is known of the spread within classes"
    else:
        squares = np.square((projected - means[classes.labels]) / singular).sum(axis=1)
        # Tr(Σ_W Σ_B⁺)/C, where Σ_B⁺ brings another factor C
        within_between = float((np.bincount(classes.labels, squares) / classes.counts).mean())
    if c < len(weight):
        absent = np.setdiff1d(np.arange(len(weight)), classes.present)
        missing["self_duality"] = f"{len(absent)} of {len(weight)} classes have no images (the first: {absent[0]})"
    elif kept.any() and weight.any():
        self_duality = float(np.linalg.norm(_unit(weight) - _unit(classes.means)))
    elif kept.any():
        missing["self_duality"] = "the head's weight is zero"
    frame, head = Frame.of(classes.means), Frame.of(weight)
    for name, value, what in (("means", frame, "a class mean is the global mean"), ("head", head, "a row is zero")):
        if value.equiangularity is None:
            missing[name] = f"{what}, and so has no angle"
    # The nearest mean of h minimises ‖μ‖² − 2 h·μ; what lies outside the span of the means is equally far from all.
    nearest = (projected @ means.T - np.square(means).sum(axis=1) / 2).argmax(axis=1)
    predicted = features.logits.numpy().argmax(axis=1)
    return NeuralCollapse(
        space=space,
        images=len(features),
        classes=c,
        rank=int(kept.sum()),
        within_between=within_between,
        means=frame,
        head=head,
        self_duality=self_duality,
        nearest_mean_disagreement=float((classes.present[nearest] != predicted).mean()),
        missing=missing,
    )


def _unit(matrix: Floats) -> Floats:
    return matrix / np.linalg.norm(matrix)
