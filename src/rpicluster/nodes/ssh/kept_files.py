"""The files of a tunnel in a cluster's state folder, for its keeper and for those who ask it."""

import hashlib
import os
import tempfile
from pathlib import Path

RECORD = "tunnel.json"  # which local port leads where, for ports that were chosen
LOG = "tunnel.log"  # of the ssh that was started last
ALONE = "tunnel.lock"  # held while a connection is opened
JOB = "kept-job.json"  # what the keeper does; without it the keeper ends
STATE = "kept.json"  # what the keeper tells
LOCK = "kept.lock"  # held by the keeper as long as it lives; its pid is inside
STARTING = "kept-start.lock"  # held by a command that starts or ends a keeper
ERRORS = "kept.log"  # why a keeper died


def socket_name(folder: Path) -> str:
    """Return the name of the control socket of the tunnel whose files are in `folder`."""
    return f"tunnel-{hashlib.sha256(os.fsencode(folder / RECORD)).hexdigest()[:16]}"


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone reads; a reader sees the old one or the new one, whole."""
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode is 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(fresh).replace(path)
