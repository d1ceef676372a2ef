"""Whether the images of an evaluation are new ones: found by decoded content, whatever files they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_KNOWN = ("train", "tuning", "calibration", "id")
_ITSELF = "itself"


def shared_images(
    seen: Mapping[str, Sequence[bytes]], sets: Mapping[str, Sequence[bytes]]
) -> dict[str, dict[str, int]]:
    """For each evaluated set, how many of its images are in other sets, by the name of these; only what there is.

    Under `itself`: how many are copies of another image of the set.

    Args:
        seen: fingerprints of train, tuning and calibration images.
        sets: fingerprints of the evaluated images; the known ones are `id`, with which unknown ones are compared, as
            they are with the unknown sets before them; `train (OoD)` is one that is called as known images are.
    """
    found: dict[str, dict[str, int]] = {}
    before: dict[str, Sequence[bytes]] = {}
    for name, own in sets.items():
        others = {**before, **seen, **({} if name == "id" else {"id": sets.get("id", ())})}
        counts = {other: sum(map(set(theirs).__contains__, own)) for other, theirs in others.items()}
        counts[_ITSELF] = len(own) - len(set(own))
        if any(counts.values()):
            found[name] = {other: count for other, count in counts.items() if count}
        if name != "id":
            before[f"{name} (OoD)" if name in (*_KNOWN, _ITSELF) else name] = own
    return found


def shared_lines(shared: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The same in words, a line a set and reason."""
    lines = []
    for name, others in shared.items():
        counts = [f"{count} are {other} images" for other, count in others.items() if other in _KNOWN]
        if counts:
            lines.append(
                f"{name}: {' and '.join(counts)}, too; figures of them say nothing of new images: take them out"
            )
        if copies := others.get(_ITSELF):
            lines.append(
                f"{name}: {copies} are copies of other images of the set, which its interval takes for images of their "
                "own: leave each in once"
            )
        apart = (*_KNOWN, _ITSELF)
        counts = [f"{count} are {other} images" for other, count in others.items() if other not in apart]
        if counts:
            lines.append(
                f"{name}: {' and '.join(counts)}, too; a mean of such sets counts them twice, and its interval takes "
                "them for other images: leave them in one set"
            )
    return lines
