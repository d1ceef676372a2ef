"""Several benchmarks side by side: python benchmarks/several.py --at-once 3 [--training 1] [--seconds 500] < list.

Each line of the list is a benchmark with its arguments, such as `quality.py cifar10-l2 --gates gates --seeds 0`. They
are started in that order, as many at once as asked for, and each writes what it prints to a log beside its results.
What still runs after so many seconds is stopped; a benchmark's finished results stay. With --training only so many of
their networks train at a time, while others are read, compiled and evaluated. Their JSON says how many ran at
once ("at_once"), since seconds are then not those of a machine of one's own.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provenance import RESULTS

HERE = Path(__file__).parent
STOPPED: list[int] = []
"""The signal that has asked for an end, if one has."""


def run(number: int, command: list[str], until: float, at_once: int) -> bool:
    """Run one benchmark until a time, print a line about it, and say whether it is done."""
    started = time.monotonic()
    line = shlex.join(command)
    if started >= until:
        print(f"not begun: {line}", flush=True)
        return False
    log = RESULTS / f"several-{os.getpid()}-{number}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, HERE / command[0], *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NORMGATE_AT_ONCE": str(at_once)},
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() < until and not STOPPED:
                time.sleep(0.1)
            code = process.poll()
        finally:  # its own processes, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    outcome = "stopped" if code is None else "done" if code == 0 else f"failed ({code}), see {log}"
    print(f"{outcome} after {time.monotonic() - started:.0f} s: {line}", flush=True)
    return code == 0


def main() -> None:
    """Run the list that is given on standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--training", type=int, help="networks that train at a time; by default all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all together")
    arguments = parser.parse_args()
    if arguments.training is not None and arguments.training < 1:
        parser.error("--training is at least 1: nothing would ever train")
    try:
        commands = [shlex.split(line) for line in sys.stdin if line.strip()]
    except ValueError as error:
        parser.error(f"a line of the list is no command: {error}")
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: STOPPED.append(number))
    RESULTS.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
        if arguments.training:
            turns = [str(Path(folder, str(number))) for number in range(arguments.training)]
            os.environ["NORMGATE_TURNS"] = os.pathsep.join(turns)
        runs = [pool.submit(run, number, command, until, arguments.at_once) for number, command in enumerate(commands)]
        while not all(each.done() for each in runs):
            time.sleep(0.1)
            if STOPPED:
                pool.shutdown(wait=False, cancel_futures=True)
    sys.exit(0 if all(not each.cancelled() and each.result() for each in runs) else 1)


if __name__ == "__main__":
    main()
