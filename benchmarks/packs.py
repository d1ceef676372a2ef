"""Image packs for the benchmarks: where they lie, which pairs are valid, and the gates that are trained on them.

The packs are Parquet files in the Hugging Face image layout; `NORMGATE_PACKS` names their folder
(default: `../shared/data` beside the checkout).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import normgate
from normgate import demo
from normgate.data.demo import demo_set
from normgate.data.sources import Data, Source, load, open_source
from normgate.training.splitting import divide_groups

PACKS = Path(os.environ.get("NORMGATE_PACKS", Path(__file__).parents[2] / "shared" / "data"))
FAR = ("mnist-test", "dtd10", "chars74k")
# ID set → its training images, its test images, and the outliers that share no kind of object with it.
NEAR = {
    "cifar10": ("cifar100-test", "tinyimagenet-val-noclash"),
    "tinyimagenet100": ("tinyimagenet-other100-test",),
}
SLIM: dict[str, Any] = {"model": "resnet18", "width": 16}


def recipe(pack: str, **changes: Any) -> normgate.Recipe:
    """The recipe of the CPU tier: 40 epochs of a slim network (the demo has its own).

    With 100 classes cross-entropy has a high floor at τ = 1 (docs/method.md), and the network learns to 30 % accuracy.
    """
    if pack == "demo":
        return normgate.Recipe(**{**demo.RECIPE.to_dict(), **changes})
    own = {"temperature": 0.1} if pack == "tinyimagenet100" else {}
    return normgate.Recipe(**{"epochs": 40, "batch_size": 256, "learning_rate": 0.2, **own, **changes})


def train_data(pack: str) -> Data:
    """Labelled training images."""
    return demo_set("train") if pack == "demo" else PACKS / f"{pack}-train.parquet"


def opened(pack: str) -> Source:
    """The training images as a source."""
    return open_source(train_data(pack), labelled=True)


def held_out(pack: str, seed: int) -> dict[str, Any]:
    """Tuning and calibration images, for `train`, that are no training images: the demo's, divided by person."""
    if pack != "demo":
        return {}
    records = load(demo_set("calibration"))
    tuning, calibration = divide_groups([record.group for record in records], seed)
    return {"tuning": records.subset(tuning), "calibration": records.subset(calibration)}


def test_data(pack: str) -> Data:
    """Labelled test images."""
    if pack == "demo":
        return demo_set("test")
    return open_source(PACKS / f"{pack}-test.parquet", labelled=True)


def ood_data(pack: str) -> dict[str, Data]:
    """The valid OoD sets by name."""
    if pack == "demo":
        return {name: demo_set(name) for name in demo.OUTLIERS}
    return {name: PACKS / f"{name}.parquet" for name in (*NEAR[pack], *FAR)}


def groups(pack: str) -> dict[str, tuple[str, ...]]:
    """Near and far OoD sets."""
    if pack == "demo":
        return {"near": ("near",), "far": ("far-satellite", "far-waste")}
    return {"near": NEAR[pack], "far": FAR}


def trained(pack: str, output: Path, seed: int = 0, hardware: normgate.Hardware | None = None, **changes: Any) -> Any:
    """A gate trained on a pack with a recipe; goes on with an unfinished run, and reads a finished one."""
    network = demo.NETWORK if pack == "demo" else SLIM
    return normgate.train(
        train_data(pack),
        output,
        recipe=recipe(pack, **changes),
        seed=seed,
        hardware=hardware,
        resume=True,
        drop_duplicates=True,
        **held_out(pack, seed),
        **network,
    )
