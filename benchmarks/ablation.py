"""What makes the magnitude strong: one change to a recipe at a time, judged without any reported OoD set.

    python benchmarks/ablation.py SETTING [VARIANT ...] [--precision bf16-mixed] [--compile] [--at-once N]
        [--parts DIR] [--missing]
    python benchmarks/ablation.py --list

Some classes of a setting are held out in turn: a network is trained on the others, and images of the held-out classes
are its near outliers. Its far outliers are probes made of tuning images. Neither a test image nor an image of an OoD
set is looked at. Predictions were written down here before the runs. Each variant of a setting gives one
results/ablation-SETTING-VARIANT.json; `python benchmarks/results_page.py` compares them.

The rule by which a recipe is chosen, written down with them. A variant counts by its *criterion*: the mean of the near
AUROC and of the AUROC over probes of the magnitude-based score that its own probes choose. Probes of families that any
variant trains on are left out of the criterion for all. Candidates are the normalised variants that were run in every
setting in which any was, two or more settings of different packs. The one with the largest mean gain in criterion over
the paper's recipe (mean over held-out classes, then over settings) becomes the default, if in every setting its gain is
above its 95 % interval over held-out classes and its accuracy at most a point lower, and if, where it takes more than
half as long again as the paper's recipe, it also gains more than `epochs-double`. Else the paper's recipe stays the
default. (The interval is of one variant: the best of many is flattered by it, which is why it must hold everywhere.)

Added once `demo` had been run, and before anything else was: its four pairs of signs are too few to see ten points,
since the paper's recipe itself has 21 to 95 over them. `demo-pairs` holds out all 28 pairs, the four among them, and
stands for `demo` in the rule. A sign is then in seven pairs, so that intervals are those of the jackknife over signs.
How long a recipe takes is told by settings where nothing else ran beside it and the paper's recipe.
Also before their runs, the batch and the rate of `cifar10-resnet18` became those that quality.py trains it with.

`cifar10-resnet18-short` asks something else, how good ten epochs can be, and has no part in that rule. There the best
is the variant with the largest mean near AUROC of the score that its probes choose among all.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import normgate
import packs
from normgate import demo
from normgate.data.demo import demo_set
from normgate.data.sources import Records, load, open_source
from normgate.files import whole_file
from normgate.training.splitting import divide_groups
from provenance import RESULTS, at_once, commit, provenance, write
from turns import Turn

if TYPE_CHECKING:
    from collections.abc import Mapping

JUDGES = ("flat", "noisy", "light", "blurred")
"""Families of probes that no variant trains on."""
MAGNITUDES = ("norm", "norm_gain", "energy_raw", "max_logit_raw")
"""Those that probes may choose."""


FACTORS = ("batch_size", "epochs", "learning_rate", "weight_decay")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A change to the paper's recipe.

    Attributes:
        changes: settings of the recipe; those in `FACTORS` are factors, and `averaging` is a share of the epochs.
        near: what was predicted: points that the norm's near AUROC gains over the paper's recipe.
        why: and why.
    """

    changes: dict[str, Any]
    near: float
    why: str


VARIANTS = {
    "paper": Variant({}, 0, "the reference"),
    "plain": Variant({"temperature": None}, -4, "norms carry the loss as well as the evidence"),
    "tau-0.1": Variant({"temperature": 0.1}, -8, "the loss is soon near zero, and pushes no shared feature any more"),
    "tau-0.3": Variant({"temperature": 0.3}, -3, "as 0.1, but less"),
    "tau-learned": Variant({"temperature": "learned"}, -5, "τ falls, since that lowers the loss"),
    "tau-moving": Variant({"temperature_start": 0.1}, 1, "learns fast at first, and then as the paper"),
    "no-bias": Variant({"head_bias": False}, 0.5, "directions alone decide"),
    "no-head-decay": Variant({"head_decay": False}, -1, "the head grows, which is a lower τ"),
    "standardized": Variant({"standardize": True}, 1, "norms can no longer follow contrast; more on probes of light"),
    "linear": Variant({"descent": "linear"}, 0, "a little more time at high rates"),
    "batch-half": Variant({"batch_size": 0.5}, 1, "more steps, and more noise in them"),
    "batch-double": Variant({"batch_size": 2}, -1, "the opposite"),
    "rate-double": Variant({"learning_rate": 2}, 0, "a little more noise"),
    "decay-double": Variant({"weight_decay": 2}, -1, "shared weights, and norms with them, are held smaller"),
    "warmup-short": Variant({"warmup": 0.03}, 0, "τ = 1 has small gradients, and warms up by itself"),
    "epochs-double": Variant({"epochs": 2}, 1, "norms have more time to grow"),
    "averaging": Variant({"averaging": 0.05}, 0.5, "flatter minima"),
    "patterns": Variant({"patterns": 0.5}, 1, "background no longer counts as evidence; much more on probes"),
    "rotations": Variant({"rotations": 0.5}, 3, "features must know shapes, as in RotPred"),
    "radial": Variant({"radial": 0.5}, 1, "norms are told to fall for non-images; tens of points on probes"),
    # Written after "radial" had been run on the demo, where accuracy fell to 29 %; a short trial at 0.01 kept it.
    "radial-weak": Variant({"radial": 0.01}, 0.5, "as radial, but cross-entropy keeps the shared weights"),
    "patterns-radial": Variant(
        {"patterns": 0.5, "radial": 0.01}, 12, "patterns gained 16 on the demo; norms fall besides"
    ),
    "patterns-all": Variant(
        {"patterns": 1.0}, 14, "patterns gained 16 with half of the images; with all, less to learn"
    ),
    "patterns-rotations": Variant({"patterns": 0.5, "rotations": 0.5}, 4, "both"),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Data, network and reference recipe.

    Attributes:
        pack: the ID set; see `packs`.
        held: classes that are held out together, by number.
        recipe: changes to the pack's recipe.
        network: arguments of `normgate.train`.
        variants: those that are planned.
        tier: the machine it is meant for.
        near: what was predicted, where that differs from what was predicted elsewhere.
    """

    pack: str
    held: tuple[tuple[int, ...], ...]
    recipe: dict[str, Any]
    network: dict[str, Any]
    variants: tuple[str, ...]
    tier: str = "cpu"
    near: dict[str, float] = dataclasses.field(default_factory=dict)


THREE_OF_TEN = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
PREDICTED_OF_SHORT_RUNS = {
    "tau-0.1": 3.0,  # learns faster, and norms have had no time anyway
    "tau-0.3": 3.0,
    "tau-learned": 1.0,
    "tau-moving": 4.0,
    "rate-double": 1.0,
    "decay-double": 1.0,
    "warmup-short": 0.5,
    "batch-half": 2.0,
    "averaging": -1.0,
}
MOST_PROMISING = ("paper", "epochs-double", "patterns", "radial-weak", "rotations", "standardized")
SETTINGS = {
    "demo": Setting(
        "demo",
        ((0, 1), (2, 3), (4, 5), (6, 7)),
        {},
        demo.NETWORK,
        tuple(name for name in VARIANTS if name not in ("rate-double", "decay-double", "warmup-short")),
    ),
    "demo-pairs": Setting("demo", tuple(itertools.combinations(range(8), 2)), {}, demo.NETWORK, MOST_PROMISING),
    "cifar10-resnet18": Setting(
        "cifar10",
        THREE_OF_TEN,
        {"epochs": 30, "batch_size": 256, "learning_rate": 0.2},
        {"model": "resnet18"},
        (
            *MOST_PROMISING,
            "patterns-rotations",
            "patterns-radial",
            "no-bias",
            "no-head-decay",
            "tau-moving",
            "batch-half",
        ),
        "gpu",
    ),
    "cifar10-resnet18-short": Setting(
        "cifar10",
        THREE_OF_TEN,
        {"epochs": 10, "batch_size": 256, "learning_rate": 0.2},
        {"model": "resnet18"},
        ("paper", *PREDICTED_OF_SHORT_RUNS, "linear"),
        "gpu",
        PREDICTED_OF_SHORT_RUNS,
    ),
}


def result(setting: str, variant: str) -> Path:
    """The file of a variant."""
    return RESULTS / f"ablation-{setting}-{variant}.json"


def recipe(setting: Setting, variant: Variant) -> normgate.Recipe:
    """The setting's recipe at τ = 1 with the variant's changes."""
    base = packs.recipe(setting.pack, **{"temperature": 1.0, **setting.recipe})
    own = {name: getattr(base, name) for name in FACTORS if name in variant.changes}
    changes = variant.changes | {
        name: type(value)(round(value * variant.changes[name], 9)) for name, value in own.items()
    }
    if "averaging" in changes:
        changes["averaging"] *= changes.get("epochs", base.epochs)
    return normgate.Recipe(**{**base.to_dict(), **changes})


def sets(pack: str, held: tuple[int, ...]) -> tuple[Records, dict[str, Any], Records, Records]:
    """Training images and their tuning and calibration images, and known and unknown images to judge by.

    Those to judge by are the demo's calibration and tuning images, of other people, and else every tenth training
    image; no network is trained on them.
    """
    images = load(open_source(packs.train_data(pack), labelled=True))
    assert images.classes is not None
    unknown = {images.classes[number] for number in held}
    known = tuple(name for name in images.classes if name not in unknown)
    if pack == "demo":
        train, other = images, load(demo_set("calibration"))
        own = [record for record in other if record.label in known]
        tuning, calibration = divide_groups([record.group for record in own], 0)
        parts: dict[str, Any] = {
            "tuning": Records(own).subset(tuning),
            "calibration": Records(own).subset(calibration),
        }
        judged = Records(own, known)
    else:
        train, other = (Records([r for i, r in enumerate(images) if (i % 10 == 0) == tenth]) for tenth in (False, True))
        parts = {}
        judged = Records([record for record in other if record.label in known], known)
    return (
        Records([record for record in train if record.label in known], known),
        parts,
        judged,
        Records([record for record in other if record.label in unknown]),
    )


def network(
    name: str,
    setting: Setting,
    variant: Variant,
    hardware: normgate.Hardware,
    parts: Path | None,
    held: tuple[int, ...],
) -> dict[str, Any]:
    """The figures of one network: those that a call with the same code, on the same device, has kept, or new ones.

    `name` is that of the results.
    """
    plan: dict[str, Any] = {"recipe": recipe(setting, variant).to_dict(), "network": setting.network}
    plan |= {"precision": hardware.precision, "compiled": hardware.compile, "provenance": provenance()}
    plan = json.loads(json.dumps(plan))
    part = None if parts is None or commit().endswith("-dirty") else parts / f"{name}-{'-'.join(map(str, held))}.json"
    if part is not None and part.exists():
        kept = json.loads(part.read_text(encoding="utf-8"))
        if kept["plan"] == plan:
            return dict(kept["run"])
    run = measured(setting, variant, held, hardware)
    if part is not None:
        with whole_file(part, overwrite=True) as partial:
            partial.write_text(json.dumps({"plan": plan, "run": run}), encoding="utf-8")
    return run


def measured(setting: Setting, variant: Variant, held: tuple[int, ...], hardware: normgate.Hardware) -> dict[str, Any]:
    """Train on the other classes and judge."""
    train, parts, known, unknown = sets(setting.pack, held)
    with Turn() as turn:
        gate = normgate.train(
            train,
            recipe=recipe(setting, variant),
            hardware=hardware,
            drop_duplicates=True,
            progress=turn,
            **parts,
            **setting.network,
        )
    evaluation = normgate.evaluate(gate, known, {"near": unknown})
    assert gate.probes is not None
    ranking = [score for score in gate.probes.ranking() if score in MAGNITUDES]
    log = gate.provenance["log"]
    return {
        "held": sorted({str(record.label) for record in unknown}),
        "accuracy": evaluation.accuracy,
        "near": {score: by_set["near"].auroc for score, by_set in evaluation.metrics.items()},
        "probes": {score: by_family(own) for score, own in gate.probes.auroc.items()},
        "chosen": gate.score.name,
        "magnitude": ranking[0],
        "images": {**gate.provenance["sets"], "known": len(known), "unknown": len(unknown)},
        "loss": log[-1]["loss"],
        "seconds": sum(gate.provenance["sets"]["train"] / row["images_per_second"] for row in log) - turn.waited,
    }


def by_family(auroc: Mapping[str, float]) -> dict[str, float]:
    """Mean over the probes of each family."""
    families: dict[str, list[float]] = {}
    for name, value in auroc.items():
        families.setdefault(name.partition("/")[0], []).append(value)
    return {family: float(np.mean(values)) for family, values in families.items()}


def options() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", nargs="?", choices=SETTINGS)
    parser.add_argument(
        "variants", nargs="*", choices=[*VARIANTS, []], metavar="VARIANT", help="default: those that are planned"
    )
    parser.add_argument("--precision", help="of training; see normgate train --help")
    parser.add_argument("--compile", action="store_true", help="let torch.compile write the step, where it can")
    parser.add_argument("--at-once", type=int, default=1, help="of a variant's networks")
    parser.add_argument("--parts", type=Path, help="folder that keeps each network's figures until all are there")
    parser.add_argument("--missing", action="store_true", help="leave out variants that have a result")
    parser.add_argument("--list", action="store_true", help="print the variants and the settings")
    return parser


def main() -> None:
    """Measure and write the JSON."""
    arguments = options().parse_args()
    if arguments.list or arguments.setting is None:
        for name, variant in VARIANTS.items():
            print(f"{name:26} {variant.near:+5.1f}  {variant.why}  {variant.changes}")
        for name, setting in SETTINGS.items():
            groups = f"{len(setting.held)} groups of classes held out in turn"
            print(f"{name:26} {setting.tier}  {groups}  {recipe(setting, VARIANTS['paper'])}")
            print(f"{'':26} {', '.join(setting.variants)}")
            for other, near in setting.near.items():
                print(f"{'':26} {near:+5.1f}  {other}, here")
        return
    setting = SETTINGS[arguments.setting]
    os.environ["NORMGATE_COMMIT"] = commit()  # of all networks, whatever is committed while they train
    os.environ["NORMGATE_AT_ONCE"] = str(at_once() * arguments.at_once)
    for name in arguments.variants or setting.variants:
        variant = VARIANTS[name]
        title = result(arguments.setting, name).stem
        if arguments.missing and result(arguments.setting, name).exists():
            continue
        compiled = arguments.compile and not variant.changes.keys() & {"radial", "temperature_start"}
        hardware = normgate.Hardware(precision=arguments.precision, compile=compiled)
        run = functools.partial(network, title, setting, variant, hardware, arguments.parts)
        with concurrent.futures.ProcessPoolExecutor(arguments.at_once, multiprocessing.get_context("spawn")) as pool:
            runs = list(pool.map(run, setting.held))
        values = {
            "setting": arguments.setting,
            "variant": name,
            "seed": 0,
            "recipe": recipe(setting, variant).to_dict(),
            "network": setting.network,
            "precision": arguments.precision or "default",
            "compiled": compiled,
            "judged_by": JUDGES,
            "predicted": {"near": setting.near.get(name, variant.near), "why": variant.why},
            "runs": runs,
        }
        values["seconds"] = sum(run["seconds"] for run in values["runs"])
        write(title, values)


if __name__ == "__main__":
    main()
