"""The neighbour table of this machine's kernel, and the networks that this machine is in."""

import subprocess
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import TypeVar

from rpicluster.errors import RpiclusterError
from rpicluster.model.neighbours import Neighbour, read_neighbours, read_networks

_DEADLINE_S = 3.0
T = TypeVar("T")


def neighbour_table() -> tuple[Neighbour, ...]:
    """Return whom this machine has talked to lately; raises RpiclusterError where `ip` does not say."""
    return _asked("the neighbour table", ["neigh", "show"], read_neighbours)


def own_networks() -> tuple[IPv4Network, ...]:
    """Return the IPv4 networks that this machine is in; raises RpiclusterError where `ip` does not say."""
    return _asked("this machine's addresses", ["-4", "address", "show", "up"], read_networks)


def _asked(what: str, words: list[str], read: Callable[[str], tuple[T, ...]]) -> tuple[T, ...]:
    try:
        done = subprocess.run(
            ["ip", "-json", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_DEADLINE_S,
        )
        return read(done.stdout)
    except FileNotFoundError:
        why = "there is no `ip` here, which only Linux has"
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip() or f"`ip` ended with status {error.returncode}"
    except subprocess.TimeoutExpired:
        why = f"`ip` said nothing for {_DEADLINE_S:.0f} s"
    except ValueError as error:
        why = f"`ip -json {words[0]}` answered something else: {error}"
    raise RpiclusterError(f"{what} cannot be read: {why}", hint="look at your router's list of devices")
