"""Epochs, batch and rate of the demo, compared without its outliers: python benchmarks/held_out.py [NAME ...].

Of the eight known signs each pair is held out in turn: a network is trained on the other six, and the held-out signs of
people that it was not trained on are its unknown images. Neither the demo's outliers nor its test signs are looked at.
Writes results/held_out.json: accuracy, and AUROC of the norm, as means over the four pairs.
"""

from __future__ import annotations

import sys
from typing import Any

import normgate
from normgate import demo, metrics
from normgate.data.demo import demo_set
from normgate.data.sources import Records, load
from normgate.training.splitting import divide_groups
from provenance import write

# epochs, batch size, learning rate, and whether blocks start as identities (timm's default)
RECIPES: dict[str, tuple[int, int, float, bool]] = {
    "40 epochs, batch 64, rate 0.1, identities": (40, 64, 0.1, True),
    "40 epochs, batch 64, rate 0.1": (40, 64, 0.1, False),
    "40 epochs, batch 32, rate 0.3, identities": (40, 32, 0.3, True),
    "40 epochs, batch 32, rate 0.3": (40, 32, 0.3, False),
    "60 epochs, batch 32, rate 0.3, identities": (60, 32, 0.3, True),
    "60 epochs, batch 32, rate 0.2": (60, 32, 0.2, False),
    "60 epochs, batch 32, rate 0.1": (60, 32, 0.1, False),
}


def held_out(pair: tuple[str, str], epochs: int, batch_size: int, rate: float, identities: bool) -> tuple[float, float]:
    """Accuracy on the six signs, and AUROC of the norm against the two."""
    train, other = load(demo_set("train")), load(demo_set("calibration"))
    assert train.classes is not None
    known = tuple(name for name in train.classes if name not in pair)
    images = Records([record for record in other if record.label in known])
    tuning, calibration = divide_groups([record.group for record in images], 0)
    network = {**demo.NETWORK, "model_args": {"layers": [1, 1, 1, 1], "zero_init_last": identities}}
    gate = normgate.train(
        Records([record for record in train if record.label in known], known),
        tuning=images.subset(tuning),
        calibration=images.subset(calibration),
        recipe=normgate.Recipe(epochs=epochs, batch_size=batch_size, learning_rate=rate, shift=demo.RECIPE.shift),
        score="norm",
        false_alarm_rate=0.1,
        **network,
    )
    verdicts = gate([record.payload for record in images])
    unknown = gate([record.payload for record in other if record.label in pair])
    right = [label == record.label for label, record in zip(verdicts.label, images, strict=True)]
    return sum(right) / len(right), metrics.auroc(verdicts.score, unknown.score)


def main() -> None:
    """Measure and write the JSON."""
    classes = load(demo_set("train")).classes
    assert classes is not None
    pairs = list(zip(classes[::2], classes[1::2], strict=True))
    results: dict[str, Any] = {}
    for name in sys.argv[1:] or RECIPES:
        found = [held_out(pair, *RECIPES[name]) for pair in pairs]
        results[name] = {
            "accuracy": sum(accuracy for accuracy, _ in found) / len(found),
            "auroc": sum(auroc for _, auroc in found) / len(found),
            "auroc_by_pair": {" and ".join(pair): auroc for pair, (_, auroc) in zip(pairs, found, strict=True)},
        }
    write("held_out", {"seed": 0, "recipes": results})


if __name__ == "__main__":
    main()
