"""Fetches an sdist from PyPI with pip as a subprocess, under the user's own pip configuration."""

import contextlib
import errno
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

from rpicluster.errors import RuntimeFetchError
from rpicluster.runtime.lock import Artifact
from rpicluster.runtime.progress import Progress, Report

STALL_TIMEOUT_S = 900.0
"""pip is silent while it unpacks the sdist to read its metadata: 3 s here, minutes on a slow card."""
LAST_WORDS_BYTES = 65536
_PROGRESS = re.compile(rb"Progress (\d+) of (\d+)")
_FULL_DISK = ("No space left on device", "Disk quota exceeded")
_NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ProtocolError",
    "IncompleteRead",
    "Connection reset",
    "Connection broken",
    "Connection aborted",
    "Download failed",
    "incomplete-download",
    "No matching distribution found",
)


def fetch_with_pip(artifact: Artifact, into: Path, report: Report) -> Path:
    """Download `artifact` to the folder `into` and return its path; pip has checked its hash.

    pip keeps no cache copy: it would cost as much disk again, and a bad one would be served for ever.
    Its temporary files stay under `into`, so that they are counted and cleaned with the rest.
    Raises RuntimeFetchError, and OSError when `into` cannot be written.
    """
    for name in ("tmp", "out"):
        (into / name).mkdir(parents=True, exist_ok=True)
    requirements = into / "requirements.txt"
    requirements.write_text(
        f"{artifact.name}=={artifact.version} --hash=sha256:{artifact.sha256}\n", encoding="utf-8"
    )
    command = _command(artifact, requirements, into / "out")
    exit_code, said = _run(command, into / "tmp", artifact, report)
    if exit_code != 0:
        raise _explain(artifact, exit_code, said, into)
    path = into / "out" / artifact.filename
    if not path.is_file():
        got = ", ".join(sorted(p.name for p in (into / "out").iterdir())) or "nothing"
        raise RuntimeFetchError(f"pip fetched {got} in place of {artifact.filename}; nothing was installed")
    return path


def _command(artifact: Artifact, requirements: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pip", "download"),
        *("--require-hashes", "--no-deps", "--no-build-isolation", "--no-binary", artifact.name),
        *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "raw"),
        *("--dest", str(out), "--requirement", str(requirements)),
    ]


def _run(command: list[str], tmp: Path, artifact: Artifact, report: Report) -> tuple[int, str]:
    """Run pip to its end; returns its exit code and its last words. It never outlives this call."""
    # Its own session, so that the setup.py it runs can be ended with it.
    with subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(tmp)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
    ) as pip:
        try:
            said = _follow(pip, artifact, report)
            return pip.wait(STALL_TIMEOUT_S), said
        except subprocess.TimeoutExpired as error:
            raise _stalled(artifact) from error
        finally:
            if pip.poll() is None:
                os.killpg(pip.pid, signal.SIGKILL)


def _follow(pip: "subprocess.Popen[bytes]", artifact: Artifact, report: Report) -> str:
    """Report pip's progress lines until it closes both outputs; returns what it said on stderr.

    That is kept in memory: a log file could not be written when the disk is full.
    """
    assert pip.stdout is not None and pip.stderr is not None  # noqa: S101 (PIPE was asked for)
    rest = said = b""
    report(Progress(str(artifact), 0, artifact.size_bytes, "fetch"))
    with selectors.DefaultSelector() as selector:
        for stream in (pip.stdout, pip.stderr):
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(timeout=STALL_TIMEOUT_S)
            if not ready:
                raise _stalled(artifact)
            for key, _ in ready:
                block = os.read(key.fd, 65536)
                if not block:
                    selector.unregister(key.fileobj)
                elif key.fileobj is pip.stderr:
                    said = (said + block)[-LAST_WORDS_BYTES:]
                else:
                    *lines, rest = (rest + block).split(b"\n")
                    _report_last(lines, artifact, report)
    return said.decode(errors="replace")


def _report_last(lines: list[bytes], artifact: Artifact, report: Report) -> None:
    if found := [m for line in lines if (m := _PROGRESS.match(line))]:
        done = min(int(found[-1][1]), artifact.size_bytes)
        report(Progress(str(artifact), done, artifact.size_bytes, "fetch"))


def end_orphans(folder: Path, *, timeout_s: float = 10.0) -> None:
    """End the pip that a killed fetch left behind at work in `folder`, and what that pip started.

    Told by its arguments, which name the folder, so that no other process is ever touched.
    Does nothing without /proc. Raises TimeoutError if one does not end.
    """
    deadline = time.monotonic() + timeout_s
    while orphans := _pips_at_work_in(folder):
        if time.monotonic() >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"pip (process {orphans[0]}) does not end", str(folder))
        for process in orphans:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.killpg(process, signal.SIGKILL)  # `_run` made it the leader of its own group
        time.sleep(0.1)


def _pips_at_work_in(folder: Path) -> list[int]:
    inside = os.fsencode(folder) + b"/"
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended while we looked
            continue
        if words[1:4] == [b"-m", b"pip", b"download"] and any(word.startswith(inside) for word in words):
            found.append(int(process.name))
    return found


def _stalled(artifact: Artifact) -> RuntimeFetchError:
    return RuntimeFetchError(
        f"pip said nothing for {STALL_TIMEOUT_S:.0f} s while it fetched {artifact}; nothing was installed",
        hint="check the network, then run the same command again",
    )


def _explain(artifact: Artifact, exit_code: int, said: str, into: Path) -> Exception:
    """Say what pip's last words mean."""
    if "DO NOT MATCH THE HASHES" in said:
        return RuntimeFetchError(
            f"{artifact.filename} as published does not have the locked SHA-256; nothing was installed.\n"
            f"pip says:\n{_tail(said, 6)}",
            hint="run the same command again; if it stays so: python -m pip config list",
        )
    if any(words in said for words in _FULL_DISK):
        return OSError(errno.ENOSPC, "disk full", str(into))
    if any(words in said for words in _NO_NETWORK):
        return RuntimeFetchError(
            f"{artifact} could not be fetched: the network or the package index does not answer, "
            f"or broke off; nothing was installed.\npip says:\n{_tail(said, 3)}",
            hint="check the network and `python -m pip config list`, then run the same command again",
        )
    return RuntimeFetchError(
        f"pip ended with {exit_code} while it fetched {artifact}; nothing was installed.\n"
        f"pip says:\n{_tail(said, 12)}",
        hint="python -m pip --version must say 24.1 or newer, and setuptools must be installed beside it",
    )


def _tail(said: str, lines: int) -> str:
    return "\n".join("  " + line for line in said.strip().splitlines()[-lines:])
