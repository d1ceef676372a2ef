"""docs/results.md out of the files that benchmarks/quality.py has written: python benchmarks/results_page.py.

Nothing on that page is typed by hand; a test fails where page and files disagree.
"""

from __future__ import annotations

import collections
import itertools
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
MAGNITUDES = ("norm", "norm_gain", "norm_profile", "energy_raw", "max_logit_raw")
SHOWN = (*MAGNITUDES, "msp", "energy", "knn", "cosine", "mahalanobis", "polar")
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


def _order(name: str) -> tuple[str, int, int]:
    """Plain training first, then the paper's, then other temperatures; runs of other lengths by their epochs."""
    matched = re.fullmatch(r"(.+?)-(plain|l2-0\.1|l2-learned|l2)(?:-e(\d+))?", name)
    assert matched is not None, name
    base, kind, epochs = matched.groups()
    return base, ("plain", "l2", "l2-0.1", "l2-learned").index(kind), int(epochs or 0)


def ablations() -> dict[str, dict[str, dict[str, Any]]]:
    """Every variant by setting, and in a setting by name."""
    found: dict[str, dict[str, dict[str, Any]]] = collections.defaultdict(dict)
    for path in sorted(RESULTS.glob("ablation-*.json")):
        variant = json.loads(path.read_text(encoding="utf-8"))
        found[variant["setting"]][variant["variant"]] = variant
    return dict(found)


def page(found: Runs, variants: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The whole page."""
    parts = [HEAD]
    for pack, title in PACKS.items():
        own = {name: seeds for name, seeds in found.items() if seeds[0]["pack"] == pack}
        networks = {_network(seeds[0]): None for seeds in own.values()}
        for network in networks:
            same = {name: seeds for name, seeds in own.items() if _network(seeds[0]) == network}
            parts += [f"## {title}" + (f": {network}" if len(networks) > 1 else ""), *_section(same)]
    parts += _ablations(variants)
    return "\n\n".join(parts) + "\n"


def _network(run: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in run["network"].items())


HEAD = """# Results

What each recipe gives, as it came out, on the machine that each section names. AUROC in points: how well a score tells
test images of the known classes from images of other classes (near) and from other kinds of images (far), each the mean
over sets. Figures are the mean over seeds, and in brackets the smallest and the largest. Nothing here chose a recipe, a
seed or a score: recipes and seeds were written down first, and the score of a gate is chosen by probes made of its
tuning images.

`benchmarks/quality.py` trains and evaluates, and writes a file a run; `benchmarks/results_page.py` writes this page
from those files. *plain* is cross-entropy on raw features; *l2* is L2 normalisation of the features in training with
τ = 1, the paper's method; *l2-0.1* and *l2-learned* have another τ."""


def _section(everything: Runs) -> list[str]:
    own = {name: seeds for name, seeds in everything.items() if not _order(name)[2]}
    if not own:
        return _by_epochs(everything)
    first = next(iter(own.values()))[0]
    held = sorted({run["held_out"] for seeds in own.values() for run in seeds})
    recipe = first["recipe"]
    devices = sorted({run["device"] for seeds in own.values() for run in seeds})
    parts = [
        f"{_network(first)}; {recipe['epochs']} epochs, batch {recipe['batch_size']}, "
        f"rate {recipe['learning_rate']:g}; {first['images']['train']} training images, "
        f"{held[0] if len(held) == 1 else held} held out of them for "
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
    parts += _by_epochs(everything)
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


def _by_epochs(everything: Runs) -> list[str]:
    """Runs of other lengths, each with a descent of its own, beside those of the usual one."""
    curves = [
        curve
        for _, group in itertools.groupby(everything.items(), key=lambda item: _order(item[0])[:2])
        if len(curve := list(group)) > 1
    ]
    rows = [
        [
            name,
            str(seeds[0]["recipe"]["epochs"]),
            str(len(seeds)),
            _spread([run["accuracy"] for run in seeds]),
            *(
                _spread(_of(seeds, score, f"mean {where}"))
                for score in ("norm", "energy_raw", "knn")
                for where in ("near", "far")
            ),
            *(_plain([run["collapse"][key] for run in seeds]) for key in ("nc1_directions", "nc1_raw")),
            f"{_mean([run['seconds'] for run in seeds]):.0f}",
        ]
        for curve in curves
        for name, seeds in sorted(curve, key=lambda item: item[1][0]["recipe"]["epochs"])
    ]
    head = ["recipe", "epochs", "seeds", "accuracy", "norm near", "norm far", "energy_raw near", "energy_raw far"]
    head += ["knn near", "knn far", "NC1, directions", "NC1, raw", "seconds"]
    return ["How early it is there; each run has a descent of its own:", _table(head, rows)] if rows else []


ABLATIONS = """## Which recipe makes it strongest

One change to the paper's recipe at a time, judged without any of the sets above: some known classes are held out in
turn, a network is trained on the others, and images of the held-out classes are its unknown ones (near). Far outliers
are probes made of tuning images, of families that no recipe is trained on. *Predicted* was written down before the runs
(`benchmarks/ablation.py`): points that the near AUROC of the norm gains over the paper's recipe. *Criterion* is the
mean of near and of probes for the magnitude-based score (norm, norm_gain, norm_profile, energy_raw, max_logit_raw) that
the variant's own probes choose. Differences are from the paper's recipe, with a 95 % interval over the held-out classes
(Student's t). The rule of choice is in `benchmarks/ablation.py`; it was written down before the runs, too."""


def _ablations(variants: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    parts = [ABLATIONS] if variants else []
    for setting, own in variants.items():
        paper = own["paper"]
        base = paper["recipe"]
        names = sorted(own, key=lambda name: (name != "paper", -_mean(_criteria(own[name]))))
        devices = sorted({variant["device"] for variant in own.values()})
        commits = sorted({variant["commit"] for variant in own.values()})
        parts += [
            f"### {setting}",
            f"{_network(paper)}; {base['epochs']} epochs, batch {base['batch_size']}, rate {base['learning_rate']:g}; "
            f"held out in turn: {'; '.join(', '.join(run['held']) for run in paper['runs'])}; {', '.join(devices)}.",
            _table(
                ["variant", "accuracy", "norm near", "predicted", "found", "norm, probes", "criterion", "difference"],
                [
                    [
                        name,
                        _spread([run["accuracy"] for run in own[name]["runs"]]),
                        _spread([run["near"]["norm"] for run in own[name]["runs"]]),
                        "–" if name == "paper" else f"{own[name]['predicted']['near']:+.1f}",
                        "–" if name == "paper" else _gain(own[name], paper, lambda run: float(run["near"]["norm"])),
                        _spread([run["probes"]["norm"] for run in own[name]["runs"]]),
                        _spread(_criteria(own[name])),
                        "–" if name == "paper" else _gain(own[name], paper, _criterion),
                    ]
                    for name in names
                ],
            ),
            "What a gate gets that takes the best score of all, as its own probes choose:",
            _table(
                ["variant", "probes chose", "near", "probes", "seconds"],
                [
                    [
                        name,
                        ", ".join(dict.fromkeys(run["chosen"] for run in own[name]["runs"])),
                        _spread([run["near"][run["chosen"]] for run in own[name]["runs"]]),
                        _spread([run["probes"][run["chosen"]] for run in own[name]["runs"]]),
                        f"{own[name]['seconds']:.0f}",
                    ]
                    for name in names
                ],
            ),
            f"Commits {', '.join(commits)}.",
        ]
    return parts


def _criterion(run: dict[str, Any]) -> float:
    return float(run["near"][run["magnitude"]] + run["probes"][run["magnitude"]]) / 2


def _criteria(variant: dict[str, Any]) -> list[float]:
    return [_criterion(run) for run in variant["runs"]]


def _gain(variant: dict[str, Any], paper: dict[str, Any], figure: Callable[[dict[str, Any]], float]) -> str:
    """Differences with the same classes held out."""
    pairs = zip(variant["runs"], paper["runs"], strict=True)
    return _interval([figure(run) - figure(other) for run, other in pairs])


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
    PAGE.write_text(page(runs(), ablations()), encoding="utf-8")
    print(PAGE)
