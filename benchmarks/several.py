"""Several benchmarks side by side: python benchmarks/several.py --at-once 3 [--seconds 500] < list.

Each line of the list is a benchmark with its arguments, such as `quality.py cifar10-l2 --gates gates --seeds 0`. They
are started in that order, as many at once as asked for, and each writes what it prints to a log beside its results.
What still runs after so many seconds is stopped; a benchmark's finished results stay. Their JSON says how many ran at
once ("at_once"), since seconds are then not those of a machine of one's own.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from provenance import RESULTS

HERE = Path(__file__).parent


def run(number: int, line: str, until: float, at_once: int) -> None:
    """Run one benchmark until a time, and print a line about it."""
    started = time.monotonic()
    if started >= until:
        print(f"not begun: {line}", flush=True)
        return
    script, *arguments = shlex.split(line)
    environment = {**os.environ, "NORMGATE_AT_ONCE": str(at_once)}
    log = RESULTS / f"several-{os.getpid()}-{number}.log"
    with log.open("wb") as file:
        try:
            code = subprocess.run(
                [sys.executable, HERE / script, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=until - started,
            ).returncode
            outcome = "done" if code == 0 else f"failed ({code}), see {log}"
        except subprocess.TimeoutExpired:
            outcome = "stopped"
    print(f"{outcome} after {time.monotonic() - started:.0f} s: {line}", flush=True)


def main() -> None:
    """Run the list that is given on standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all together")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + arguments.seconds
    lines = [line.strip() for line in sys.stdin if line.strip()]
    with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
        for number, line in enumerate(lines):
            pool.submit(run, number, line, until, arguments.at_once)


if __name__ == "__main__":
    main()
