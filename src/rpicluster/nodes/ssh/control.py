"""The private folder of OpenSSH's control sockets: whoever can open one is logged in on the node."""

import os
import stat
import tempfile
from pathlib import Path

from rpicluster.errors import RpiclusterError

# sun_path holds 104 bytes on macOS and 108 on Linux (unix(7)); ssh adds a dot and 16 letters while it
# sets a socket up, and our names are 6 + 40 letters.
_SOCKET_PATH_BYTES = 104
_NAME_BYTES = 46 + 17 + 2
LONGEST_DIRECTORY = _SOCKET_PATH_BYTES - _NAME_BYTES


def control_directory(wanted: Path | None = None) -> Path:
    """Return a short folder of mode 0700 that only this user can enter; made if missing.

    Default: $XDG_RUNTIME_DIR/rpicluster-ssh, else /tmp/rpicluster-ssh-UID. Raises RpiclusterError when
    the folder's path is too long for a socket, or when it belongs to somebody else or is open to others.
    """
    directory = wanted or _default()
    if len(os.fsencode(directory)) > LONGEST_DIRECTORY:
        raise RpiclusterError(
            f"{directory} is too long a path for OpenSSH's control sockets: "
            f"{len(os.fsencode(directory))} bytes, at most {LONGEST_DIRECTORY}",
            hint="use a folder with a short path, such as one below /tmp",
        )
    try:
        directory.mkdir(mode=0o700, parents=False, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise RpiclusterError(
            f"the folder for OpenSSH's control sockets cannot be made: {error}",
            hint=f"make it: install -d -m 700 {directory}",
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RpiclusterError(
            f"{directory} is not a folder of this user, so control sockets in it would not be private",
            hint=f"see who made it: ls -ld {directory}",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise RpiclusterError(
            f"{directory} is open to others (mode {stat.S_IMODE(found.st_mode):04o}), "
            "so control sockets in it would not be private",
            hint=f"chmod 700 {directory}",
        )
    return directory


def _default() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        directory = Path(runtime) / "rpicluster-ssh"
        if len(os.fsencode(directory)) <= LONGEST_DIRECTORY and Path(runtime).is_dir():
            return directory
    # Not tempfile.gettempdir(): $TMPDIR is long on macOS, and changes between shells.
    root = Path("/tmp")  # noqa: S108  the folder below it is made 0700 and checked to be ours
    return (root if root.is_dir() else Path(tempfile.gettempdir())) / f"rpicluster-ssh-{os.getuid()}"
