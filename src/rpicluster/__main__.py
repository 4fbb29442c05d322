"""`python -m rpicluster`, and the `rpicluster` command."""

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from rpicluster.cli.main import run

    sys.exit(run())


if __name__ == "__main__":
    main()
