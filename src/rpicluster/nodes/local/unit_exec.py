"""Become the process of a unit: end what an earlier life left, then exec. Run with `python -I -S`.

Standing between supervisor and the daemon, it gives the daemon exactly the arguments and environment
that were rendered: neither passes through an ini file, where `%`, `;`, quotes and commas mean something.
And whatever killed the daemon, its next life starts alone: a NodeManager killed by SIGKILL leaves its
containers, a session's keeper its driver, and both would hold memory and ports.
"""

import contextlib
import json
import os
import signal
import sys
import time

_GONE_TIMEOUT_S = 10.0


def main() -> None:
    """Replace this process by the unit in the file that the first argument names."""
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123  pathlib costs this process half its start
        unit = json.load(file)
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while remains := _remains(unit["environment"]["RPICLUSTER_UNIT"], unit["containers"]):
        if time.monotonic() >= deadline:
            sys.exit(f"processes of an earlier life do not end by SIGKILL: {remains}")
        for pid in remains:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    os.umask(0o077)
    os.chdir(unit["directory"])
    os.execve(unit["argv"][0], unit["argv"], unit["environment"])  # noqa: S606  there is no shell


def _remains(mark: str, containers: str) -> list[int]:
    """Return this user's processes that carry the unit's mark, or work in the NodeManager's `containers`."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208  see above
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.getuid():  # noqa: PTH116
                continue
            with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
                values = file.read().split(b"\0")  # nothing, for a zombie
        except OSError:  # it ended while we looked
            continue
        ours = f"RPICLUSTER_UNIT={mark}".encode() in values
        directories = f"LOCAL_DIRS={containers}".encode()
        if ours or (containers and any(value.startswith(directories) for value in values)):
            found.append(int(name))
    return found


if __name__ == "__main__":
    main()
