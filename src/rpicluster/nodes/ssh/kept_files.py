"""The files of a tunnel in a cluster's state folder, for its keeper and for those who ask it."""

import os
from pathlib import Path

RECORD = "tunnel.json"  # which local port leads where, for ports that were chosen
LOG = "tunnel.log"  # of the ssh that was started last
ALONE = "tunnel.lock"  # held while a connection is opened
JOB = "kept-job.json"  # what the keeper does; without it the keeper ends
STATE = "kept.json"  # what the keeper tells
LOCK = "kept.lock"  # held by the keeper as long as it lives; its pid is inside
ERRORS = "kept.log"  # why a keeper died


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone reads; a reader sees the old one or the new one, whole."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
