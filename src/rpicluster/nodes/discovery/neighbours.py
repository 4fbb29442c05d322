"""The neighbour table of this machine's kernel."""

import subprocess

from rpicluster.errors import RpiclusterError
from rpicluster.model.neighbours import Neighbour, read_neighbours

_DEADLINE_S = 3.0


def neighbour_table() -> tuple[Neighbour, ...]:
    """Return whom this machine has talked to lately; raises RpiclusterError where `ip` does not say."""
    try:
        done = subprocess.run(
            ["ip", "-json", "neigh", "show"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_DEADLINE_S,
        )
        return read_neighbours(done.stdout)
    except FileNotFoundError:
        why = "there is no `ip` here, which only Linux has"
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip() or f"`ip` ended with status {error.returncode}"
    except subprocess.TimeoutExpired:
        why = f"`ip` said nothing for {_DEADLINE_S:.0f} s"
    except ValueError as error:
        why = f"`ip -json neigh` answered something else: {error}"
    raise RpiclusterError(
        f"the neighbour table cannot be read: {why}", hint="look at your router's list of devices"
    )
