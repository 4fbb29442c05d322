"""Processes and ports: start a program, know it again, end all of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config

    Process = subprocess.Popen[bytes]


def spawn(argv: list[str], environment: dict[str, str], directory: str, output: IO[bytes]) -> Process:
    """Start a program as leader of its own process group, which the kernel kills when the keeper dies."""
    prctl, keeper = ctypes.CDLL(None).prctl, os.getpid()

    def die_with_the_keeper() -> None:
        prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != keeper:  # it died before the line above
            os._exit(1)

    return subprocess.Popen(
        argv,
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_the_keeper,  # noqa: PLW1509 - unsafe with threads; the keeper has none
    )


def process_stat(pid: int) -> tuple[str, int]:
    """Return state letter and start time in clock ticks of a process, or ("", 0) if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])


def identity(pid: int) -> dict[str, Any]:
    """Return what tells this process from every other one, before and after a reboot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"pid": pid, "start_ticks": process_stat(pid)[1], "boot_id": boot}


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if anybody is left in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def port_is_free(host: str, port: int) -> bool:
    """Say whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def base_environment(config: Config) -> dict[str, str]:
    """Return the configured environment; of the keeper's own only what every program expects."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LANG", "TZ") if name in os.environ}
    return {**kept, **config.environment}
