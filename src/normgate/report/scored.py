"""Sets of images with what a gate says of them: what a report is about."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from normgate.evaluation import Evaluation, SeedSummary
from normgate.gate import Gate
from normgate.report.errors import ReportError
from normgate.screening.tables import SCHEMA, read_tables
from normgate.verdicts import Verdicts

if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Literal


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredSet:
    """The readable images of one set.

    Attributes:
        name: of the set.
        kind: known images of the gate's classes, unknown images, or images that were screened and may be either.
        verdicts: of N images.
        true: N names of classes, where the images have labels.
        errors: (id, message) of images that could not be read, the first of them where there are many.
        unreadable: how many could not be read.
        digests: N fingerprints of the images, where these are known.
    """

    name: str
    kind: Literal["known", "unknown", "screened"]
    verdicts: Verdicts
    true: tuple[str, ...] | None = None
    errors: tuple[tuple[str, str], ...] = ()
    unreadable: int = 0
    digests: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.verdicts)


FIRST_ERRORS = 20


def of_evaluation(gate: Gate, evaluation: Evaluation) -> list[ScoredSet]:
    """The sets of an evaluation, the known images first.

    Raises:
        ReportError: that is no gate or no single evaluation, or the evaluation is of another gate or has kept no
            features.
    """
    if not isinstance(evaluation, Evaluation):
        how = "; draw each of its evaluations beside its own gate" if isinstance(evaluation, SeedSummary) else ""
        raise ReportError(f"a report and figures are of one Evaluation, and not of a {type(evaluation).__name__}{how}")
    if not isinstance(gate, Gate):
        how = "; Gate.calibrate makes a gate of a bare network: evaluate that"
        if isinstance(gate, str | Path):
            how = f": normgate.Gate.load({str(gate)!r})"
        raise ReportError(f"a report and figures need the gate that was evaluated, and not {type(gate).__name__}{how}")
    if evaluation.gate_score != gate.score.name:
        raise ReportError("this is the evaluation of another gate, or of a network without one")
    if evaluation.features is None:
        raise ReportError("a report needs the features of the evaluation; pass keep_features=True to evaluate")
    sets = []
    known = unlike("known images", evaluation.features)
    for name, features in evaluation.features.items():
        errors = [(image, message) for where, image, message in evaluation.errors if where == name]
        sets.append(
            ScoredSet(
                name=known if name == "id" else name,
                kind="known" if name == "id" else "unknown",
                verdicts=gate.judge(features, evaluation.values[gate.score.name][name]),
                true=None if features.labels is None else tuple(gate.classes[i] for i in features.labels.tolist()),
                errors=tuple(errors[:FIRST_ERRORS]),
                unreadable=len(errors),
                digests=features.digests,
            )
        )
    return sets


def unlike(name: str, taken: Container[str]) -> str:
    """A name of ours that no set of a user's has."""
    while name in taken:
        name += "*"
    return name


def of_table(path: Path) -> ScoredSet:
    """The images of a table of verdicts, a file or a folder of parts.

    Raises:
        ReportError: it is no such table.
    """
    try:
        parts = [part.select(SCHEMA.names).cast(SCHEMA) for part in read_tables(path)]
    except (KeyError, pa.ArrowException) as error:
        raise ReportError(f"{path} is no table of verdicts, as 'normgate screen' writes it: {error}") from error
    table = pa.concat_tables([SCHEMA.empty_table(), *parts])
    readable = table.filter(table["error"].is_null())
    failed = table.filter(table["error"].is_valid())
    columns = {name: readable[name].to_pylist() for name in ("id", "label", "error")}
    numbers = {name: readable[name].to_numpy() for name in ("probability", "score", "p_value")}
    accepted = np.asarray(readable["accepted"].to_pylist(), dtype=bool)
    first = failed.slice(0, FIRST_ERRORS)
    return ScoredSet(
        name="screened images",
        kind="screened",
        verdicts=Verdicts(**columns, **numbers, accepted=accepted),
        errors=tuple(zip(first["id"].to_pylist(), first["error"].to_pylist(), strict=True)),
        unreadable=len(failed),
    )
