"""One supervisord process: start it detached, talk to it with a deadline, know whether it lives."""

import http.client
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rpicluster.errors import LocalEngineError
from rpicluster.nodes.local.processes import own_processes
from rpicluster.nodes.local.state import ClusterState, is_locked, write_file

BAD_NAME = 10  # supervisor.xmlrpc.Faults
NOT_RUNNING = 70
ALREADY_ADDED = 90

_LOOK_TIMEOUT_S = 1.5  # status answers within 2 s, whatever is frozen
_CHANGE_TIMEOUT_S = 20.0  # on a machine that is far too busy a change goes on
_BOOT_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 20.0
_POLL_S = 0.05
_OPEN_FILES = 4096
_HERE = Path(__file__).parent
_ENTRY = _HERE / "supervisord_locked.py"
# What Python itself needs to find this environment's packages again; nothing else of the shell goes in.
_PASSED_ON = ("HOME", "PATH", "PYTHONPATH", "PYTHONUSERBASE")

_CONFIGURATION = """\
[unix_http_server]
file={alias}/supervisor.sock
chmod=0700

[supervisord]
logfile={alias}/state/supervisor/supervisord.log
logfile_maxbytes=1MB
logfile_backups=2
pidfile={alias}/state/supervisor/supervisord.pid
childlogdir={alias}/state/supervisor
directory={alias}/state
umask=077
minfds={files}
nocleanup=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files={alias}/state/supervisor/units/*.ini
"""


def until(done: Callable[[], object], timeout_s: float, what: str) -> None:
    """Return once `done()` is true. Raises LocalEngineError that says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= deadline:
            raise LocalEngineError(f"waited {timeout_s:g} s for {what}")
        time.sleep(_POLL_S)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket; supervisor's own transport would wait for a frozen server for ever."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path, self._timeout_s)


class Supervisord:
    """The supervisord of one cluster."""

    def __init__(self, state: ClusterState) -> None:
        """Speak for the cluster whose state is `state`; starts nothing."""
        self._state = state
        self.configuration = state.alias / "state" / "supervisor" / "supervisord.conf"

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of supervisor's own, e.g. `startProcess`.

        Raises xmlrpc.client.Fault, and LocalEngineError, which names the pid, if there is no answer.
        """
        try:
            return self._ask(_CHANGE_TIMEOUT_S, method, *arguments)
        except (OSError, http.client.HTTPException) as error:
            raise self._no_answer(_CHANGE_TIMEOUT_S, error) from error

    def _ask(self, timeout_s: float, method: str, *arguments: object) -> Any:
        transport = _UnixTransport(str(self._state.socket), timeout_s)
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def _no_answer(self, timeout_s: float, error: Exception) -> LocalEngineError:
        pid = self.pid()
        return LocalEngineError(
            f"the supervisor of cluster {self._state.name} (pid {pid}) does not answer "
            f"within {timeout_s:g} s: {error or type(error).__name__}",
            hint=f"kill -9 {pid} && rpicluster start" if pid else "rpicluster start",
        )

    def call_unless(self, fault_code: int, method: str, *arguments: object) -> None:
        """Call, and take one fault as "it is so already"."""
        try:
            self.call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != fault_code:
                raise

    def process_infos(self, timeout_s: float = _LOOK_TIMEOUT_S) -> dict[str, dict[str, Any]] | None:
        """Return its table of processes, None if there is no supervisord.

        Raises LocalEngineError, which names the pid, if it lives and does not answer.
        """
        try:
            return {info["name"]: info for info in self._ask(timeout_s, "getAllProcessInfo")}
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except (OSError, http.client.HTTPException) as error:
            if not self.lives():
                return None
            raise self._no_answer(timeout_s, error) from error

    def programs(self) -> set[str]:
        """Return the names of the units it knows, empty without a supervisord; as patient as a change."""
        return set(self.process_infos(_CHANGE_TIMEOUT_S) or {})

    def answers(self) -> bool:
        """Return whether it is there and serves."""
        return self.process_infos() is not None

    def lives(self) -> bool:
        """Return whether some supervisord holds this cluster's lock; true also of a frozen one."""
        return is_locked(self._state.alias)

    def pid(self) -> int | None:
        """Return the pid of the living supervisord, whatever a pid file says."""
        for process in own_processes():
            if str(self.configuration) in process.argv and str(_ENTRY) in process.argv:
                return process.pid
        return None

    def wait_until_settled(self) -> bool:
        """Return whether it answers, after waiting for one that is just starting or ending."""
        if self.answers():
            return True
        what = f"the supervisor of cluster {self._state.name} (pid {self.pid()}) to answer or to end"
        until(lambda: self.answers() or not self.lives(), _BOOT_TIMEOUT_S, what)
        return self.answers()

    def boot(self) -> None:
        """Start it, detached from this command and its terminal. Raises LocalEngineError in its own words."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        text = _CONFIGURATION.format(alias=self._state.alias, files=files)
        write_file(self._state.directory / "supervisor" / "supervisord.conf", text.encode(), 0o600)
        command = [sys.executable, "-P", str(_ENTRY), str(self._state.alias), str(self.configuration)]
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
            "LANG": "C.UTF-8",
            "RPICLUSTER_PYTHON": shlex.quote(sys.executable),
            "RPICLUSTER_UNIT_EXEC": shlex.quote(str(_HERE / "unit_exec.py")),
        }
        try:
            started = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_BOOT_TIMEOUT_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise LocalEngineError(
                f"supervisord did not go to the background in {_BOOT_TIMEOUT_S:g} s"
            ) from error
        if started.returncode != 0:
            lines = (started.stderr or started.stdout).strip().splitlines()
            raise LocalEngineError(
                f"supervisord of cluster {self._state.name} did not start: "
                f"{lines[-1] if lines else f'exit code {started.returncode}'}",
                hint=f"cat {self._state.alias}/state/supervisor/supervisord.log",
            )
        until(self.answers, _BOOT_TIMEOUT_S, "supervisord to open its socket")

    def shut_down(self) -> None:
        """Stop it and wait until it is gone; its units must have been stopped before."""
        if self.wait_until_settled():
            self.call("shutdown")
            until(lambda: not self.lives(), _END_TIMEOUT_S, "supervisord to end")

    def kill(self) -> None:
        """End it by force, because it is frozen; what it watched goes on and is then an orphan."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            until(lambda: not self.lives(), _END_TIMEOUT_S, f"supervisord (pid {pid}) to end")
