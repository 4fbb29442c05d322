"""Ansible's events, as our callback prints them: lines in, values out."""

import json
from dataclasses import dataclass

_FAILED = frozenset({"failed", "unreachable"})
_ENDED = frozenset({"ok", "skipped", "ignored", *_FAILED})
# What a failed step is most often due to, by what the module said.
_HINTS = (
    (
        "r cannot install",
        "most often a library of the system is missing there: install it with apt-get, then: rpicluster up",
    ),
    ("r cannot load", "take the package out of `r: packages:`, or mend what it says, then: rpicluster up"),
    ("could not get lock", "another program installs packages there; wait until it has ended: rpicluster up"),
    ("unable to acquire the dpkg", "another program installs packages there; wait until it has ended"),
    ("no space left", "free space on the node, then: rpicluster up"),
    ("read-only file system", "the node's disk is read-only: a worn card often is; look with: dmesg"),
    ("failed to fetch", "the node cannot load Debian packages: does `sudo apt-get update` work there?"),
    ("unable to fetch", "the node cannot load Debian packages: does `sudo apt-get update` work there?"),
    ("no package matching", "does the node's list of packages work? try there: sudo apt-get update"),
    ("temporary failure resolving", "the node resolves no names; look at its /etc/resolv.conf"),
    (
        "has no installation candidate",
        "the node's system does not offer it; which system is it? cat /etc/os-release",
    ),
    ("password is required", "sudo wants a password there"),
)


@dataclass(frozen=True)
class Event:
    """One event: of a play, of a task that begins (`task`), of one that ended on one node (`result`)."""

    kind: str
    at: float = 0.0
    play: str = ""
    task: str = ""
    role: str = ""
    node: str = ""
    status: str = ""
    item: str = ""
    changed: bool = False
    seconds: float | None = None
    message: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the node does not go on."""
        return self.kind == "result" and self.status in _FAILED

    @property
    def is_end(self) -> bool:
        """Whether a task has ended on a node, well or badly."""
        return self.kind == "result" and self.status in _ENDED

    @property
    def step(self) -> str:
        """What it is called to people: the task, without its role."""
        return self.task.partition(" : ")[2] or self.task


def read_event(line: str) -> Event | None:
    """Return the event in a line of output, None for anything else that Ansible may print."""
    if not line.startswith('{"event"'):
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return Event(
        kind=str(document["event"]),
        at=float(document.get("at", 0.0)),
        changed=bool(document.get("changed")),
        seconds=document.get("seconds"),
        **{
            key: str(document.get(key) or "")
            for key in ("play", "task", "role", "node", "status", "item", "message")
        },
    )


def hint_for(message: str) -> str | None:
    """Return what most often mends a failed step, None where nothing is known."""
    lowered = message.lower()
    return next((hint for words, hint in _HINTS if words in lowered), None)
