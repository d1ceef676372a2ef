"""`python -m normgate.cli`."""

from normgate.cli import main

if __name__ == "__main__":
    main()
