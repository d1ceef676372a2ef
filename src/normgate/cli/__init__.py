"""The command line: parse, call, print."""

from normgate.cli.application import DATA_FAILED, DONE, INTERNAL, INTERRUPTED, REJECTED, USAGE, app, main, run
from normgate.cli.evaluating import compare, evaluate, figure
from normgate.cli.making import calibrate, demo, train
from normgate.cli.screening import screen
from normgate.cli.using import export, inspect, scores, serve

__all__ = ["DATA_FAILED", "DONE", "INTERNAL", "INTERRUPTED", "REJECTED", "USAGE", "app", "main", "run"]

# In the order of the help.
for _command in (demo, train, calibrate, screen, evaluate, compare, inspect, export, serve, figure, scores):
    app.command()(_command)
