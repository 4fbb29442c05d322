"""Running the system's own tools, so that a failure says which one, why, and what it said."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rpicluster.errors import RackError

# ip, nft, mkfs.ext4 and debootstrap stand in sbin, which a user's PATH often lacks.
_SEARCH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def find_tool(name: str) -> str | None:
    """Return the path of a system tool, None if it is not installed."""
    return shutil.which(name, path=os.pathsep.join(_SEARCH))


def environment() -> dict[str, str]:
    """Return the environment for system tools: their messages in English, their path complete."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    return {**kept, "LC_ALL": "C.UTF-8", "PATH": os.pathsep.join(_SEARCH)}


def run(argv: Sequence[str | Path], *, stdin: str | None = None, timeout_s: float = 60.0) -> str:
    """Run a tool to its end and return its stdout; raises RackError with what it said if it fails."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment(),
            check=False,
        )
    except FileNotFoundError as error:
        raise RackError(f"{words[0]} is not installed", hint=f"sudo apt-get install {words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise RackError(f"`{' '.join(words)}` did not end within {timeout_s:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RackError(f"`{' '.join(words)}` failed: {' / '.join(said[-3:]) or f'exit {done.returncode}'}")
    return done.stdout


def succeeds(argv: Sequence[str | Path], *, timeout_s: float = 60.0) -> bool:
    """Return whether a tool ends with 0; for removing what may not be there and then looking again."""
    try:
        run(argv, timeout_s=timeout_s)
    except RackError:
        return False
    return True
