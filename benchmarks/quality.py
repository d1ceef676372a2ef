"""What a recipe is worth: a trained network, every score on the valid OoD sets, one JSON a run.

    python benchmarks/quality.py NAME ... --gates DIR [--seeds 0 1 …] [--precision bf16-mixed] [--compile]
        [--speed]
    python benchmarks/quality.py --list

Trains each run below DIR (or goes on with it, or reads it, if an earlier call left it there), evaluates it, and writes
results/quality-NAME-SEED.json. `python benchmarks/results_page.py` makes docs/results.md of these files. Recipes, seeds
and scores are fixed here, before any OoD set is looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

import normgate
import packs
import speed
from ablation import MAGNITUDES
from normgate import demo
from normgate.collapse import NeuralCollapse, geometry
from normgate.data.sources import Data, load, open_source
from provenance import RESULTS, at_once, commit, write
from turns import Turn

FULL: dict[str, Any] = {"model": "resnet18"}
SMALL: dict[str, Any] = {"image_size": 32}
ON_TEST = 1000
"""Where all training images are trained on, so many test images each are for tuning and calibration, and no figure."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One recipe on one pack.

    Attributes:
        pack: the ID set; see `packs`.
        changes: to the pack's recipe.
        network: arguments of `normgate.train` for the network.
        all_images: train on every training image, as published figures do; tuning and calibration images are then taken
            from the test images.
        tier: the machine it is meant for.
        seeds: how many are planned, from 0 on.
    """

    pack: str
    changes: dict[str, Any]
    network: dict[str, Any]
    all_images: bool = False
    tier: str = "cpu"
    seeds: int = 1


TAUS: dict[str, Any] = {"plain": None, "l2": 1.0, "l2-0.1": 0.1, "l2-learned": "learned"}
LENGTHS = (5, 10, 15, 20, 30, 40, 50, 80, 100)
"""Epochs of runs of other lengths, each with a descent of its own, so that "early" can be read off."""
GPU_RECIPE: dict[str, Any] = {"epochs": 60, "batch_size": 256, "learning_rate": 0.2}


def _on_gpu(changes: dict[str, Any], network: dict[str, Any], seeds: int = 1, pack: str = "cifar10") -> Run:
    return Run(pack, {**GPU_RECIPE, **changes}, network, all_images=True, tier="gpu", seeds=seeds)


RUNS = {
    **{f"demo-{name}": Run("demo", {"temperature": tau}, demo.NETWORK, seeds=5) for name, tau in TAUS.items()},
    **{
        f"{pack}-{name}": Run(
            pack, {"temperature": TAUS[name]}, packs.SLIM, seeds=seeds if name in ("plain", "l2") else 1
        )
        for pack, names, seeds in (("cifar10", ("plain", "l2", "l2-0.1"), 4), ("tinyimagenet100", TAUS, 3))
        for name in names
    },
    **{
        f"{pack}-{name}-e{epochs}": Run(pack, {"epochs": epochs, "temperature": TAUS[name]}, network, seeds=seeds)
        for pack, network, lengths, seeds in (
            ("demo", demo.NETWORK, LENGTHS, 5),
            ("cifar10", packs.SLIM, (10, 20, 80), 3),
        )
        for name in ("plain", "l2")
        for epochs in lengths
    },
    **{f"cifar10-resnet18-{name}": _on_gpu({"temperature": tau}, FULL, seeds=5) for name, tau in TAUS.items()},
    "cifar10-resnet18-patterns-rotations": _on_gpu({"patterns": 0.5, "rotations": 0.5}, FULL, seeds=5),
    **{
        f"cifar10-resnet18-{name}-e{epochs}": _on_gpu({"epochs": epochs, "temperature": TAUS[name]}, FULL)
        for epochs in (100, 80, 20, 30, 40, 10, 50, 15, 5)
        for name in ("l2", "plain")
    },
    **{
        f"cifar10-{model}-{name}": _on_gpu({"epochs": epochs, "temperature": TAUS[name], **more}, network)
        for model, epochs, network, more in (
            (
                "vit",
                60,
                {**SMALL, "model": "vit_tiny_patch16_224", "model_args": {"img_size": 32, "patch_size": 4}},
                {"learning_rate": 0.05},
            ),
            ("vgg16", 60, {**SMALL, "model": "vgg16_bn", "model_args": {"mlp_ratio": 0.125}}, {"learning_rate": 0.05}),
            ("convnext", 60, {"model": "convnext_atto", "image_size": 64}, {"learning_rate": 0.05}),
            ("resnet50", 100, {"model": "resnet50"}, {}),
        )
        for name in ("plain", "l2")
    },
    **{
        f"demo-resnet18-{name}": Run(
            "demo", {"temperature": TAUS[name]}, {"model": "resnet18", "stem": 2}, tier="gpu", seeds=3
        )
        for name in ("plain", "l2")
    },
    **{
        f"tinyimagenet100-resnet18-{name}": _on_gpu({"temperature": TAUS[name]}, FULL, pack="tinyimagenet100")
        for name in ("plain", "l2", "l2-0.1")
    },
    **{
        f"cifar10-resnet18-{name}": _on_gpu(changes, FULL)
        for name, changes in (
            ("patterns", {"patterns": 0.5}),
            ("patterns-all", {"patterns": 1.0}),
            ("patterns-radial", {"patterns": 0.5, "radial": 0.01}),
        )
    },
}
"""In the order of what is missed most."""


def result(name: str, seed: int) -> Path:
    """The file of a run."""
    return RESULTS / f"quality-{name}-{seed}.json"


def divided(pack: str, all_images: bool) -> tuple[Data, dict[str, Any]]:
    """Test images, and those of tuning and calibration where they are no part of the training images."""
    if not all_images:
        return packs.test_data(pack), {}
    test = load(open_source(packs.test_data(pack), labelled=True))
    every = max(2, len(test) // ON_TEST)
    held = {"tuning": range(0, len(test), every), "calibration": range(1, len(test), every)}
    taken = {row for rows in held.values() for row in rows}
    rest = test.subset(row for row in range(len(test)) if row not in taken)
    return rest, {name: test.subset(rows) for name, rows in held.items()}


def measured(name: str, seed: int, folder: Path, hardware: normgate.Hardware, rate: float | None) -> dict[str, Any]:
    """Train, or read what was trained, and evaluate."""
    run = RUNS[name]
    test, held = divided(run.pack, run.all_images)
    target = folder / f"{name}-{seed}"
    note = target.with_name(f"{target.name}.trained")  # what is not in the gate
    was_there = target.exists()
    new = not was_there and not target.with_name(f"{target.name}.run").exists()
    if new:
        folder.mkdir(parents=True, exist_ok=True)
        how = {"trained_by": commit(), "at_once": at_once(), "compiled": hardware.compile}
        note.write_text(json.dumps(how), encoding="utf-8")
    clock, started = speed.Clock(), time.perf_counter()
    trained = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {"trained_by": "an earlier commit"}
    with Turn(clock) as turn:
        gate = normgate.train(
            packs.train_data(run.pack),
            target,
            recipe=packs.recipe(run.pack, **run.changes),
            seed=seed,
            hardware=hardware,
            resume=True,
            drop_duplicates=True,
            progress=turn,
            **{**packs.held_out(run.pack, seed), **held},
            **run.network,
        )
    if rate is not None and new:
        recipe = packs.recipe(run.pack, **run.changes)
        timing = speed.figures(gate, recipe, run.network, clock, started, time.perf_counter(), rate)
        plan = {"recipe": recipe.to_dict(), "network": run.network, "compiled": hardware.compile}
        write(f"speed-{name}", {"name": name, "seed": seed, **plan, **timing})
    if was_there:  # an earlier version may have chosen among fewer scores
        gate = gate.recalibrate(score="auto")
    log = gate.provenance["log"]
    started = time.perf_counter()
    evaluation = normgate.evaluate(gate, test, packs.ood_data(run.pack), groups=packs.groups(run.pack))
    evaluating = time.perf_counter() - started
    found = geometry(gate.kept["train"])
    last = log[-1]
    return {
        "name": name,
        "seed": seed,
        "pack": run.pack,
        **trained,
        "recipe": packs.recipe(run.pack, **run.changes).to_dict(),
        "network": run.network,
        "precision": hardware.precision or ("bf16-mixed" if torch.cuda.is_available() else "32-true"),
        "seconds": sum(gate.provenance["sets"]["train"] / row["images_per_second"] for row in log) - turn.waited,
        "seconds_evaluating": evaluating,
        "images": {**gate.provenance["sets"], "test": evaluation.images["id"]},
        "held_out": 0
        if run.all_images or run.pack == "demo"
        else len(load(packs.opened(run.pack))) - gate.provenance["sets"]["train"],
        "training": {"loss": last["loss"], "accuracy": last["accuracy"], "epochs": last["epoch"]},
        "accuracy": evaluation.accuracy,
        "chosen": gate.score.name,
        "magnitude": None
        if gate.probes is None
        else next((score for score in gate.probes.ranking() if score in MAGNITUDES), None),
        "collapse": {
            **neural_collapse("directions", found.directions),
            **neural_collapse("raw", found.raw),
            "norm_variation": found.norms["train"].variation,
            "floor": found.invariants.floor,
            "loss": found.invariants.loss,
        },
        "metrics": {
            score: {
                where: {key: getattr(part, key) for key in KEPT}
                for where, part in {**sets, **{f"mean {g}": m for g, m in evaluation.means[score].items()}}.items()
            }
            for score, sets in evaluation.metrics.items()
        },
        "refused": evaluation.refused,
    }


def neural_collapse(name: str, found: NeuralCollapse) -> dict[str, float | None]:
    """NC1 to NC4 of raw features or of directions; see docs/method.md."""
    return {
        f"nc1_{name}": found.within_between,
        f"nc2_{name}": found.means.simplex_distance,
        f"nc3_{name}": found.self_duality,
        f"nc4_{name}": found.nearest_mean_disagreement,
    }


KEPT = ("auroc", "auroc_low", "auroc_high", "fpr_at_id_tpr95", "fpr_at_ood_tpr95")


def options() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], metavar="NAME", help="runs; see --list")
    parser.add_argument("--gates", type=Path, help="where gates are trained, or were")
    parser.add_argument("--seeds", type=int, nargs="+", help="by default those that are planned")
    parser.add_argument("--precision", help="of training; see normgate train --help")
    parser.add_argument("--compile", action="store_true", help="let torch.compile write the training step")
    parser.add_argument("--missing", action="store_true", help="leave out runs that have a result")
    parser.add_argument("--speed", action="store_true", help="write a speed-NAME.json, too, of a machine of one's own")
    parser.add_argument("--list", action="store_true", help="print the runs and their tiers")
    return parser


def main() -> None:
    """Measure and write the JSON."""
    parser = options()
    arguments = parser.parse_args()
    if arguments.list or not arguments.names or arguments.gates is None:
        for name, run in RUNS.items():
            print(f"{name:35} {run.tier}  {run.seeds} seeds  {run.pack}  {run.changes}")
        return
    hardware = normgate.Hardware(precision=arguments.precision, compile=arguments.compile)
    plain = all(RUNS[name].network == FULL and not RUNS[name].changes.get("rotations") for name in arguments.names)
    runs = [(name, seed) for name in arguments.names for seed in arguments.seeds or range(RUNS[name].seeds)]
    runs.sort(key=lambda run: run[1])
    if arguments.speed and not (plain and len(runs) == at_once() == 1):
        parser.error("--speed is of one run of a ResNet18 on 32 pixels, without rotations and with nothing beside it")
    rate = speed.matrix_rate() if arguments.speed else None
    for name, seed in runs:
        if not (arguments.missing and result(name, seed).exists()):
            write(result(name, seed).stem, measured(name, seed, arguments.gates, hardware, rate))


if __name__ == "__main__":
    main()
