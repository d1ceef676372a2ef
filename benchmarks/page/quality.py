"""What recipes are worth: a glance at all of them, and a section for each kind of network on each pack."""

from __future__ import annotations

import itertools

from page.cells import counted, interval, known, mean, plain, points, spread, table
from page.runs import PACKS, Run, Runs, auroc, beside_plain, best, means, network, of, order, plain_of, seconds

SHOWN: tuple[str, ...] = ("norm", "norm_gain", "norm_profile", "energy_raw", "max_logit_raw")
SHOWN += ("msp", "energy", "knn", "cosine", "mahalanobis", "polar")
"""Scores by epochs."""
SIDES = ("near", "far")
GLANCE = """## At a glance

The norm of plain training → the norm of the paper's recipe (l2), over the seeds that both have; *hindsight* is the best
of all scores of plain training for those very sets, which nobody could have chosen beforehand."""
OVER_PLAIN = ["seeds", "accuracy", "norm, near", "hindsight, near", "norm, far", "hindsight, far"]


def at_a_glance(found: Runs) -> list[str]:
    """What the paper's recipe gains on each kind of images."""
    rows = [[f"{said} (*{base}*)", *cells] for base, said, cells in _over_plain(found)]
    return [GLANCE, table(["known images and network", *OVER_PLAIN], rows)] if rows else []


def summary(found: Runs) -> str:
    """The same for the README."""
    rows = [[said, *cells] for _, said, cells in _over_plain(found)]
    return table(["known images and network", *OVER_PLAIN], rows) + "\n"


def _over_plain(found: Runs) -> list[tuple[str, str, list[str]]]:
    """Of networks that were trained with and without normalisation: name, what it is, and cells of `OVER_PLAIN`."""
    rows = []
    for name, seeds in found.items():
        both = beside_plain(name, found)
        if not name.endswith("-l2") or not both:
            continue
        own, others = ([pair[part] for pair in both] for part in (0, 1))
        row = [str(len(both)), " → ".join(points(mean([run["accuracy"] for run in part])) for part in (others, own))]
        for where in ("mean near", "mean far"):
            norms = [
                points(mean(of(part, "norm", where))) if all("norm" in run["metrics"] for run in part) else "–"
                for part in (others, own)
            ]
            score, value = best(others, where)
            row += [" → ".join(norms), f"{score} {points(value)}"]
        rows.append((name.removesuffix("-l2"), _described(seeds[0]), row))
    return rows


def _described(run: Run) -> str:
    """Known images, network and epochs of a run."""
    own = run["network"]
    said = [f"{PACKS[run['pack']].partition(' (')[0]}: {own['model']}"]
    if "width" in own:
        said.append(f"width {own['width']}")
    if layers := own.get("model_args", {}).get("layers"):
        said.append(f"{'-'.join(map(str, layers))} blocks")
    return ", ".join([*said, f"{run['recipe']['epochs']} epochs"])


def sections(found: Runs) -> list[str]:
    """One for each network on each pack."""
    parts = []
    for pack, title in PACKS.items():
        own = {name: seeds for name, seeds in found.items() if seeds[0]["pack"] == pack}
        networks = {network(seeds[0]): seeds[0]["network"] for seeds in own.values()}
        for said, values in networks.items():
            same = {name: seeds for name, seeds in own.items() if network(seeds[0]) == said}
            width = f" of width {values['width']}" if "width" in values else ""
            parts += [f"## {title}" + (f": {values['model']}{width}" if len(networks) > 1 else ""), *section(same)]
    return parts


def section(everything: Runs) -> list[str]:
    """Everything that was measured of one network on one pack."""
    own = {name: seeds for name, seeds in everything.items() if not order(name)[2]}
    if not own:
        return by_epochs(everything)
    return [
        _setting(own),
        *_recipes(own),
        *differences(own),
        *hindsight(own),
        *losses(everything),
        *_scores(own),
        *_sets(own),
        *_features(own),
        *by_epochs(everything),
        _commits(everything),
    ]


def _setting(own: Runs) -> str:
    first = next(iter(own.values()))[0]
    everything = [run for seeds in own.values() for run in seeds]
    held = sorted({run["held_out"] for run in everything})
    recipe, devices = first["recipe"], sorted({run["device"] for run in everything})
    by_precision = {
        precision: sorted({run["seed"] for run in everything if run["precision"] == precision})
        for precision in sorted({run["precision"] for run in everything})
    }
    precisions = [
        precision + (f" (seeds {', '.join(map(str, seeds))})" if len(by_precision) > 1 else "")
        for precision, seeds in by_precision.items()
    ]
    return (
        f"{network(first)}; {recipe['epochs']} epochs, batch {recipe['batch_size']}, "
        f"rate {recipe['learning_rate']:g}; {first['images']['train']} training images, "
        f"{held[0] if len(held) == 1 else f'{held[0]} to {held[-1]}'} held out of them for "
        f"tuning and calibration; {first['images']['test']} test images; {', '.join(precisions)}; {', '.join(devices)}."
    )


def _recipes(own: Runs) -> list[str]:
    """Accuracy, the norm, and the scores that probes choose."""
    rows = []
    for name, seeds in own.items():
        told = [run for run in seeds if run.get("magnitude")]  # older files do not say
        rows.append(
            [
                name,
                str(len(seeds)),
                spread([run["accuracy"] for run in seeds]),
                *(spread(of(seeds, "norm", f"mean {side}")) for side in SIDES),
                (counted(run["magnitude"] for run in told) or "–")
                + (f" (of {len(told)} of {len(seeds)} seeds)" if 0 < len(told) < len(seeds) else ""),
                *(spread([auroc(run, run["magnitude"], f"mean {side}") for run in told]) for side in SIDES),
                counted(run["chosen"] for run in seeds),
                *(spread([auroc(run, run["chosen"], f"mean {side}") for run in seeds]) for side in SIDES),
            ]
        )
    head = ["recipe", "seeds", "accuracy", "norm near", "norm far", "magnitude", "near", "far", "any score"]
    return [
        "*Magnitude* is the score that probes choose among norm, norm_gain, energy_raw and max_logit_raw, *any score* "
        "the one that they choose among all but norm_profile, as `normgate train` does:",
        table(*known([*head, "near", "far"], rows)),
    ]


def differences(own: Runs, said: str = "Minus plain training") -> list[str]:
    """Each recipe minus plain training of as many epochs, seed by seed, with Student's 95 % interval over seeds."""
    rows = [
        [
            name,
            str(len(both)),
            *(
                interval(
                    [
                        auroc(run, score, f"mean {side}") - auroc(other, score, f"mean {side}")
                        for run, other in both
                        if score in run["metrics"] and score in other["metrics"]
                    ]
                )
                for score in ("norm", "energy_raw", "knn")
                for side in SIDES
            ),
        ]
        for name in own
        if (both := beside_plain(name, own))
    ]
    head = ["recipe", "seeds", "norm near", "norm far", "energy_raw near", "energy_raw far", "knn near", "knn far"]
    return [f"{said}, seed by seed, with a 95 % interval over seeds (Student's t):", table(head, rows)] if rows else []


def hindsight(own: Runs) -> list[str]:
    """The norm, and what a gate gets whose score is chosen by probes, beside the best that plain training has."""
    rows = []
    for name in own:
        if not (both := beside_plain(name, own)):
            continue
        row = [name, str(len(both)), counted(run["chosen"] for run, _ in both)]
        for side in SIDES:
            where = f"mean {side}"
            score, value = best([other for _, other in both], where)
            gains = [
                [
                    auroc(run, asked or run["chosen"], where) - auroc(other, score, where)
                    for run, other in both
                    if asked is None or asked in run["metrics"]
                ]
                for asked in ("norm", None)
            ]
            row += [f"{score} {points(value)}", *map(interval, gains)]
        rows.append(row)
    head = ["recipe", "seeds", "chosen", "plain in hindsight, near", "norm", "chosen"]
    head += ["plain in hindsight, far", "norm", "chosen"]
    said = (
        "The norm, and the score that probes choose, minus the score of plain training that is the best for these very "
        "sets, seed by seed:"
    )
    return [said, table(head, rows)] if rows else []


def _scores(own: Runs) -> list[str]:
    """Every score that any of the networks has."""
    names = list(dict.fromkeys(score for seeds in own.values() for run in seeds for score in run["metrics"]))
    parts = []
    for side in SIDES:
        rows = [[score, *(spread(of(seeds, score, f"mean {side}")) for seeds in own.values())] for score in names]
        parts += [f"Every score, {side}:", table(["score", *own], rows)]
    return parts


def _sets(own: Runs) -> list[str]:
    """Set by set: AUROC and both FPR95 of the norm and of the score that probes choose."""
    rows = []
    for name, seeds in own.items():
        sets = [where for where in next(iter(seeds[0]["metrics"].values())) if not where.startswith("mean ")]
        for where in [*sets, "mean near", "mean far"]:
            row = [name, where]
            for score in ("norm", None):
                having = [run for run in seeds if (score or run["chosen"]) in run["metrics"]]
                own_figures = [run["metrics"][score or run["chosen"]][where] for run in having]
                row.append(spread([figures["auroc"] for figures in own_figures]))
                row.append(_ends(own_figures))
                row += [
                    points(mean([figures[key] for figures in own_figures])) if own_figures else "–"
                    for key in ("fpr_at_id_tpr95", "fpr_at_ood_tpr95")
                ]
            rows.append(row)
    head = ["recipe", "set", "norm", "interval", "accepted at 95 %", "flagged at 95 %"]
    head += ["chosen", "interval", "accepted at 95 %", "flagged at 95 %"]
    return [
        "Set by set, the norm and the score that probes choose among all: AUROC over seeds; the 95 % interval that the "
        "images of one run leave it (the mean over runs of both ends); and FPR95 under both of its meanings, the "
        "unknown images that are accepted where 95 % of the known are, and the known that are flagged where 95 % of "
        "the unknown are:",
        table(head, rows),
    ]


def _ends(figures: list[dict[str, float | None]]) -> str:
    """The mean interval of single runs, where their files have one."""
    ends = [(own["auroc_low"], own["auroc_high"]) for own in figures]
    told = [(low, high) for low, high in ends if low is not None and high is not None]
    return "–" if not told else "–".join(points(mean(list(side))) for side in zip(*told, strict=True))


COLLAPSE = [f"NC{number}, {space}" for space in ("directions", "raw") for number in (1, 2, 3, 4)]


def _collapse(seeds: list[Run]) -> list[str]:
    """NC1 to NC4; older files have the first alone."""
    return [
        plain([run["collapse"].get(f"nc{number}_{space}") for run in seeds])
        for space in ("directions", "raw")
        for number in (1, 2, 3, 4)
    ]


def _features(own: Runs) -> list[str]:
    rows = [
        [
            name,
            *_collapse(seeds),
            *(plain([run["collapse"][key] for run in seeds]) for key in ("norm_variation", "loss", "floor")),
            seconds(seeds),
        ]
        for name, seeds in own.items()
    ]
    return [
        "What training did to features ([NC1 to NC4](method.md#geometry), 0 at full collapse: spread within classes, "
        "distance of class means from a simplex, of the head from these, and disagreement with the nearest mean; the "
        "variation of norms), the loss and its floor, and the seconds of training where nothing ran beside it:",
        table(*known(["recipe", *COLLAPSE, "variation of norms", "loss", "floor", "seconds"], rows)),
    ]


def by_epochs(everything: Runs) -> list[str]:
    """Runs of other lengths, each with a descent of its own, beside those of the usual one."""
    grouped = itertools.groupby(everything.items(), key=lambda item: order(item[0])[:2])
    curves = [list(group) for _, group in grouped]
    runs = {
        name: seeds
        for curve in curves
        if any(order(name)[2] for name, _ in curve)
        for name, seeds in sorted(curve, key=lambda item: item[1][0]["recipe"]["epochs"])
    }
    if not runs:
        return []
    told = {name: [name, str(seeds[0]["recipe"]["epochs"]), str(len(seeds))] for name, seeds in runs.items()}
    head = ["recipe", "epochs", "seeds"]
    parts = []
    for side in SIDES:
        rows = []
        for name, seeds in runs.items():
            score, value = best(seeds, f"mean {side}")
            rows.append(
                [
                    *told[name],
                    *([spread([run["accuracy"] for run in seeds])] if side == "near" else []),
                    *(spread(of(seeds, each, f"mean {side}")) for each in SHOWN),
                    f"{score} {points(value)}",
                ]
            )
        said = f"How early it is there, {side}; each run has a descent of its own, and *hindsight* is its best score:"
        accuracy = ["accuracy"] if side == "near" else []
        parts += [said, table([*head, *accuracy, *SHOWN, "hindsight"], rows)]
    rows = [
        [*told[name], *_collapse(seeds), plain([run["collapse"]["norm_variation"] for run in seeds])]
        for name, seeds in runs.items()
    ]
    return [
        *parts,
        "And what it did to features by then:",
        table(*known([*head, *COLLAPSE, "variation of norms"], rows)),
        *differences(runs, "Minus plain training of as many epochs"),
    ]


def losses(everything: Runs) -> list[str]:
    """Where the norm of normalised training is not the best thing to have."""
    lines = []
    for name, seeds in everything.items():
        if name == plain_of(name):
            continue
        both = beside_plain(name, everything)
        own = [run for run, _ in both] or seeds
        others = [other for _, other in both]
        for side in SIDES if all("norm" in run["metrics"] for run in own) else ():
            rivals = {(name, score): value for score, value in means(own, f"mean {side}").items()}
            norm = rivals[name, "norm"]
            of_plain = means(others, f"mean {side}") if others else {}
            rivals |= {("plain", score): value for score, value in of_plain.items()}
            (label, score), value = max(rivals.items(), key=lambda item: item[1])
            ahead = sum(value > norm for value in of_plain.values())
            if score != "norm":
                lines.append(
                    f"- {name}, {side}: the norm has {points(norm)}; {score} of {label} training has "
                    f"{points(value)}, the best of all"
                    + (f", and of plain training {_so_many(ahead)} ahead of the norm." if both else ".")
                )
    said = "**Where the norm does not win** (over the seeds that plain training has, too):"
    return [said, "\n".join(lines)] if lines else []


def _so_many(count: int) -> str:
    return "no score is" if count == 0 else "one score is" if count == 1 else f"{count} scores are"


def _commits(own: Runs) -> str:
    everything = [run for seeds in own.values() for run in seeds]
    commits = sorted({run["commit"] for run in everything})
    trained = sorted({str(run.get("trained_by", run["commit"])) for run in everything})
    versions = sorted({f"torch {run['versions']['torch']}" for run in everything})
    return f"Trained by {', '.join(trained)}, evaluated by {', '.join(commits)}; {', '.join(versions)}."
