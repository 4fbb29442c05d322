"""Run as `python DIRECTORY/__main__.py CONFIG.json` under a supervisor.

Not as `python DIRECTORY`: Python would write this file's bytecode below it, before the first line runs.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # To Python these are loose files of a directory that comes first in sys.path. With its parent there
    # instead they are a package, and can hide no module of the standard library.
    directory = Path(__file__).parent.absolute()
    sys.path[0] = str(directory.parent)
    sys.dont_write_bytecode = True  # a plan removes files that nobody rendered
    sys.exit(importlib.import_module(f"{directory.name}.loop").main(sys.argv[1:]))
