"""A screening run that is killed at random moments, again and again, and started again each time.

    python benchmarks/kills.py [--images 20000] [--kills 100]

Each kill is `kill -9` of the whole command at a random moment: while it starts, reads, judges, writes or publishes. At
the end every image must have exactly one row, and the table must be that of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import collections
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from provenance import write
from screening import NETWORKS, table_of, untrained

PART_ROWS = 64


def main() -> None:
    """Kill, check and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--longest", type=float, default=1.0, help="seconds after the first part, at most")
    arguments = parser.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table_of(folder / "table.parquet", arguments.images)
        backbone, side, _ = NETWORKS["the demo's (one block a stage, width 16), 64 px"]
        untrained(backbone.build(), side, backbone).save(folder / "gate")
        command = [sys.executable, "-m", "normgate.cli", "screen", str(folder / "gate"), str(folder / "table.parquet")]
        command += ["--batch-size", "32", "--part-rows", str(PART_ROWS)]
        subprocess.run([*command, "-o", str(folder / "whole.parquet")], check=True, stdout=subprocess.DEVNULL)

        killed, started_parts, begun = 0, [], time.monotonic()
        run = folder / "parts.run"
        while killed < arguments.kills:
            process = subprocess.Popen([*command, "-o", str(folder / "parts")], stdout=subprocess.DEVNULL)
            before = parts(run)
            # One in ten dies while it starts, the others at some moment after their first new part.
            wait_for_part = chance.random() > 0.1
            while wait_for_part and process.poll() is None and parts(run) == before:
                time.sleep(0.005)
            if (code := process.poll()) is not None:
                raise SystemExit(f"the run ended with {code} after {killed} kills: more images are needed")
            time.sleep(chance.uniform(0, arguments.longest / 10 if wait_for_part else 3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            started_parts.append(parts(run) - before)
        subprocess.run([*command, "-o", str(folder / "parts")], check=True, stdout=subprocess.DEVNULL)
        found, whole = pq.read_table(folder / "parts"), pq.read_table(folder / "whole.parquet")
        rows = collections.Counter(found["id"].to_pylist())
        expected = {"gate", "table.parquet", "whole.parquet", "parts"}
        wanted = set(whole["id"].to_pylist())
        write(
            "kills",
            {
                "images": arguments.images,
                "kills": killed,
                "part_rows": PART_ROWS,
                "kills_that_found_new_parts": sum(count > 0 for count in started_parts),
                "lost": len(wanted - rows.keys()),
                "doubled": sum(count - 1 for count in rows.values()),
                "foreign": len(rows.keys() - wanted),
                "the_undisturbed_table": found.equals(whole),
                "left_behind": sorted(path.name for path in folder.iterdir() if path.name not in expected),
                "seconds": time.monotonic() - begun,
                "seed": 0,
            },
        )


def parts(run: Path) -> int:
    """How many parts there are."""
    return len(list(run.glob("part-*"))) if run.exists() else 0


if __name__ == "__main__":
    main()
