"""kNN: the distance to the k-th nearest training image, between directions or features."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

import torch

from normgate.scores.base import Score, ScoreError, whole
from normgate.scores.blocks import blocks

if TYPE_CHECKING:
    from normgate.features import Features

_MOST = 50
_BLOCK_BYTES = 64 * 2**20
_WINDOW = 8  # ranks on each side of the k-th that are measured again; with 4, tight classes need float64 far more often


@dataclasses.dataclass
class KNN(Score):
    """`−‖u − u₍ₖ₎‖₂`, u₍ₖ₎ the k-th nearest training direction; of z, not u, for `knn_raw`.

    k None is 50, or half the rows of a small class (the 10 % quantile of their sizes) where that is less, so that an
    image's neighbours can all be of its own class; a single odd class does not decide it for all.
    Exact: float32 products rank the neighbours, the distances around the k-th rank are taken again from float64
    differences, and where a bound on the rounding does not prove the rank, the products are taken in float64.
    Source: Sun et al., ICML 2022, arXiv 2204.06507 (k = 50 for CIFAR-10).
    """

    needs_fit = True

    space: Literal["u", "z"] = "u"
    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None:
            if (k := whole(self.k, 1)) is None:
                raise ScoreError(f"{self.name} needs a whole number k of at least 1, not {self.k!r}")
            self.k = k

    @property
    def least_rows(self) -> int:
        """As many as neighbours are asked for."""
        return self.k or 1

    def _fit(self, features: Features) -> dict[str, torch.Tensor]:
        assert features.labels is not None
        counts = torch.bincount(features.labels)
        small = int(counts[counts > 0].double().quantile(0.1, interpolation="higher"))
        k = max(1, min(_MOST, small // 2)) if self.k is None else self.k
        return {"bank": features.space(self.space).clone(), "k": torch.tensor(k)}

    def _score(self, features: Features) -> torch.Tensor:
        bank, k = self.state["bank"], int(self.state["k"])
        queries = features.space(self.space)
        distances, certain = _kth_distances(queries, bank, k, torch.float32)
        if not certain.all():
            distances[~certain] = _kth_distances(queries[~certain], bank, k, torch.float64)[0]
        return -distances

    def _traced(self, features: Features) -> torch.Tensor:
        """By the expanded square in float64, about the middle of the bank."""
        bank = self.state["bank"].double()
        centre = bank.mean(dim=0)
        bank, queries = bank - centre, features.space(self.space).double() - centre
        squares = bank.square().sum(dim=1) - 2 * queries @ bank.T + queries.square().sum(dim=1, keepdim=True)
        nearest = squares.topk(int(self.state["k"]), dim=1, largest=False).values
        return -nearest[:, -1].clamp_min(0).sqrt()


def _kth_distances(
    queries: torch.Tensor, bank: torch.Tensor, k: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances to the k-th nearest row of the bank, ranked by products of a dtype, and which of them are certain.

    With centred rows q and v, ranks are those of `s = ‖v‖² − 2 q·v = ‖q − v‖² − ‖q‖²`, whose error is at most
    2 γ ‖v‖ (‖v‖ + ‖q‖), γ = (D + 8) ε: the bound for sums of D products in any order. Ranks k − w … k + w are measured
    again. The k-th distance among them is the k-th of all if what ranks before cannot be farther, nor what ranks
    behind nearer.
    """
    n, d = bank.shape
    centre = bank.mean(dim=0)
    keys = torch.empty(n, d + 1, dtype=dtype)  # (v, ‖v‖²)
    rows = keys[:, :d].copy_(bank).sub_(centre)
    largest = float(torch.stack(torch.aminmax(rows)).abs().amax())
    scale = 1.0
    if not 1e-9 < largest < 1e9 and 0 < largest < math.inf:
        # A power of two, which keeps all digits, so that no square leaves float32's range.
        scale = 2.0 ** -round(math.log2(largest))
        rows.mul_(scale)
    lengths = torch.linalg.vector_norm(rows, dim=1)
    radius = float(lengths.amax())
    keys[:, d] = lengths.square()
    epsilon = torch.finfo(dtype).eps / 2
    first, last = max(0, k - _WINDOW), min(n, k + _WINDOW)
    block = max(1, _BLOCK_BYTES // (keys.element_size() * n))
    products = torch.empty(min(block, len(queries)), n, dtype=dtype)
    distances = torch.empty(len(queries), dtype=torch.float64)
    certain = torch.ones(len(queries), dtype=torch.bool)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        q = (queries[part].to(dtype) - centre) * scale
        torch.mm(torch.cat([-2 * q, torch.ones(len(q), 1, dtype=dtype)], dim=1), keys.T, out=products[: len(q)])
        ranked, index = products[: len(q)].topk(last, dim=1, largest=False)
        nearest = _distances(queries[part], bank, index[:, first:]).sort(dim=1).values[:, k - 1 - first]
        length = torch.linalg.vector_norm(q, dim=1).double()
        squares = ranked.double() + length[:, None].square()
        error = 2 * (d + 8) * epsilon * (radius + length).square()  # that of ‖q‖² included
        centring = 2 * epsilon * (radius + length)
        if first > 0:
            certain[part] &= (squares[:, first - 1] + error).sqrt() + centring <= nearest * scale
        if last < n:
            certain[part] &= (squares[:, -1] - error).clamp_min(0).sqrt() - centring >= nearest * scale
        distances[part] = nearest
    return distances, certain


def _distances(queries: torch.Tensor, bank: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Distances of (N, D) queries to M rows of the bank each, (N, M), by float64 differences."""
    rows = max(1, _BLOCK_BYTES // (64 * index.shape[1] * queries.shape[1]))  # blocks that stay in the cache
    parts = blocks(queries, index, rows=rows)
    return torch.cat([torch.linalg.vector_norm(q.double()[:, None] - bank[i], dim=2) for q, i in parts])
