"""The manager of a local cluster: this machine."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rpicluster.errors import LocalEngineError, RpiclusterError
from rpicluster.nodes.runs.channel import Channel, program, wait_for

_END_S = 5.0


class LocalMachine:
    """The machine we are on; everything runs as the user whose cluster it is."""

    def __init__(self, name: str, python: str) -> None:
        """Stand for the node `name`, whose programs run on `python`."""
        self.name = name
        self._python = python

    @contextmanager
    def channel(self, *, as_root: bool = False) -> Iterator[Channel]:
        """Start the program; nothing here needs root."""
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [self._python, "-I", "-c", program("tool.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=Path("/"),
                start_new_session=True,
            )

            def why() -> RpiclusterError | None:
                status = wait_for(process, _END_S)
                if status == 0:
                    return None
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().splitlines()
                return LocalEngineError(f"the runs of {self.name} cannot be asked: {[*words, status][-1]}")

            try:
                yield Channel(process, self.name, why)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with contextlib.suppress(OSError):  # a broken pipe has nothing left to say
                            pipe.close()
