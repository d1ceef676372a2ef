"""The shift alarm: false alarms over 2,000 streams, and how soon outliers in a CIFAR-10 stream raise it.

    python benchmarks/shift.py --gates DIR

Reads the CIFAR-10 gate below DIR (benchmarks/auto.py trains it). Streams without a shift are drawn anew each time,
calibration scores included; streams with one are test images of CIFAR-10 in random order, into which a share of
outliers is mixed from some image on. Writes results/shift.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import normgate
import packs
from normgate.monitor import ShiftAlarm
from provenance import write

STREAMS, LENGTH, DELTA = 2000, 10_000, 0.05
SHARES, QUIET, ORDERS = (0.05, 0.1, 0.5), (0, 2000), 50


def false_alarms() -> dict[str, Any]:
    """Of streams like the calibration images, the share that ever raise the alarm."""
    raised = {}
    for n in (200, 2000):
        count = 0
        for seed in range(STREAMS):
            rng = np.random.default_rng([n, seed])
            # Exchangeable scores with ties and heavy tails, another distribution in each stream.
            centre = rng.normal(size=3)

            def draw(size: int, rng: np.random.Generator = rng, centre: np.ndarray = centre) -> np.ndarray:
                return (centre[rng.integers(0, 3, size)] + rng.standard_t(3, size)).round(2)

            alarm = ShiftAlarm.start(draw(n), draw(n), delta=DELTA, seed=seed)
            alarm.update(draw(LENGTH))
            count += alarm.raised is not None
        test = stats.binomtest(count, STREAMS, DELTA, alternative="greater")
        raised[str(n)] = {"raised": count, "share": count / STREAMS, "p_above_delta": test.pvalue}
    return raised


def delays(gates: Path) -> dict[str, Any]:
    """Images after the shift until the alarm, over random orders; null where it stayed quiet."""
    gate = normgate.Gate.load(gates / "cifar10-0", device="cpu")
    evaluation = normgate.evaluate(
        gate, packs.test_data("cifar10"), packs.ood_data("cifar10"), scores=[gate.score.name]
    )
    scores = evaluation.values[gate.score.name]
    found: dict[str, Any] = {}
    for name in evaluation.sets:
        for share in SHARES:
            for quiet in QUIET:
                waited: list[int | None] = []
                for seed in range(ORDERS):
                    rng = np.random.default_rng([seed, 2])
                    known, odd = rng.permutation(scores["id"]), iter(rng.permutation(scores[name]))
                    alarm = gate.shift_alarm(delta=DELTA / 5, seed=seed)
                    alarm.update(known[:quiet])
                    early = alarm.raised is not None
                    mixed = [next(odd, None) if rng.random() < share else value for value in known[quiet:]]
                    alarm.update([value for value in mixed if value is not None])
                    waited.append(None if alarm.raised is None or early else alarm.raised - quiet)
                heard = sorted(value for value in waited if value is not None)
                found[f"{name}, {share:g}, after {quiet}"] = {
                    "raised": len(heard),
                    "orders": ORDERS,
                    "median_delay": statistics.median(heard) if heard else None,
                    "largest_delay": heard[-1] if heard else None,
                }
    return {"delta": DELTA / 5, "score": gate.score.name, "delays": found}


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=Path, required=True, help="where benchmarks/auto.py trained its gates")
    gates = parser.parse_args().gates
    quiet = {"streams": STREAMS, "length": LENGTH, "delta": DELTA, "by_calibration_images": false_alarms()}
    write("shift", {"seed": 0, "false_alarms": quiet, **delays(gates)})


if __name__ == "__main__":
    main()
