"""A command on a node that runs beside us: bytes go in, lines come out, until it ends or is ended."""

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from rpicluster.errors import RpiclusterError
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh import failures
from rpicluster.nodes.ssh.openssh import OpenSsh, as_root

_ENDED_S = 5.0


class Stream:
    """A running command on a node. Make one with `open_stream`."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", scratch: Path, target: SshTarget, node: str, what: str
    ) -> None:
        """Hold the process; `scratch` has its logs."""
        self._process = process
        self._scratch = scratch
        self._target = target
        self._node = node
        self._what = what

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The ssh that carries it, for who reads bytes and not lines."""
        return self._process

    @property
    def stdin(self) -> IO[bytes]:
        """Where bytes go in; close it to say that there are no more."""
        assert self._process.stdin is not None  # noqa: S101  opened as a pipe
        return self._process.stdin

    def lines(self) -> Iterator[str]:
        """Yield what the command prints, line by line, until it ends."""
        assert self._process.stdout is not None  # noqa: S101  opened as a pipe
        for line in self._process.stdout:
            yield line.decode(errors="replace").rstrip("\n")

    def failure(self, timeout_s: float = _ENDED_S) -> RpiclusterError | None:
        """Wait for the command's end and return why it failed, None if it did not."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return RpiclusterError(f"{self._node}: {self._what} does not end")
        if status == 0:
            return None
        said, remote = (
            path.read_text(errors="replace") if path.exists() else ""
            for path in (self._scratch / "log", self._scratch / "stderr")
        )
        if status == 255 and "Received exit status from master" not in said:
            return failures.explain(said + remote, self._target, self._node)
        return failures.explain_command(status, remote, self._target, self._node, what=self._what)

    def end(self) -> None:
        """End it now."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextlib.contextmanager
def open_stream(
    ssh: OpenSsh,
    target: SshTarget,
    argv: Sequence[str],
    *,
    node: str,
    what: str,
    sudo: bool = False,
    sudo_password: str | None = None,
) -> Iterator[Stream]:
    """Run `argv` on a node while the block runs; it is ended with the block.

    `what` is what the command is called in errors. Raises nothing that concerns the node: see
    `Stream.failure`.
    """
    command, first = list(argv), b""
    if sudo:
        command, first = as_root(command, b"", sudo_password)
    with tempfile.TemporaryDirectory(prefix="rpicluster-ssh-") as folder:
        scratch = Path(folder)
        line = [*ssh.options(target, scratch / "log"), "--", target.host, shlex.join(command)]
        with (scratch / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"},
                start_new_session=True,
            )
        stream = Stream(process, scratch, target, node, what)
        try:
            if first:
                stream.stdin.write(first)
                stream.stdin.flush()
            yield stream
        finally:
            stream.end()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
