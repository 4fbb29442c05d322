"""Which addresses answer on SSH's port, and which host keys they show: few at a time, with a deadline.

What they show is a sieve for whom to ask over SSH; it proves nothing, because nobody checks a signature here.
"""

import asyncio
import base64
import binascii
import hashlib
import subprocess
from collections.abc import Iterable

from rpicluster.errors import RpiclusterError

CONNECT_S = 1.0  # an address of this network answers within milliseconds; one that is asleep, within some 100
AT_ONCE = 64
SWEEP_S = 15.0  # a whole /22
_KEYSCAN_S = 15.0
_KEYSCAN_EACH_S = 3


def answering(
    addresses: Iterable[str],
    port: int,
    *,
    connect_s: float = CONNECT_S,
    at_once: int = AT_ONCE,
    deadline_s: float = SWEEP_S,
) -> tuple[str, ...]:
    """Return the addresses that take a connection, in the given order, but those not reached in time.

    A connection is closed at once, and nothing is sent.
    """
    wanted = list(dict.fromkeys(addresses))
    found = asyncio.run(_answering(wanted, port, connect_s, at_once, deadline_s)) if wanted else set()
    return tuple(address for address in wanted if address in found)


async def _answering(
    addresses: list[str], port: int, connect_s: float, at_once: int, deadline_s: float
) -> set[str]:
    found: set[str] = set()
    few = asyncio.Semaphore(at_once)

    async def knock(address: str) -> None:
        async with few:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), connect_s)
            except (OSError, TimeoutError):  # nobody there, or nobody who listens
                return
            found.add(address)
            writer.transport.abort()

    tasks = [asyncio.create_task(knock(address)) for address in addresses]
    _, late = await asyncio.wait(tasks, timeout=deadline_s)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return found


def shown_keys(addresses: Iterable[str], port: int) -> dict[str, frozenset[str]]:
    """Return the prints (`SHA256:...`) of the host keys that each address shows.

    Raises RpiclusterError where there is no ssh-keyscan, which comes with ssh.
    """
    wanted = list(addresses)
    if not wanted:
        return {}
    line = ["ssh-keyscan", "-T", str(_KEYSCAN_EACH_S), "-p", str(port), "-t", "ed25519,ecdsa,rsa", "-f", "-"]
    try:
        done = subprocess.run(
            line,
            input="".join(f"{address}\n" for address in wanted),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_KEYSCAN_S,
            check=False,
        )
        said = done.stdout
    except FileNotFoundError:
        raise RpiclusterError(
            "there is no ssh-keyscan on this machine", hint="sudo apt install openssh-client"
        ) from None
    except subprocess.TimeoutExpired as error:  # what came until then counts
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
    return read_keyscan(said, wanted)


def read_keyscan(text: str, addresses: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return key prints by address from what ssh-keyscan printed; who was not asked is left out. Pure."""
    found: dict[str, set[str]] = {address: set() for address in addresses}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3 or line.startswith("#"):
            continue
        address = words[0].rpartition("]:")[0].removeprefix("[") or words[0]
        try:
            digest = hashlib.sha256(base64.b64decode(words[2], validate=True)).digest()
        except binascii.Error:
            continue
        if address in found:
            found[address].add("SHA256:" + base64.b64encode(digest).decode().rstrip("="))
    return {address: frozenset(prints) for address, prints in found.items() if prints}
