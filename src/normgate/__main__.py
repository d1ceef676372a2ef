"""`python -m normgate`: the command line."""

from normgate.cli import main

main()
