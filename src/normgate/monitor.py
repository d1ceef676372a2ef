"""The shift alarm: has the stream of images changed? Valid at any time, whatever the length of the stream.

Each score is ranked among the calibration scores and the stream so far. Where those are exchangeable, which is what "no
shift" means, the ranks give p-values that are independent and exactly uniform (Vovk, Gammerman & Shafer, *Algorithmic
Learning in a Random World*, 2005, ch. 8), and a martingale that bets against that grows beyond 1/δ with a probability
of at most δ, ever (Ville 1939). Only NumPy is needed.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normgate.calibration.conformal import check_calibration, check_scores, check_share
from normgate.errors import NormgateError

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats: TypeAlias = NDArray[np.float64]

BINS = 4096
_BLOCK = 256
_FORMAT = 1
# Bets on a share θ of images whose p-values have the density ε p^(ε−1), at the unfamiliar end and at the familiar one.
_SHARES, _EXPONENTS, _FAMILIAR = (0.03, 0.1, 0.3, 1.0), (0.1, 0.3, 0.6), (0.3, 1.0)
_BETS: int = len(_SHARES) * len(_EXPONENTS) + len(_FAMILIAR)
_PATIENCE = 100.0


class MonitorError(NormgateError):
    """An alarm cannot be set up or resumed; the message says what is missing."""


@dataclasses.dataclass(eq=False)
class ShiftAlarm:
    """A stream of scores in, an alarm out, in constant memory.

    Scores are ranked in fixed bins between quantiles of *tuning* scores, so that the bin of a score depends on nothing
    else in the stream. With c the counts of the bins over calibration and stream so far, and U uniform,

        p = (Σ_{b' < b} c_b' + U (c_b + 1)) / (n + 1),    then c_b ← c_b + 1:

    ties are broken at random, the score's own place among them. The martingale is `S = Π(>t) + Σ_k A_k`, where Π is a
    prior on when a shift begins, `Π(>t) = 1/(1 + log(1 + t/100))`, and each bet f_k, of mean 1 under uniform p, is
    entered at every time: `A_k ← (A_k + π(t)/K) f_k(p)`. So a shift after a long quiet time costs log t and not t.

    Attributes:
        edges: (B−1,) inner edges of the bins, ascending.
        counts: (B,) scores seen in each bin, calibration included.
        delta: the chance of ever raising a false alarm.
        generator: breaks ties.
        seen: scores of the stream so far.
        raised: number of the score at which the alarm was raised, counted from 1; None while it is quiet.
        log_bets: (K,) logarithms of A_k.
    """

    edges: Floats
    counts: NDArray[np.int64]
    delta: float
    generator: np.random.Generator
    seen: int = 0
    raised: int | None = None
    log_bets: Floats = dataclasses.field(default_factory=lambda: np.full(_BETS, -np.inf))

    @classmethod
    def start(cls, calibration: ArrayLike, tuning: ArrayLike, *, delta: float = 0.01, seed: int = 0) -> ShiftAlarm:
        """An alarm that has seen no stream yet.

        Args:
            calibration: (n,) scores of calibration images, which the stream is compared with.
            tuning: (m,) scores of tuning images, between whose quantiles the bins lie; calibration scores would spoil
                the uniformity of the p-values.
            delta: the chance, at most, of ever raising an alarm while stream and calibration images are exchangeable.
            seed: of the random ties.

        Raises:
            CalibrationError: no scores, NaN among them, or delta is no share.
        """
        check_share(delta, "the chance of a false alarm")
        known, placing = check_calibration(calibration), check_calibration(tuning)
        finite = placing[np.isfinite(placing)]
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)[1:-1])) if len(finite) else np.empty(0)
        counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
        return cls(edges, counts.astype(np.int64), float(delta), np.random.Generator(np.random.PCG64(seed)))

    @property
    def log_martingale(self) -> float:
        """Log S: how much money a bet against "no shift" has made; the alarm is raised at log 1/δ."""
        return float(np.logaddexp(_log_later(self.seen), np.logaddexp.reduce(self.log_bets)))

    def update(self, scores: ArrayLike) -> Floats:
        """Take in the next scores of the stream, in their order.

        Args:
            scores: (N,) scores, larger = more familiar.

        Returns:
            (N,) log S after each of them. Once raised, the alarm stays so; the martingale goes on.

        Raises:
            CalibrationError: a score is NaN; none of them is taken in.
        """
        values = check_scores(scores)
        path = np.empty(len(values))
        for start in range(0, len(values), _BLOCK):
            block = slice(start, start + _BLOCK)
            path[block] = self._bet(self._p_values(values[block]))
        return path

    def to_dict(self) -> dict[str, Any]:
        """The state as plain JSON values, from which the stream goes on as if it had not stopped."""
        return {
            "format": _FORMAT,
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "delta": self.delta,
            "seen": self.seen,
            "raised": self.raised,
            "log_bets": [value if math.isfinite(value) else None for value in self.log_bets.tolist()],
            "generator": self.generator.bit_generator.state,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ShiftAlarm:
        """The inverse of `to_dict`.

        Raises:
            MonitorError: this is no such state, or one of another version.
        """
        try:
            if state["format"] != _FORMAT:
                raise ValueError(f"format {state['format']!r}")
            bits = np.random.PCG64()
            bits.state = state["generator"]
            bets = [-math.inf if value is None else float(value) for value in state["log_bets"]]
            found = cls(
                edges=np.asarray(state["edges"], dtype=np.float64),
                counts=np.asarray(state["counts"], dtype=np.int64),
                delta=float(state["delta"]),
                generator=np.random.Generator(bits),
                seen=int(state["seen"]),
                raised=None if state["raised"] is None else int(state["raised"]),
                log_bets=np.asarray(bets, dtype=np.float64),
            )
            check_share(found.delta, "the chance of a false alarm")
            if not found._is_sound():
                raise ValueError("its numbers do not fit one another")
        except (KeyError, TypeError, ValueError, OverflowError, NormgateError) as error:
            raise MonitorError(f"this is no state of a shift alarm that this version knows: {error}") from error
        return found

    def _is_sound(self) -> bool:
        return (
            self.edges.ndim == 1
            and self.counts.shape == (len(self.edges) + 1,)
            and self.log_bets.shape == (_BETS,)
            and bool((np.diff(self.edges) > 0).all() and np.isfinite(self.edges).all() and (self.counts >= 0).all())
            and self.seen >= 0
            and self.counts.sum() > self.seen
            and not np.isnan(self.log_bets).any()
        )

    def _p_values(self, values: Floats) -> Floats:
        """(N,) p-values, each among all before it, and the counts with them."""
        bins = np.searchsorted(self.edges, values, side="right")
        below = np.concatenate([[0], np.cumsum(self.counts)])[bins]
        # Within the block only earlier ones count.
        earlier = np.tri(len(bins), k=-1, dtype=bool)
        below = below + ((bins[None, :] < bins[:, None]) & earlier).sum(axis=1)
        same = self.counts[bins] + ((bins[None, :] == bins[:, None]) & earlier).sum(axis=1)
        before = self.counts.sum() + np.arange(len(bins))
        self.counts = self.counts + np.bincount(bins, minlength=len(self.counts))
        ties = self.generator.random(len(bins))
        return np.asarray((below + ties * (same + 1)) / (before + 1), dtype=np.float64)

    def _bet(self, p: Floats) -> Floats:
        """(N,) log S after each p-value."""
        times = self.seen + np.arange(len(p))
        later = _log_later(np.append(times, self.seen + len(p)))
        # π(t+1) = Π(>t) − Π(>t+1), to a precision that holds after millions of images.
        entering = later[:-1] + np.log(-np.expm1(later[1:] - later[:-1])) - math.log(_BETS)
        gains = np.cumsum(_log_bets(p), axis=1)
        before = np.concatenate([np.zeros((_BETS, 1)), gains[:, :-1]], axis=1)
        # A(t) = F(t) (A₀ + Σ_s π(s)/K / F(s−1)), F the product of the bets
        entered = np.concatenate([self.log_bets[:, None], entering - before], axis=1)
        bets = gains + np.logaddexp.accumulate(entered, axis=1)[:, 1:]
        path = np.logaddexp(later[1:], np.logaddexp.reduce(bets, axis=0))
        if self.raised is None and (over := np.flatnonzero(path >= -math.log(self.delta))).size:
            self.raised = self.seen + int(over[0]) + 1
        self.seen += len(p)
        self.log_bets = bets[:, -1]
        return np.asarray(path, dtype=np.float64)


def _log_bets(p: Floats) -> Floats:
    """(K, N): the logarithm of each bet on each p-value; every bet has mean 1 for uniform p."""
    p = np.clip(p, np.finfo(np.float64).tiny, 1.0)
    unfamiliar = [1 - share + share * e * p ** (e - 1) for share in _SHARES for e in _EXPONENTS]
    # 1 − p may be 0, where a power of it has no logarithm; a straight line has one.
    familiar = [1 + share * (p - 0.5) for share in _FAMILIAR]
    return np.log(np.stack([*unfamiliar, *familiar]))


def _log_later(seen: ArrayLike) -> Any:
    """Log Π(>t), the prior's mass on a shift after t scores."""
    return -np.log1p(np.log1p(np.asarray(seen, dtype=np.float64) / _PATIENCE))
