"""docs/results.md, and a table of README.md, out of what other benchmarks wrote: python benchmarks/results_page.py.

Nothing there is typed by hand; a test fails where page and files disagree.
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
SHOWN: tuple[str, ...] = ("norm", "norm_gain", "norm_profile", "energy_raw", "max_logit_raw")
SHOWN += ("msp", "energy", "knn", "cosine", "mahalanobis", "polar")
PACKS = {
    "demo": "Hand signs (the embedded demo set)",
    "cifar10": "CIFAR-10",
    "tinyimagenet100": "Tiny-ImageNet, 100 classes",
}
KINDS: tuple[str, ...] = ("plain", "l2", "l2-0.1", "l2-learned")
KINDS += ("patterns", "patterns-all", "patterns-rotations", "patterns-radial")
Runs = dict[str, list[dict[str, Any]]]
Variant = dict[str, Any]
Variants = dict[str, dict[str, Variant]]
Gains = dict[tuple[str, ...], float]
"""Differences from the paper's recipe, by the classes that were held out."""


def runs() -> Runs:
    """Every run by name, its seeds in order."""
    found: Runs = collections.defaultdict(list)
    for path in sorted(RESULTS.glob("quality-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["name"]].append(run)
    return {name: sorted(found[name], key=lambda run: run["seed"]) for name in sorted(found, key=_order)}


def _order(name: str) -> tuple[str, int, int]:
    """Plain training first, then the paper's, then others; runs of other lengths by their epochs."""
    kinds = "|".join(re.escape(kind) for kind in sorted(KINDS, key=len, reverse=True))
    matched = re.fullmatch(rf"(.+?)-({kinds})(?:-e(\d+))?", name)
    assert matched is not None, name
    base, kind, epochs = matched.groups()
    return base, KINDS.index(kind), int(epochs or 0)


def speeds() -> list[dict[str, Any]]:
    """What speed.py, and quality.py with --speed, have measured."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("speed-*.json"))]


def ablations() -> Variants:
    """Every variant by setting, and in a setting by name."""
    found: Variants = collections.defaultdict(dict)
    for path in sorted(RESULTS.glob("ablation-*.json")):
        variant = json.loads(path.read_text(encoding="utf-8"))
        found[variant["setting"]][variant["variant"]] = variant
    return dict(found)


def trials() -> dict[str, Any]:
    """Of the demo's epochs, batch and rate."""
    found: dict[str, Any] = json.loads((RESULTS / "held_out.json").read_text(encoding="utf-8"))
    return found


def operations() -> dict[str, dict[str, Any]]:
    """What screening.py, serving.py, kills.py and shift.py have measured."""
    names = ("screening", "serving", "kills", "shift")
    return {name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def page(
    found: Runs,
    variants: Variants,
    timed: list[dict[str, Any]],
    tried: dict[str, Any],
    measured: dict[str, dict[str, Any]],
) -> str:
    """The whole page."""
    parts = [HEAD, *_at_a_glance(found)]
    for pack, title in PACKS.items():
        own = {name: seeds for name, seeds in found.items() if seeds[0]["pack"] == pack}
        networks = {_network(seeds[0]): seeds[0]["network"] for seeds in own.values()}
        for network, values in networks.items():
            same = {name: seeds for name, seeds in own.items() if _network(seeds[0]) == network}
            width = f" of width {values['width']}" if "width" in values else ""
            parts += [f"## {title}" + (f": {values['model']}{width}" if len(networks) > 1 else ""), *_section(same)]
    parts += [*_speed(timed), *_ablations(variants), *_demo_recipe(tried)]
    parts += [*_screening(measured), *_shift(measured["shift"])]
    return "\n\n".join(parts) + "\n"


def _network(run: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in run["network"].items())


HEAD = """# Results

What each recipe gives, as it came out, on the machine that each section names. AUROC in points: how well a score tells
test images of the known classes from images of other classes (near) and from other kinds of images (far), each the mean
over sets. Figures are the mean over seeds, and in brackets the smallest and the largest. Nothing here chose a recipe, a
seed or a score: recipes and seeds were written down first, and the score of a gate is chosen by probes made of its
tuning images. One exception: polar was put together with some of these sets at hand ([the method](method.md)).

`benchmarks/quality.py` trains and evaluates, and writes a file a run; `benchmarks/results_page.py` writes this page
from those files. *plain* is cross-entropy on raw features; *l2* is L2 normalisation of the features in training with
τ = 1, the paper's method; *l2-0.1* and *l2-learned* have another τ. *patterns* is l2 with half of the images mixed with
generated patterns (*patterns-all*: all of them), *patterns-rotations* besides with a second task, to tell how far an
image was turned, and *patterns-radial* with a loss that wants probes to have small norms.

*Near* are, for CIFAR-10, CIFAR-100's test images and Tiny-ImageNet's validation images but those of classes that
overlap with CIFAR-10's; for 100 classes of Tiny-ImageNet the other 100; for the hand signs two other signs. *Far* are
MNIST, ten classes of Describable Textures, and Chars74K, characters from street views in the place of SVHN; for the
hand signs satellite tiles and pieces of waste. These are not OpenOOD's sets.

Where no image is held out of those for training, tuning and calibration images are a part of the test images, and no
figure is of them. The 32-pixel packs are JPEG copies (quality 75, chroma halved), known and unknown images alike, so
that no score can win by the codec. Accuracy is lower than on the original pixels, and figures compare with each other,
not with published ones."""


GLANCE = """## At a glance

The norm of plain training → the norm of the paper's recipe (l2), over the seeds that both have; *hindsight* is the best
of all scores of plain training for those very sets, which nobody could have chosen beforehand."""


def _at_a_glance(found: Runs) -> list[str]:
    rows = [[f"{said} (*{base}*)", *cells] for base, said, cells in _over_plain(found)]
    return [GLANCE, _table(["known images and network", *OVER_PLAIN], rows)] if rows else []


def summary(found: Runs) -> str:
    """For the README: what the paper's recipe gains on each kind of images."""
    rows = [[said, *cells] for _, said, cells in _over_plain(found)]
    return _table(["known images and network", *OVER_PLAIN], rows) + "\n"


def _described(run: dict[str, Any]) -> str:
    """Known images, network and epochs of a run."""
    network = run["network"]
    said = [f"{PACKS[run['pack']].partition(' (')[0]}: {network['model']}"]
    if "width" in network:
        said.append(f"width {network['width']}")
    if layers := network.get("model_args", {}).get("layers"):
        said.append(f"{'-'.join(map(str, layers))} blocks")
    return ", ".join([*said, f"{run['recipe']['epochs']} epochs"])


OVER_PLAIN = ["seeds", "accuracy", "norm, near", "hindsight, near", "norm, far", "hindsight, far"]


def _over_plain(found: Runs) -> list[tuple[str, str, list[str]]]:
    """Of networks that were trained with and without normalisation: name, what it is, and cells of `OVER_PLAIN`."""
    rows = []
    for name, seeds in found.items():
        if not name.endswith("-l2"):
            continue
        base = name.removesuffix("-l2")
        plain = {run["seed"]: run for run in found.get(f"{base}-plain", [])}
        both = [(run, plain[run["seed"]]) for run in seeds if run["seed"] in plain]
        if not both:
            continue
        cells = [f"{100 * _mean([run['accuracy'] for run in part]):.1f}" for part in zip(*both, strict=True)]
        row = [str(len(both)), " → ".join(reversed(cells))]
        for where in ("mean near", "mean far"):
            norms = [
                f"{100 * _mean([_auroc(run, 'norm', where) for run in part]):.1f}"
                if all("norm" in run["metrics"] for run in part)
                else "–"
                for part in zip(*both, strict=True)
            ]
            score, best = _best([other for _, other in both], where)
            row += [" → ".join(reversed(norms)), f"{score} {100 * best:.1f}"]
        rows.append((base, _described(seeds[0]), row))
    return rows


def _best(seeds: list[dict[str, Any]], where: str) -> tuple[str, float]:
    """The score that is best in the mean over seeds, and its AUROC."""
    mean = {
        score: _mean([_auroc(run, score, where) for run in seeds])
        for score in seeds[0]["metrics"]
        if all(score in run["metrics"] for run in seeds)
    }
    return max(mean.items(), key=lambda item: item[1])


def _section(everything: Runs) -> list[str]:
    own = {name: seeds for name, seeds in everything.items() if not _order(name)[2]}
    if not own:
        return _by_epochs(everything)
    first = next(iter(own.values()))[0]
    held = sorted({run["held_out"] for seeds in own.values() for run in seeds})
    recipe = first["recipe"]
    devices, precisions = (
        sorted({run[what] for seeds in own.values() for run in seeds}) for what in ("device", "precision")
    )
    parts = [
        f"{_network(first)}; {recipe['epochs']} epochs, batch {recipe['batch_size']}, "
        f"rate {recipe['learning_rate']:g}; {first['images']['train']} training images, "
        f"{held[0] if len(held) == 1 else f'{held[0]} to {held[-1]}'} held out of them for "
        f"tuning and calibration; {first['images']['test']} test images; {', '.join(precisions)}; "
        f"{', '.join(devices)}."
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
    parts += [*_differences(own), *_hindsight(own)]
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
                    _seconds(seeds),
                ]
                for name, seeds in own.items()
            ],
        )
    )
    parts += _by_epochs(everything)
    parts += _losses(own)
    commits = sorted({run["commit"] for seeds in own.values() for run in seeds})
    trained = sorted({str(run.get("trained_by", run["commit"])) for seeds in own.values() for run in seeds})
    versions = sorted({f"torch {run['versions']['torch']}" for seeds in own.values() for run in seeds})
    parts.append(f"Trained by {', '.join(trained)}, evaluated by {', '.join(commits)}; {', '.join(versions)}.")
    return parts


def _differences(own: Runs, said: str = "Minus plain training") -> list[str]:
    """Each recipe minus plain training of as many epochs, seed by seed, with Student's 95 % interval over seeds."""
    rows = []
    for name, seeds in own.items():
        base, _, epochs = _order(name)
        plain = f"{base}-plain" + (f"-e{epochs}" if epochs else "")
        if name == plain or plain not in own:
            continue
        pairs = {run["seed"]: run for run in own[plain]}
        both = [(run, pairs[run["seed"]]) for run in seeds if run["seed"] in pairs]
        if not both:
            continue
        rows.append(
            [
                name,
                str(len(both)),
                *(
                    _shown(
                        [
                            _auroc(run, score, where) - _auroc(other, score, where)
                            for run, other in both
                            if score in run["metrics"] and score in other["metrics"]
                        ]
                    )
                    for score in ("norm", "energy_raw", "knn")
                    for where in ("mean near", "mean far")
                ),
            ]
        )
    head = ["recipe", "seeds", "norm near", "norm far", "energy_raw near", "energy_raw far", "knn near", "knn far"]
    return [f"{said}, seed by seed, with a 95 % interval over seeds (Student's t):", _table(head, rows)] if rows else []


def _hindsight(own: Runs) -> list[str]:
    """What a gate gets, whose score is chosen by probes, beside the best that plain training has for these sets."""
    rows = []
    for name, seeds in own.items():
        plain = {run["seed"]: run for run in own.get(f"{_order(name)[0]}-plain", [])}
        both = [(run, plain[run["seed"]]) for run in seeds if run["seed"] in plain]
        if not both or both[0][0] is both[0][1]:
            continue
        cells = []
        for where in ("mean near", "mean far"):
            best, auroc = _best([other for _, other in both], where)
            gains = [_auroc(run, run["chosen"], where) - _auroc(other, best, where) for run, other in both]
            cells += [f"{best} {100 * auroc:.1f}", _shown(gains)]
        rows.append([name, str(len(both)), ", ".join(dict.fromkeys(run["chosen"] for run, _ in both)), *cells])
    head = ["recipe", "seeds", "chosen", "plain in hindsight, near", "difference"]
    head += ["plain in hindsight, far", "difference"]
    said = (
        "The score that probes choose, minus the score of plain training that is the best for these very sets, seed by "
        "seed:"
    )
    return [said, _table(head, rows)] if rows else []


def _by_epochs(everything: Runs) -> list[str]:
    """Runs of other lengths, each with a descent of its own, beside those of the usual one."""
    grouped = itertools.groupby(everything.items(), key=lambda item: _order(item[0])[:2])
    curves = [list(group) for _, group in grouped]
    runs = {
        name: seeds
        for curve in curves
        if any(_order(name)[2] for name, _ in curve)
        for name, seeds in sorted(curve, key=lambda item: item[1][0]["recipe"]["epochs"])
    }
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
            _seconds(seeds),
        ]
        for name, seeds in runs.items()
    ]
    head = ["recipe", "epochs", "seeds", "accuracy", "norm near", "norm far", "energy_raw near", "energy_raw far"]
    head += ["knn near", "knn far", "NC1, directions", "NC1, raw", "seconds"]
    if not rows:
        return []
    return [
        "How early it is there; each run has a descent of its own:",
        _table(head, rows),
        *_differences(runs, "Minus plain training of as many epochs"),
    ]


ABLATIONS = """## Which recipe makes it strongest

One change to the paper's recipe at a time, judged without any of the sets above: some known classes are held out in
turn, a network is trained on the others, and images of the held-out classes are its unknown ones (near). Far outliers
are probes made of tuning images, of families that no recipe is trained on. *Predicted* was written down before the run
(`benchmarks/ablation.py`, which says what was known by then): points that the near AUROC of the norm gains over the
paper's recipe. *Criterion* is the mean of near and of probes for the magnitude-based score (norm, norm_gain,
energy_raw, max_logit_raw) that the variant's own probes choose. Differences are from the paper's recipe, with a 95 %
interval over the groups of held-out classes: Student's t or, where groups overlap, the jackknife, which leaves out all
groups with a class, for each class in turn. The rule of choice is in `benchmarks/ablation.py`; it was written down
before the runs, too, but for one thing: when the four pairs of signs of *demo* had turned out too few, *demo-pairs*
took their place in the rule, which holds out every pair of signs, those four among them.

Known images of the hand signs are those that the gate is tuned and calibrated with, for want of others; no network was
trained on them. The paper's recipe has a head start there: epochs, batch and rate were chosen among
seven by the norm at τ = 1, with the same signs held out (`benchmarks/held_out.py`)."""


def _ablations(variants: Variants) -> list[str]:
    parts = [ABLATIONS] if variants else []
    for setting, own in variants.items():
        first = next(iter(own.values()))
        devices = sorted({variant["device"] for variant in own.values()})
        precisions = sorted({variant["precision"] for variant in own.values()})
        compiled = [name for name in own if own[name].get("compiled")]
        steps = f"; {', '.join(compiled)} compiled" if compiled else ""
        commits = sorted({variant["commit"] for variant in own.values()})
        names = sorted(own, key=lambda name: (name != "paper", -_mean(_criteria(own[name]))))
        groups = [", ".join(run["held"]) for run in first["runs"]]
        held = "; ".join(groups) if len(groups) < 10 else f"{len(groups)} groups, from {groups[0]} to {groups[-1]}"
        paper = own.get("paper")
        reference = (paper or first)["recipe"]
        parts += [
            f"### {setting}",
            f"{_network(first)}; {reference['epochs']} epochs, batch {reference['batch_size']}, rate "
            f"{reference['learning_rate']:g}; held out in turn: {held}; {', '.join(precisions)}{steps}; "
            f"{', '.join(devices)}.",
            _table(
                ["variant", "accuracy", "norm near", "predicted", "found", "norm, probes", "criterion", "difference"],
                [
                    [
                        name,
                        _spread([run["accuracy"] for run in own[name]["runs"]]),
                        _spread([run["near"]["norm"] for run in own[name]["runs"] if "norm" in run["near"]]),
                        "–" if name == "paper" else f"{own[name]['predicted']['near']:+.1f}",
                        _over_classes(_gains(own[name], paper, _near_norm)),
                        _spread(
                            [
                                _over_probes(own[name], run, "norm")
                                for run in own[name]["runs"]
                                if "norm" in run["probes"]
                            ]
                        ),
                        _spread(_criteria(own[name])),
                        _over_classes(_gains(own[name], paper, _criterion)),
                    ]
                    for name in names
                ],
            ),
            "The magnitude-based score that probes choose, and what a gate gets that takes the best of all scores:",
            _table(
                ["variant", "magnitude", "near", "probes", "best of all", "near", "probes", "seconds"],
                [
                    [
                        name,
                        *_chosen(own[name], "magnitude"),
                        *_chosen(own[name], "chosen"),
                        _seconds([own[name]]),
                    ]
                    for name in names
                ],
            ),
            f"Commits {', '.join(commits)}.",
        ]
    return [*parts, verdict(variants)] if variants else parts


TRIALS = """### Epochs, batch and rate of the demo

What was tried for the demo before all else, on the four pairs of *demo*: how well the norm at τ = 1 tells held-out
signs from the others. *Identities*: residual blocks begin as such, as timm has it by default. The largest AUROC
decides."""


def _demo_recipe(tried: dict[str, Any]) -> list[str]:
    rows = [
        [name, f"{100 * found['accuracy']:.1f}", _spread(list(found["auroc_by_pair"].values()))]
        for name, found in tried["recipes"].items()
    ]
    return [
        TRIALS,
        _table(["recipe", "accuracy", "norm near"], rows),
        f"{tried['device']}; commit {tried['commit']}.",
    ]


def _chosen(variant: Variant, key: str) -> list[str]:
    runs_ = variant["runs"]
    return [
        ", ".join(dict.fromkeys(run[key] for run in runs_)),
        _spread([run["near"][run[key]] for run in runs_]),
        _spread([_over_probes(variant, run, run[key]) for run in runs_]),
    ]


def _over_probes(variant: Variant, run: dict[str, Any], score: str) -> float:
    return _mean([run["probes"][score][family] for family in variant["judged_by"]])


def _criterion(variant: Variant, run: dict[str, Any]) -> float:
    return (float(run["near"][run["magnitude"]]) + _over_probes(variant, run, run["magnitude"])) / 2


def _criteria(variant: Variant) -> list[float]:
    return [_criterion(variant, run) for run in variant["runs"]]


def _gains(variant: Variant, paper: Variant | None, figure: Callable[[Variant, dict[str, Any]], float]) -> Gains:
    """Of a figure, each taken as its own variant takes it; of the paper's recipe itself, none."""
    if paper is None or variant is paper:
        return {}
    others = {tuple(run["held"]): run for run in paper["runs"]}
    pairs = {key: (run, others[key]) for run in variant["runs"] if (key := tuple(run["held"])) in others}
    gains = {held: figure(variant, run) - figure(paper, other) for held, (run, other) in pairs.items()}
    return {held: gain for held, gain in gains.items() if not math.isnan(gain)}


def _near_norm(_: Variant, run: dict[str, Any]) -> float:
    return float(run["near"].get("norm", math.nan))


def _above(gains: Gains) -> bool:
    """Whether the mean of the gains is above its interval's reach."""
    return _reach_over_classes(gains) < _mean(list(gains.values()))


def _over_classes(gains: Gains) -> str:
    values = list(gains.values())
    if len(values) < 2:
        return _shown(values)
    return _with_reach(_mean(values), _reach_over_classes(gains))


def _reach_over_classes(gains: Gains) -> float:
    """Half the width of a 95 % interval: Student's over groups of classes, or the jackknife's over classes.

    The jackknife (Tukey 1958) is for groups that overlap, as pairs do: leave out all groups that hold a class, for each
    class in turn; the variance of the mean is (n - 1)/n times the sum of squares of the n means about theirs.
    """
    classes = sorted({name for held in gains for name in held})
    if sum(map(len, gains)) == len(classes):
        return _reach(list(gains.values()))
    left = [[gain for held, gain in gains.items() if name not in held] for name in classes]
    if not all(left):
        return math.inf
    without = [_mean(values) for values in left]
    middle, count = _mean(without), len(classes)
    variance = (count - 1) / count * sum((mean - middle) ** 2 for mean in without)
    return float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance)


def _lost(variant: Variant, paper: Variant) -> float:
    """Points of accuracy."""
    return -100 * _mean(list(_gains(variant, paper, lambda _, run: float(run["accuracy"])).values()))


def _holds(variant: Variant, paper: Variant) -> bool:
    """Whether the rule would have this normalised variant as far as this setting goes."""
    gains = _gains(variant, paper, _criterion)
    normalised = variant["recipe"]["temperature"] is not None
    return normalised and bool(gains) and _above(gains) and _lost(variant, paper) <= 1


def _times_as_long(name: str, variants: Variants) -> list[float]:
    """As the paper's recipe, where both were measured in one way and with nothing beside them."""
    pairs = [(own[name], own["paper"]) for own in variants.values() if {name, "paper"} <= own.keys()]
    return [
        one["seconds"] / other["seconds"]
        for one, other in pairs
        if _shared(one) == _shared(other) == 1 and one.get("compiled") == other.get("compiled")
    ]


def verdict(variants: Variants) -> str:
    """What the rule in benchmarks/ablation.py says of what was run.

    All pairs of classes stand for some of them, and short training is no part of it.
    """
    everything = variants
    variants = {
        setting: own
        for setting, own in variants.items()
        if f"{setting}-pairs" not in variants and not setting.endswith("-short")
    }
    stays = "**The default recipe stays the paper's**: "
    if len({setting.partition("-")[0] for setting in variants}) < 2:
        said = f"{stays}the rule asks for runs on two data sets, and there are those of {', '.join(variants)}."
        beaten = [
            setting
            for setting, own in variants.items()
            if "paper" in own and len(own) > 1 and not any(_holds(own[name], own["paper"]) for name in own)
        ]
        if beaten:
            said += (
                f" In {', '.join(beaten)} no variant has a gain above its interval at a cost of at most a point of "
                "accuracy, as it would have to in every setting, so that none of these can become the default."
            )
        return said
    if missing := [setting for setting, own in variants.items() if "paper" not in own]:
        return f"{stays}it was not run in {', '.join(missing)} yet, so that nothing can be compared there."
    everywhere = set.intersection(*(set(own) for own in variants.values())) - {"paper"}
    gains = {
        name: {setting: _gains(own[name], own["paper"], _criterion) for setting, own in variants.items()}
        for name in sorted(everywhere)
        if all(own[name]["recipe"]["temperature"] is not None for own in variants.values())
    }
    gains = {name: by for name, by in gains.items() if all(by.values())}
    if not gains:
        return f"{stays}no other was run in every setting."
    mean = {name: _mean([_mean(list(each.values())) for each in by.values()]) for name, by in gains.items()}
    best = max(mean, key=mean.__getitem__)
    reasons = []
    for setting, own in variants.items():
        gained, lost = gains[best][setting], _lost(own[best], own["paper"])
        if not _above(gained):
            reasons.append(f"in {setting} its gain, {_over_classes(gained)}, is not above its interval")
        if lost > 1:
            reasons.append(f"in {setting} it costs {lost:.1f} points of accuracy")
    times = _times_as_long(best, everything)
    if not times:
        reasons.append("how long it takes was not measured with nothing beside it")
    elif max(times) > 1.5:
        if "epochs-double" not in mean:
            reasons.append("it takes longer, and epochs-double was not run in every setting")
        elif mean[best] <= mean["epochs-double"]:
            reasons.append("it takes longer, and twice the epochs gain as much")
    alone = "the only candidate, gains" if len(mean) == 1 else "gains most,"
    said = f"{best}{',' if len(mean) == 1 else ''} {alone} {100 * mean[best]:+.1f} in the mean over settings"
    if reasons:
        return f"{stays}{said}, but {'; '.join(reasons)}."
    return f"**By the rule {best} is the default recipe**: {said}."


SPEED = """## How fast training is

Where the seconds of one run on one machine of its own went: reading and decoding the images, compilation and first
kernels (*first*: what the first epoch takes beyond another), the epochs of the recipe at their steady rate (the median
epoch), what training does beside its epochs (the network is built and moved, checkpoints are copied), and calibration
with the choice of a score. *Floor* is the arithmetic of the forward and backward passes of all epochs at the rate of a
large matrix product on that machine, and *share* the floor over the steady epochs."""


def _speed(timed: list[dict[str, Any]]) -> list[str]:
    if not timed:
        return []
    head = ["run", "device", "epochs", "batch", "loading", "first", "epochs, steady", "beside"]
    head += ["calibrating", "all", "floor", "share", "images a second"]
    return [
        SPEED,
        _table(
            head,
            [
                [
                    run["name"] + (", compiled" if run["compiled"] else ""),
                    run["device"],
                    str(run["recipe"]["epochs"]),
                    str(run["recipe"]["batch_size"]),
                    f"{run['seconds']['loading']:.1f}",
                    f"{run['seconds']['first epoch beyond another']:.1f}",
                    f"{run['seconds']['epoch'] * run['recipe']['epochs']:.1f}",
                    f"{run['seconds']['training beside epochs']:.1f}",
                    f"{run['seconds']['calibrating']:.1f}",
                    f"{run['seconds']['all']:.1f}",
                    f"{run['floor_of_an_epoch'] * run['recipe']['epochs']:.1f}",
                    f"{100 * run['share_of_the_matrix_rate']:.0f} %",
                    f"{run['images_per_second']:.0f}",
                ]
                for run in timed
            ],
        ),
        f"Commits {', '.join(sorted({run['commit'] for run in timed}))}.",
    ]


SCREENING = """## How fast screening and serving are

Images a second out of one Parquet file, decoding included: `screen` with PyTorch and with ONNX Runtime, beside a bare
PyTorch loop of decoding, transforms and network, with networks that nobody has trained. All take turns in one run;
these are the medians of the turns, and of each turn's ratio to the bare loop, in brackets the smallest and the largest
(`benchmarks/screening.py`)."""
SERVING = """The server, asked over HTTP by clients on the same cores, beside its runtime alone on the same images; the
ResNet18 is at 224 pixels (`benchmarks/serving.py`):"""


def _screening(measured: dict[str, dict[str, Any]]) -> list[str]:
    screening, serving, kills = (measured[name] for name in ("screening", "serving", "kills"))
    rows = [
        [
            name,
            *(f"{found['images_per_second'][how]:.0f}" for how in ("bare", "torch", "onnx")),
            *(
                f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
                for ratio in (found["ratio"][how] for how in ("torch", "onnx"))
            ),
        ]
        for name, found in screening["networks"].items()
    ]
    asked = [
        [
            {"demo": "the demo's", "resnet18": "ResNet18"}[name],
            size,
            f"{found['images_per_second']:.0f}",
            f"{found['offline_images_per_second']:.0f}",
        ]
        for name in ("demo", "resnet18")
        for size, found in serving[name]["throughput"].items()
    ]
    latency = [
        f"At {found['requests_per_second']:.0f} requests a second of an image each, {said} gate answers half of them "
        f"within {1000 * found['p50_seconds']:.0f} ms, and 99 of 100 within {1000 * found['p99_seconds']:.0f} ms"
        + (f" ({found['not_200']} of {found['requests']} had another answer)." if found["not_200"] else ".")
        for said, found in (
            ("the demo's", serving["demo"]["latency"]),
            ("the ResNet18's", serving["resnet18"]["latency"]),
        )
    ]
    lost = kills["lost"] + kills["doubled"] + kills["foreign"]
    return [
        SCREENING,
        _table(["network", "a bare loop", "PyTorch", "ONNX Runtime", "PyTorch ÷ bare", "ONNX Runtime ÷ bare"], rows),
        f"{screening['device']}; commit {screening['commit']}.",
        SERVING,
        _table(["gate", "images", "served", "runtime alone"], asked),
        " ".join(latency),
        f"{serving['device']}; commit {serving['commit']}.",
        f"A run over {kills['images']} images was killed {kills['kills']} times (`kill -9`) and begun again as often. "
        f"Rows that were lost, doubled or of another image: {lost} (`benchmarks/kills.py`; commit {kills['commit']}).",
    ]


SHIFT = """## How soon a shift is noticed

Images of a CIFAR-10 stream until the alarm, after unknown images have begun to be mixed in: median over the orders in
which it was raised, and in brackets how many these are, where it stayed quiet in others. All are of one gate, whose
score the alarm sees (`benchmarks/shift.py`)."""


def _shift(found: dict[str, Any]) -> list[str]:
    delays: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for key, delay in found["delays"].items():
        name, share, after = key.split(", ")
        number = "–" if delay["median_delay"] is None else f"{delay['median_delay']:.0f}"
        always = delay["raised"] == delay["orders"]
        cell = number if always else f"{number} ({delay['raised']} of {delay['orders']})"
        delays[name][f"{float(share):.0%} from image {after.removeprefix('after ')} on"] = cell
    head = list(next(iter(delays.values())))
    false = found["false_alarms"]
    raised = "; ".join(
        f"{own['raised']} of {false['streams']} with {images} calibration scores"
        for images, own in false["by_calibration_images"].items()
    )
    return [
        SHIFT,
        _table(["unknown images", *head], [[name, *(own[column] for column in head)] for name, own in delays.items()]),
        f"Score {found['score']}, δ = {found['delta']:g}; {found['device']}; commit {found['commit']}. Of made-up "
        f"streams of {false['length']} scores, which have ties and heavy tails and do not change, these raised it at "
        f"δ = {false['delta']:g}: {raised}.",
    ]


def _losses(own: Runs) -> list[str]:
    """Where the norm of normalised training is not the best thing to have."""
    lines = []
    for name, seeds in own.items():
        if name == f"{_order(name)[0]}-plain":
            continue
        base = own.get(f"{_order(name)[0]}-plain", [])
        for where in ("near", "far") if all("norm" in run["metrics"] for run in seeds) else ():
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
                    + (f", and of plain training {_scores(ahead)} ahead of the norm." if base else ".")
                )
    return ["**Where the norm does not win:**", "\n".join(lines)] if lines else []


def _scores(count: int) -> str:
    return "no score is" if count == 0 else "one score is" if count == 1 else f"{count} scores are"


def _auroc(run: dict[str, Any], score: str, where: str) -> float:
    return float(run["metrics"][score][where]["auroc"])


def _of(seeds: list[dict[str, Any]], score: str, where: str) -> list[float]:
    return [_auroc(run, score, where) for run in seeds if score in run["metrics"]]


def _fpr(seeds: list[dict[str, Any]], score: str | None, key: str) -> str:
    if score is not None and any(score not in run["metrics"] for run in seeds):
        return "–"
    means = [
        _mean([run["metrics"][score or run["chosen"]][f"mean {where}"][key] for run in seeds])
        for where in ("near", "far")
    ]
    return " / ".join(f"{100 * value:.1f}" for value in means)


def _seconds(seeds: list[dict[str, Any]]) -> str:
    """Of training; of runs that shared their machine they would say little."""
    own = [run["seconds"] for run in seeds if _shared(run) == 1]
    return f"{_mean(own):.0f}" if own else "–"


def _shared(run: dict[str, Any]) -> int:
    return int(run.get("at_once", 1))


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
    if len(values) < 2:
        return f"{100 * _mean(values):+.1f}"
    return _with_reach(_mean(values), _reach(values))


def _with_reach(mean: float, reach: float) -> str:
    return f"{100 * mean:+.1f} ({100 * (mean - reach):+.1f} to {100 * (mean + reach):+.1f})"


def _reach(values: list[float]) -> float:
    """Half the width of Student's 95 % interval; that of a single value has no end."""
    if len(values) < 2:
        return math.inf
    mean = _mean(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * spread


def _shown(values: list[float]) -> str:
    return _interval(values) if values else "–"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    import readme

    PAGE.write_text(page(runs(), ablations(), speeds(), trials(), operations()), encoding="utf-8")
    readme.put("results_page.py", summary(runs()))
    print(PAGE)
