"""What the package says that it needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNTESTED = {"gcsfs"}
"""It wants a bucket."""


def test_every_bound_is_a_version_that_is_tested() -> None:
    """`make test-oldest` runs the tests with these; an oldest version that nothing runs with is a guess."""
    extras = PROJECT["optional-dependencies"]
    needed = [
        *PROJECT["dependencies"],
        *(line for name in extras if name not in ("dev", "docs") for line in extras[name]),
    ]
    bounds = {}
    for line in needed:
        matched = re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+)(?:;.*)?", line)
        assert matched is not None, line
        bounds[matched[1]] = matched[2]
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tested.keys() == bounds.keys() - UNTESTED
    assert list(tested) == sorted(tested)

    def version(text: str) -> tuple[int, ...]:
        parts = tuple(map(int, text.split(".")))
        return parts + (0,) * (3 - len(parts))

    assert {name: version(text) for name, text in tested.items()} == {name: version(bounds[name]) for name in tested}
