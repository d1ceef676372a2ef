"""Names of sets of images and of scores, and groups of sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from normgate.evaluation.image_tables import IMAGE_COLUMNS
from normgate.evaluation.results import EvaluationError
from normgate.evaluation.words import mean_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def check_names(sets: Iterable[str]) -> None:
    """Refuse names of OoD sets that are none, and that of the known images.

    Raises:
        EvaluationError: says which.
    """
    for name in sets:
        if not isinstance(name, str) or not name:
            raise EvaluationError(f"{name!r} is no name of a set; call it something")
        if name == "id":
            raise EvaluationError("'id' is the name of the known test images; call that OoD set something else")


def check_score_name(name: object) -> None:
    """Refuse what is no name of a score, or that of another column in a table of images.

    Raises:
        EvaluationError: as said.
    """
    if not isinstance(name, str) or not name or name in IMAGE_COLUMNS:
        raise EvaluationError(
            f'{name!r} is no name for a score; give it another, such as dataclasses.replace(score, name="my_score")'
        )


def checked_groups(groups: Mapping[str, Iterable[str]] | None, sets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The OoD sets of each group; by default one group, `mean`, of all.

    Raises:
        EvaluationError: a group names no set, or is called as a set is.
    """
    if groups is None:
        groups = {"mean": tuple(sets)} if sets else {}
    if not isinstance(groups, Mapping):
        raise EvaluationError(f"groups= names its sets, as in {{'far': ['digits']}}, and is no {type(groups).__name__}")
    if taken := [mean_name(group) for group in groups if mean_name(group) in sets]:
        raise EvaluationError(f"{taken[0]!r} is the name of a mean over sets; call that OoD set something else")
    try:
        found = {group: () if isinstance(own, str) else tuple(dict.fromkeys(own)) for group, own in groups.items()}
    except TypeError as error:
        raise EvaluationError(f"groups= names the sets of each, as in {{'far': ['digits']}}: {error}") from error
    for group, names in found.items():
        unknown = [name for name in names if name not in sets]
        if unknown or not names:
            said = ", ".join(map(str, unknown)) or "no set"
            raise EvaluationError(f"the group {group!r} names {said}; a group is a list of: {', '.join(sets)}")
    return found
