"""Become the process of a unit: read its JSON file, then exec. Run by supervisor with `python -I -S`.

Standing between supervisor and the daemon, it gives the daemon exactly the arguments and environment
that were rendered: neither passes through an ini file, where `%`, `;`, quotes and commas mean something.
"""

import json
import os
import sys


def main() -> None:
    """Replace this process by the unit in the file that the first argument names."""
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123  pathlib costs this process half its start
        unit = json.load(file)
    os.umask(0o077)
    os.chdir(unit["directory"])
    os.execve(unit["argv"][0], unit["argv"], unit["environment"])  # noqa: S606  there is no shell


if __name__ == "__main__":
    main()
