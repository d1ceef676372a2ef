"""What the texts of arguments and options mean."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from typing import TYPE_CHECKING, Any

from normgate.errors import NormgateError

if TYPE_CHECKING:
    from pathlib import Path

    from normgate.data.sources import Source
    from normgate.scores import Score


def opened_place(
    place: str,
    *,
    labelled: bool = False,
    image_column: str = "image",
    label_column: str = "label",
    group_column: str | None = None,
) -> Source:
    """Images at a place, with the columns of a Parquet file that hold them."""
    from normgate.data.sources import open_source

    return open_source(
        place,
        labelled=labelled,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
    )


def opened_held_out(
    place: str, *, image_column: str = "image", label_column: str = "label", group_column: str | None = None
) -> Source:
    """Tuning or calibration images at a place, with labels where a table has some."""
    from normgate.gate.sets import open_held_out

    return open_held_out(place, image_column=image_column, label_column=label_column, group_column=group_column)


def check_order(command: str, gate: Path, data: str) -> None:
    """Say so where the gate and the images have changed places.

    Raises:
        NormgateError: they have.
    """
    from normgate.runtime import is_exported

    def is_gate(place: str | Path) -> bool:
        file = place if command == "screen" and is_exported(place) else os.path.join(place, "gate.json")  # noqa: PTH118 (any text)
        return os.path.isfile(file)  # noqa: PTH113

    if is_gate(data) and not is_gate(gate):
        again = shlex.join(["normgate", command, data, str(gate)])
        raise NormgateError(f"{data} is a gate, and {gate} is none; the gate comes first: {again}")


def neighbours_of(report: Path | None, place: str | None, overwrite: bool, image_column: str) -> Source | None:
    """What `--report` and `--with-neighbours` ask for, looked at before anything that takes long."""
    if report is None:
        if place is not None:
            raise NormgateError("--with-neighbours shows training images in a report; say where with --report PAGE")
        return None
    from normgate.report import check_report

    check_report(report, overwrite=overwrite)
    return None if place is None else opened_place(place, image_column=image_column)


def named(option: str, texts: list[str] | None) -> list[tuple[str, str]]:
    """NAME and VALUE of a repeatable option NAME=VALUE."""
    pairs = [text.partition("=") for text in texts or []]
    for (name, equals, value), text in zip(pairs, texts or [], strict=True):
        if not (name and equals and value):
            wanted = "NAME=DATA, such as textures=photos/dtd" if option == "--ood" else "NAME=SET,SET"
            raise NormgateError(f"{option} wants {wanted}, not {text!r}")
    names = [name for name, _, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise NormgateError(f"{option} {repeated[0]}=… is given twice; give each its own name")
    return [(name, value) for name, _, value in pairs]


def set_names(group: str, text: str, sets: list[str]) -> list[str]:
    """The names of `--group NAME=SET,SET`."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise NormgateError(f"--group {group}={text} names a set without a name; write NAME=SET,SET")
    if (split := [name for name in sets if "," in name]) and not set(names) <= set(sets):
        raise NormgateError(f"--group is split at commas, so the set {split[0]!r} needs a name without one")
    return names


def temperature_of(text: str) -> Any:
    """τ of `--temperature`: a number, "learned", or None."""
    if text in ("none", "learned"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError as error:
        raise NormgateError(f"--temperature wants a number, 'learned' or 'none', not {text!r}") from error


def stem_of(text: str) -> Any:
    """What `Backbone` takes, of `--stem`."""
    stems = {"auto": "auto", "standard": None, "1": 1, "2": 2}
    if text not in stems:
        raise NormgateError(f"--stem wants one of {', '.join(stems)}, not {text!r}")
    return stems[text]


def score_of(text: str, *, own_name: bool = False) -> str | Score:
    """What `--score` says: a name, or a name and settings, `knn:k=5`.

    Args:
        text: the option's value.
        own_name: whether a score with settings is to be called what was written, so that there may be several.

    Raises:
        NormgateError: there are several, settings are not NAME=JSON, or the score does not take them.
    """
    name, colon, settings = text.partition(":")
    if "," in name:
        repeated = " ".join(f"--score {part}" for part in text.split(",") if part)
        raise NormgateError(f"--score takes one score{f'; repeat it: {repeated}' if own_name and repeated else ''}")
    if own_name and name == "auto":
        raise NormgateError(
            "probes choose a score in 'train' and 'calibrate' (--score auto); 'evaluate' compares those that it is "
            "given with the gate's own, and all of them without --score"
        )
    if not colon:
        return text
    if name == "auto":
        raise NormgateError("auto takes no settings: probes choose among the scores as they are (--score auto)")
    from normgate import scores

    score = scores.create(name, **json_arguments(settings.split(","), f"--score {name}:…", "knn:k=5"))
    return dataclasses.replace(score, name=text) if own_name else score


def json_arguments(pairs: list[str], option: str = "--model-arg", example: str = "layers=[1,1,1,1]") -> dict[str, Any]:
    """What the values of a repeatable option NAME=JSON say, by name."""
    arguments = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if name in arguments:
            raise NormgateError(f"{name} is set twice by {option}; leave one out")
        try:
            arguments[name] = json.loads(value)
        except ValueError as error:
            is_text = value.isidentifier() and value.lower() not in ("nan", "inf", "infinity", "none", "true", "false")
            text = f"; a text needs quotes: '{name}=\"{value}\"'" if is_text else ""
            raise NormgateError(f"{option} wants NAME=JSON, such as {example}, not {pair!r}{text}") from error
        if not (name and equals):
            raise NormgateError(f"{option} wants NAME=JSON, such as {example}, not {pair!r}")
    return arguments
