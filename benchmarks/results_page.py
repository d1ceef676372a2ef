"""docs/results.md out of the files that benchmarks/quality.py has written: python benchmarks/results_page.py.

Nothing on that page is typed by hand; a test fails where page and files disagree.
"""

from __future__ import annotations

import collections
import json
import math
from pathlib import Path
from typing import Any

from scipy import stats

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
SHOWN = ("norm", "norm_gain", "energy_raw", "max_logit_raw", "msp", "energy", "knn", "cosine", "mahalanobis", "polar")
MAGNITUDES = ("norm", "norm_gain", "energy_raw", "max_logit_raw")
PACKS = {
    "demo": "Hand signs (the embedded demo set)",
    "cifar10": "CIFAR-10",
    "tinyimagenet100": "Tiny-ImageNet, 100 classes",
}
Runs = dict[str, list[dict[str, Any]]]


def runs() -> Runs:
    """Every run by name, its seeds in order."""
    found: Runs = collections.defaultdict(list)
    for path in sorted(RESULTS.glob("quality-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["name"]].append(run)
    return {name: sorted(found[name], key=lambda run: run["seed"]) for name in sorted(found, key=_order)}


def _order(name: str) -> tuple[str, int]:
    """Plain training first, then the paper's, then other temperatures."""
    kind = next(kind for kind in ("plain", "l2-0.1", "l2-learned", "l2") if name.endswith(f"-{kind}"))
    return name.removesuffix(f"-{kind}"), ("plain", "l2", "l2-0.1", "l2-learned").index(kind)


def page(found: Runs) -> str:
    """The whole page."""
    parts = [HEAD]
    for pack, title in PACKS.items():
        own = {name: seeds for name, seeds in found.items() if seeds[0]["pack"] == pack}
        if own:
            parts += [f"## {title}", *_section(own)]
    return "\n\n".join(parts) + "\n"


HEAD = """# Results

What each recipe gives, as it came out, on the machine that each section names. AUROC in points: how well a score tells
test images of the known classes from images of other classes (near) and from other kinds of images (far), each the mean
over sets. Figures are the mean over seeds, and in brackets the smallest and the largest. Nothing here chose a recipe, a
seed or a score: recipes and seeds were written down first, and the score of a gate is chosen by probes made of its
tuning images.

`benchmarks/quality.py` trains and evaluates, and writes a file a run; `benchmarks/results_page.py` writes this page
from those files. *plain* is cross-entropy on raw features; *l2* is L2 normalisation of the features in training with
τ = 1, the paper's method; *l2-0.1* and *l2-learned* have another τ."""


def _section(own: Runs) -> list[str]:
    first = next(iter(own.values()))[0]
    held = sorted({run["held_out"] for seeds in own.values() for run in seeds})
    network = ", ".join(f"{key}={value}" for key, value in first["network"].items())
    recipe = first["recipe"]
    devices = sorted({run["device"] for seeds in own.values() for run in seeds})
    parts = [
        f"{network}; {recipe['epochs']} epochs, batch {recipe['batch_size']}, rate {recipe['learning_rate']:g}; "
        f"{first['images']['train']} training images, {held[0] if len(held) == 1 else held} held out of them for "
        f"tuning and calibration; {first['images']['test']} test images; {', '.join(devices)}."
    ]
    parts.append(
        _table(
            ["recipe", "seeds", "accuracy", "norm near", "norm far", "probes chose", "near", "far"],
            [
                [
                    name,
                    str(len(seeds)),
                    _spread([run["accuracy"] for run in seeds]),
                    _spread(_of(seeds, "norm", "mean near")),
                    _spread(_of(seeds, "norm", "mean far")),
                    ", ".join(dict.fromkeys(run["chosen"] for run in seeds)),
                    _spread([run["metrics"][run["chosen"]]["mean near"]["auroc"] for run in seeds]),
                    _spread([run["metrics"][run["chosen"]]["mean far"]["auroc"] for run in seeds]),
                ]
                for name, seeds in own.items()
            ],
        )
    )
    parts += _differences(own)
    for where in ("near", "far"):
        parts.append(f"Every recipe's scores, {where}:")
        parts.append(
            _table(
                ["recipe", *SHOWN],
                [
                    [name, *(_spread(_of(seeds, score, f"mean {where}")) for score in SHOWN)]
                    for name, seeds in own.items()
                ],
            )
        )
    parts.append("FPR95 of the norm and of the score that probes chose, under both meanings, near / far:")
    parts.append(
        _table(
            [
                "recipe",
                "norm: unknown accepted at 95 % of known",
                "norm: known flagged at 95 % of unknown",
                "chosen: the first",
                "the second",
            ],
            [
                [
                    name,
                    *(
                        _fpr(seeds, score, key)
                        for score in ("norm", None)
                        for key in ("fpr_at_id_tpr95", "fpr_at_ood_tpr95")
                    ),
                ]
                for name, seeds in own.items()
            ],
        )
    )
    parts.append(
        "What training did to features (NC1: spread within classes over that between them), and the floor of the loss:"
    )
    parts.append(
        _table(
            ["recipe", "NC1, directions", "NC1, raw", "variation of norms", "loss", "floor", "seconds"],
            [
                [
                    name,
                    *(
                        _plain([run["collapse"][key] for run in seeds])
                        for key in ("nc1_directions", "nc1_raw", "norm_variation", "loss", "floor")
                    ),
                    f"{_mean([run['seconds'] for run in seeds]):.0f}",
                ]
                for name, seeds in own.items()
            ],
        )
    )
    parts += _losses(own)
    commits = sorted({run["commit"] for seeds in own.values() for run in seeds})
    versions = sorted({f"torch {run['versions']['torch']}" for seeds in own.values() for run in seeds})
    parts.append(f"Commits {', '.join(commits)}; {', '.join(versions)}.")
    return parts


def _differences(own: Runs) -> list[str]:
    """L2 minus plain, seed by seed, with Student's 95 % interval over seeds."""
    plain = {name.removesuffix("-plain"): seeds for name, seeds in own.items() if name.endswith("-plain")}
    rows = []
    for name, seeds in own.items():
        base = next((prefix for prefix in plain if name.startswith(f"{prefix}-l2")), None)
        if base is None:
            continue
        pairs = {run["seed"]: run for run in plain[base]}
        both = [(run, pairs[run["seed"]]) for run in seeds if run["seed"] in pairs]
        rows.append(
            [
                name,
                str(len(both)),
                *(
                    _interval([_auroc(run, score, where) - _auroc(other, score, where) for run, other in both])
                    for score in ("norm", "energy_raw", "knn")
                    for where in ("mean near", "mean far")
                ),
            ]
        )
    head = ["recipe", "seeds", "norm near", "norm far", "energy_raw near", "energy_raw far", "knn near", "knn far"]
    return (
        ["Minus plain training, seed by seed, with a 95 % interval over seeds (Student's t):", _table(head, rows)]
        if rows
        else []
    )


def _losses(own: Runs) -> list[str]:
    """Where the norm of L2 training is not the best thing to have."""
    lines = []
    for name, seeds in own.items():
        if "-l2" not in name:
            continue
        base = own.get(name[: name.rindex("-l2")] + "-plain", [])
        for where in ("near", "far"):
            norm = _mean(_of(seeds, "norm", f"mean {where}"))
            rivals = {
                (label, score): _mean(_of(runs_, score, f"mean {where}"))
                for label, runs_ in ((name, seeds), ("plain", base))
                if runs_
                for score in runs_[0]["metrics"]
                if all(score in run["metrics"] for run in runs_)
            }
            (label, score), best = max(rivals.items(), key=lambda item: item[1])
            ahead = sum(value > norm for (label_, _), value in rivals.items() if label_ == "plain")
            if score != "norm":
                lines.append(
                    f"- {name}, {where}: the norm has {100 * norm:.1f}; {score} of {label} training has "
                    f"{100 * best:.1f}, the best of all"
                    + (f", and {ahead} scores of plain training are ahead of the norm." if base else ".")
                )
    return ["**Where the norm does not win:**", "\n".join(lines)] if lines else []


def _auroc(run: dict[str, Any], score: str, where: str) -> float:
    return float(run["metrics"][score][where]["auroc"])


def _of(seeds: list[dict[str, Any]], score: str, where: str) -> list[float]:
    return [_auroc(run, score, where) for run in seeds if score in run["metrics"]]


def _fpr(seeds: list[dict[str, Any]], score: str | None, key: str) -> str:
    means = [
        _mean([run["metrics"][score or run["chosen"]][f"mean {where}"][key] for run in seeds])
        for where in ("near", "far")
    ]
    return " / ".join(f"{100 * value:.1f}" for value in means)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * _mean(values):.1f} ({100 * min(values):.1f}–{100 * max(values):.1f})"


def _plain(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{_mean(known):.3g}" if known else "–"


def _interval(values: list[float]) -> str:
    mean = _mean(values)
    if len(values) < 2:
        return f"{100 * mean:+.1f}"
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return f"{100 * mean:+.1f} ({100 * (mean - reach):+.1f} to {100 * (mean + reach):+.1f})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(runs()), encoding="utf-8")
    print(PAGE)
