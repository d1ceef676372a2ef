"""The parts of README.md that benchmarks write."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
_END = "<!-- end -->"


def put(script: str, text: str) -> None:
    """Replace what this script wrote last, between its two comments."""
    before, _, after = _parts(script)
    README.write_text(before + text + after, encoding="utf-8")


def written(script: str) -> str:
    """What this script wrote last."""
    return _parts(script)[1]


def _parts(script: str) -> tuple[str, str, str]:
    begin = f"<!-- begin: written by benchmarks/{script} -->\n"
    before, begun, rest = README.read_text(encoding="utf-8").partition(begin)
    own, ended, after = rest.partition(_END)
    if not (begun and ended):
        raise ValueError(f"README.md has no place for {script}: {begin.strip()} … {_END}")
    return before + begun, own, ended + after
