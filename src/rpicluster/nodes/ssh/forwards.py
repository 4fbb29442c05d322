"""What a tunnel carries: forwards from ports of this machine, and a SOCKS proxy. Values and words only.

Everything listens on 127.0.0.1; a forward has its own number there where programs know it by that.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rpicluster.model.ports import LOOPBACK

# A link that carries nothing is given up 15 s after its last byte: ssh asks every 3 s, and after four
# questions without an answer the fifth interval ends it. A cable that is out for 5 s must end nothing, and
# TCP sends again in steps that double: what was lost at its start goes through 10 s later at the latest.
ALIVE_INTERVAL_S, ALIVE_COUNT = 3, 4
ALIVE = ("-o", f"ServerAliveInterval={ALIVE_INTERVAL_S}", "-o", f"ServerAliveCountMax={ALIVE_COUNT}")


@dataclass(frozen=True)
class Forward:
    """A port on 127.0.0.1 that leads to `host:port` as the manager sees it; without a host a SOCKS proxy.

    A `required` one is asked for with its own number by programs that cannot be told another.
    """

    name: str
    local: int
    host: str = ""
    port: int = 0
    required: bool = False

    @property
    def words(self) -> tuple[str, str]:
        """What ssh takes for it."""
        here = f"{LOOPBACK}:{self.local}"
        return ("-L", f"{here}:{self.leads_to}") if self.host else ("-D", here)

    @property
    def leads_to(self) -> str:
        """Where it ends, for people and for ssh."""
        if not self.host:
            return "the cluster's pages, by SOCKS"
        return f"{bracketed(self.host)}:{self.port}"

    def document(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


def bracketed(host: str) -> str:
    """Return a host as it stands before a colon."""
    return f"[{host}]" if ":" in host else host


def all_words(forwards: Iterable[Forward]) -> list[str]:
    """Return what ssh takes for all of them."""
    return [word for forward in forwards for word in forward.words]


def chosen_before(record: Mapping[str, int]) -> list[Forward]:
    """Return the forwards in a tunnel's record, which keeps what was chosen as `host:port` and number."""
    found = []
    for name, local in record.items():
        host, _, port = name.rpartition(":")
        if host == "socks":
            found.append(Forward("pages", local))
        elif host:
            found.append(Forward("asked for", local, host, int(port)))
    return found


def sparklyr_forwards(first: int, last: int, host: str = LOOPBACK) -> list[Forward]:
    """Return the forwards of sparklyr's gateway and of its clients' second ports, numbers equal."""
    return [
        Forward("sparklyr" if port == first else "sparklyr's clients", port, host, port, required=True)
        for port in range(first, last + 1)
    ]


def raw_command(login: Sequence[str], forwards: Iterable[Forward]) -> str:
    """Return a line for a shell that opens the forwards by ssh alone; `login` says who and where.

    It ends where a port is taken or the link is lost, and shares no connection.
    """
    own = ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes"]
    return shlex.join(["ssh", "-N", "-T", *own, *ALIVE, *all_words(forwards), *login])
