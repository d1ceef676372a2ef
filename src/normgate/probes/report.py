"""What probes say about scores: which see what, which are blind or inverted, and which one to use."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from normgate import metrics, scores
from normgate.errors import NormgateError
from normgate.metrics import BLIND, INVERTED
from normgate.probes.images import PROBES, family
from normgate.scores import ScoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from normgate.features import Features
    from normgate.scores import Score

SIMPLEST = "norm"
NEVER_CHOSEN = ("norm_profile",)
"""Scores that probes flatter: they see changed light and texture, which most probes have and unknown classes have not.

Found on classes that were held out of training: benchmarks/results/ablation-demo-paper.json."""
MARGIN = 0.01
"""How far below the best mean the simplest score may be and still be chosen."""
FEW = 50
"""With fewer tuning images an AUROC is uncertain by more than about 5 points."""
CHANCE = 3.0
"""Standard errors by which the best of all scores must beat a coin before a probe says anything."""


class ProbeError(NormgateError):
    """Probes cannot tell which score to use."""


@dataclasses.dataclass(frozen=True)
class ProbeReport:
    """AUROC of ID tuning images against each probe, by score.

    Attributes:
        auroc: `auroc[score]["family/variant"]`, a share of 1; larger = the score sees the probe.
        images: number of tuning images.
        probed: number of images of each probe.
        refused: scores that cannot be had for this network, with the reason.
        trained_on: families of probes that the network was trained on: they say nothing of its scores.
    """

    auroc: Mapping[str, Mapping[str, float]]
    images: int
    probed: int
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    trained_on: tuple[str, ...] = ()

    @property
    def probes(self) -> tuple[str, ...]:
        """The probes that were made and that the network has finite features for."""
        return tuple(next(iter(self.auroc.values()), {}))

    @property
    def chance(self) -> float:
        """How far from ½ the AUROC of a blind score may lie: three standard errors of Mann and Whitney's statistic."""
        m, n = self.images, self.probed
        return CHANCE * math.sqrt((m + n + 1) / (12 * m * n))

    @property
    def too_few(self) -> bool:
        """Whether tuning images are so few that no probe can say anything."""
        return self.chance >= 0.5

    @property
    def informative(self) -> tuple[str, ...]:
        """The probes that at least one score tells from ID images; the others say nothing about any score."""
        level = max(BLIND, 0.5 + self.chance)
        return tuple(name for name in self._unseen if max(own[name] for own in self.auroc.values()) >= level)

    @property
    def uninformative(self) -> tuple[str, ...]:
        """The probes that no score tells from ID images (a texture survives shuffling, say): left out of all means."""
        informative = self.informative
        return tuple(name for name in self._unseen if name not in informative)

    @property
    def _unseen(self) -> tuple[str, ...]:
        """The probes that the network was not trained on."""
        return tuple(name for name in self.probes if family(name) not in self.trained_on)

    @property
    def by_family(self) -> dict[str, list[str]]:
        """The informative variants of each family that has any."""
        found: dict[str, list[str]] = {}
        for name in self.informative:
            found.setdefault(family(name), []).append(name)
        return found

    def families(self, score: str) -> dict[str, float]:
        """Mean AUROC of a score over the informative variants of each family that has any."""
        own = self.auroc[score]
        return {name: float(np.mean([own[probe] for probe in probes])) for name, probes in self.by_family.items()}

    def mean(self, score: str) -> float:
        """Mean over families, each counting once however many variants it has; NaN without an informative probe."""
        means = self.families(score)
        return float(np.mean(list(means.values()))) if means else float("nan")

    def ranking(self) -> list[str]:
        """The scores from the best mean down; equal ones in the order of the registry."""
        if not self.informative:
            return list(self.auroc)
        return sorted(self.auroc, key=self.mean, reverse=True)

    def best(self) -> str:
        """The score with the best mean but for `NEVER_CHOSEN`, unless there is no other."""
        ranking = self.ranking()
        return next((name for name in ranking if name not in NEVER_CHOSEN), ranking[0])

    def blind(self, score: str) -> dict[str, float]:
        """The informative probes that a score does not see, with its AUROC; the inverted ones among them."""
        return {name: value for name in self.informative if (value := self.auroc[score][name]) < BLIND}

    def inverted(self, score: str) -> dict[str, float]:
        """The probes that a score takes for more familiar than ID images, even where every other score does so, too."""
        level = min(INVERTED, 0.5 - self.chance)
        return {name: value for name in self.probes if (value := self.auroc[score][name]) < level}

    def with_score(self, score: str, auroc: Mapping[str, float]) -> ProbeReport:
        """The report with other figures of one score."""
        return dataclasses.replace(self, auroc={**self.auroc, score: auroc})

    def without(self, score: str, reason: str) -> ProbeReport:
        """The report without a score of which it says nothing any more."""
        others = {name: own for name, own in self.auroc.items() if name != score}
        return dataclasses.replace(self, auroc=others, refused={**self.refused, score: reason})

    def choice(self) -> str:
        """The score to use: the `best`, or `norm` where it is within a point of that and blind to nothing.

        Where no probe is informative, or tuning images are too few, there is nothing to choose by: `norm` if it can be
        had, else the first that can.

        Raises:
            ProbeError: no score can be had.
        """
        if not self.auroc:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
            raise ProbeError(f"no score can be had for this network: {reasons}")
        best = self.best()
        if SIMPLEST not in self.auroc:
            return best
        near = not self.informative or self.mean(SIMPLEST) >= self.mean(best) - MARGIN
        return SIMPLEST if near and not self.blind(SIMPLEST) else best

    def warnings(self, score: str) -> list[str]:
        """In plain words, what a user of this score must know."""
        said = []
        if self.too_few:
            said.append(
                f"only {self.images} tuning images: too few for probes to tell what {score} would miss, or whether "
                f"another score is better; {FEW} or more are needed"
            )
        elif self.images < FEW:
            said.append(f"only {self.images} tuning images: what the probes say is rough; {FEW} or more are better")
        if self.auroc and not self.informative and not self.too_few:
            said.append(
                f"no score tells any of {len(self.uninformative)} probes from your images: the network has hardly "
                "learned, and there is nothing to choose a score by; train longer"
            )
        if missing := [name for name in PROBES if self.auroc and name not in self.probes]:
            said.append(f"the network gives no finite features for {', '.join(missing)}, which were left out")
        if score not in self.auroc:
            return [*said, f"{score} was not probed: {self.refused.get(score, 'it is no score of this version')}"]
        inverted = self.inverted(score)
        blind = {name: value for name, value in self.blind(score).items() if name not in inverted}
        if inverted:
            said.append(
                f"{score} is inverted on {_listed(inverted)}: it takes such images for more familiar than yours, "
                "and will accept them"
            )
        if blind:
            said.append(f"{score} is blind to {_listed(blind)}: it cannot tell such images from yours")
        if (inverted or blind) and (best := self.best()) != score:
            said.append(
                f"over all probes {best} does best (mean AUROC {self.mean(best):.2f} against {self.mean(score):.2f})"
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        auroc = {score: dict(own) for score, own in self.auroc.items()}
        values = {"images": self.images, "probed": self.probed, "auroc": auroc, "refused": dict(self.refused)}
        return {**values, "trained_on": list(self.trained_on)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ProbeError: it is no such report.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise ProbeError("this is no report of probes")
        trained_on = values["trained_on"]
        if not (isinstance(trained_on, list) and all(isinstance(family, str) for family in trained_on)):
            raise ProbeError("this is no report of probes")
        report = cls(**{**values, "trained_on": tuple(trained_on)})
        counts = all(type(count) is int and count >= 1 for count in (report.images, report.probed))
        tables = isinstance(report.auroc, dict) and all(map(_is_row, report.auroc.values()))
        reasons = isinstance(report.refused, dict) and all(
            isinstance(reason, str) for reason in report.refused.values()
        )
        if not (counts and tables and reasons and len({tuple(row) for row in report.auroc.values()}) <= 1):
            raise ProbeError("this is no report of probes")
        return report


def probe(
    tuning: Features,
    probes: Features,
    train: Features | None,
    own: Score | None = None,
    trained_on: tuple[str, ...] = (),
) -> ProbeReport:
    """Score ID tuning images and probes with every score that can be had.

    Args:
        tuning: (N, D) features of ID tuning images.
        probes: features of probe images; an id is `family/variant#number`.
        train: labelled training features that scores are fitted to; None leaves those scores out.
        own: the gate's own fitted score, which is used as it is.
        trained_on: families of probes that the network was trained on.
    """
    auroc: dict[str, dict[str, float]] = {}
    refused: dict[str, str] = {}
    for name in scores.names():
        try:
            fitted = own if own is not None and own.name == name else scores.create(name).fit(train, tuning)
            if reason := fitted.refusal(tuning):
                raise ScoreError(reason)
            auroc[name] = seen(fitted, tuning, probes)
        except ScoreError as error:
            refused[name] = str(error)
    _, counts = np.unique(probe_names(probes), return_counts=True)
    return ProbeReport(auroc, len(tuning), int(counts.min()), refused, trained_on)


def seen(score: Score, tuning: Features, probes: Features) -> dict[str, float]:
    """AUROC of ID tuning images against each probe by one fitted score."""
    known, unknown, names = score(tuning).numpy(), score(probes).numpy(), probe_names(probes)
    return {name: metrics.auroc(known, unknown[names == name]) for name in dict.fromkeys(names.tolist())}


def probe_names(probes: Features) -> NDArray[np.str_]:
    """Of which probe each row is, (N,)."""
    return np.array([name.rpartition("#")[0] for name in probes.ids])


def _listed(probes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} (AUROC {value:.2f})" for name, value in sorted(probes.items(), key=lambda item: item[1]))


def _is_row(row: object) -> bool:
    """Whether it maps `family/variant` to shares of 1."""
    return isinstance(row, dict) and all(
        "/" in name and isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1
        for name, value in row.items()
    )
