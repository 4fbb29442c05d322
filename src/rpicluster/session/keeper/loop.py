"""The keeper itself: the life of one driver after the other."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .chores import Chores
from .config import SCHEMA, Config, ConfigError, load_config, read_secret
from .idleness import Idleness, Unused, wait_for_caller
from .processes import base_environment, identity, port_is_free, process_stat, signal_group, spawn
from .questions import Probe, Yarn
from .records import cut_log, last_words, read_json, write_json
from .sparklyr import LIFE_VARIABLE
from .wire import TICK_S, Hopeless, ProbeFailed, StopRequested, http_json

if TYPE_CHECKING:
    from .processes import Process

TOKEN_VARIABLE = "SPARK_CONNECT_AUTHENTICATE_TOKEN"  # noqa: S105 - its name, not the token
BACKOFF_S = (0, 1, 2, 5, 10, 30)  # pause before the n-th restart in a row
SETTLED_S = 60  # a driver that was healthy this long has left its bad streak behind
STOP_GRACE_S = 10  # Spark on YARN needs 1 to 4 s from SIGTERM to its end
REPLACE_GRACE_S = 4  # an unhealthy driver gets less
PORTS_FREE_TIMEOUT_S = 30
FROZEN_S = 3  # a process that a signal has stopped for this long is not waited for
LEFTOVER_GRACE_S = 3  # an application master notices the loss of its driver by itself


class Keeper:
    """Start the driver, watch it, replace it, and say in the status file what is going on."""

    def __init__(self, config: Config) -> None:
        """Take the configuration; nothing is started yet."""
        self._config = config
        self._stop_requested = False
        self._yarn = Yarn(config, self._stopping)
        self._chores = Chores(config)
        self._driver: Process | None = None
        self._ran_at = 0.0  # when the driver was last seen not to be stopped by a signal
        self._log = Path(config.log)
        self._log_start = 0
        self._status_file = Path(config.status_file)
        self._status: dict[str, Any] = {
            "schema": SCHEMA,
            "name": config.name,
            "state": None,
            "since": time.time(),
            "keeper_pid": os.getpid(),
            "driver": None,
            "app_id": None,
            "restarts": 0,
            "is_waking": False,  # it starts because somebody called while it was asleep
            "waiting_for": None,
            "last_reason": None,
            "replaced": None,  # when and why the driver before this one was given up
            "doors": [],
            "ui_ms": None,
            "yarn": "unknown: not asked yet",
            "last_probe_at": None,
            "last_probe_ms": None,
        }

    def _stopping(self) -> bool:
        return self._stop_requested

    def _asked_in_vain(self) -> bool:
        """Whether an answer of the driver is no longer wanted. Raises ProbeFailed if none can come."""
        self._require_awake()
        return self._stop_requested

    def _request_stop(self, unused_number: int, unused_frame: FrameType | None) -> None:
        self._stop_requested = True

    def run(self) -> int:
        """Keep the session until SIGTERM or SIGINT; returns the exit code."""
        signal.signal(signal.SIGTERM, self._request_stop)
        signal.signal(signal.SIGINT, self._request_stop)
        self._end_stale_driver()
        streak = 0
        try:
            while True:
                try:
                    healthy_s = self._one_life()
                except Unused:
                    self._be_asleep()
                    streak = 0
                    continue
                streak = 1 if healthy_s >= SETTLED_S else streak + 1
                pause_s = BACKOFF_S[min(streak, len(BACKOFF_S)) - 1]
                if pause_s:
                    self._say("backoff", waiting_for=f"{pause_s} s to pass: failure {streak} in a row")
                    self._sleep(pause_s)
                self._status["restarts"] += 1
        except StopRequested:
            self._say(
                "restarting", waiting_for="the driver to stop", last_reason="the keeper was asked to stop"
            )
            self._chores.stop()
            self._end_driver(STOP_GRACE_S)
            self._say("stopped", waiting_for=None)
        return 0

    # One life of a driver

    def _one_life(self) -> float:
        """Start a driver, end it when it fails, and return for how many seconds it was healthy."""
        healthy_since = probe = None
        try:
            self._say("starting", waiting_for="its ports", app_id=None, doors=[], ui_ms=None)
            self._end_leftovers()
            self._wait_for_ports()
            self._wait_for_hdfs()
            probe = self._start_driver()
            self._wait_until_healthy(probe)
            healthy_since = time.monotonic()
            self._watch(probe)
        except (ProbeFailed, ConfigError) as problem:
            self._say(
                "restarting",
                last_reason=str(problem),
                replaced={"at": time.time(), "reason": str(problem)},
                waiting_for="the old driver to end",
            )
        finally:
            if probe:
                probe.close()
        self._end_driver(REPLACE_GRACE_S)
        return time.monotonic() - healthy_since if healthy_since else 0.0

    def _start_driver(self) -> Probe:
        config, life = self._config, uuid.uuid4().hex
        secrets = {name: read_secret(path) for name, path in config.secret_environment.items()}
        try:
            with self._log.open("ab") as log:
                self._log_start = log.seek(0, os.SEEK_END)
                environment = {**base_environment(config), **secrets, LIFE_VARIABLE: life}
                self._driver = spawn(config.java, environment, config.directory, log)
        except OSError as problem:
            raise ProbeFailed(f"the driver cannot be started: {problem}") from problem
        self._say("starting", waiting_for="the driver to answer", driver=identity(self._driver.pid))
        self._ran_at = time.monotonic()
        return Probe(config, secrets.get(TOKEN_VARIABLE, ""), self._yarn, self._asked_in_vain, life)

    def _be_asleep(self) -> None:
        """End the driver that nobody uses, and return when somebody calls."""
        words = f"the driver to end: nobody used it for {self._config.sleep_after_s:g} s"
        self._say("ending", waiting_for=words, app_id=None, doors=[], ui_ms=None)
        self._chores.stop()
        self._end_driver(STOP_GRACE_S)
        try:
            self._wait_for_ports()
            self._say("asleep", waiting_for=None)
            wait_for_caller(self._config.doors, self._report_asleep)
            self._status["is_waking"] = True
        except (ProbeFailed, OSError) as problem:  # then the next driver does not get its ports, either
            self._talk(f"it cannot be woken, so it starts: {problem}")

    def _report_asleep(self) -> None:
        """Say again and again that the keeper lives. Raises StopRequested."""
        if self._stop_requested:
            raise StopRequested
        if time.time() - self._status["updated_at"] >= self._config.probe_interval_s:
            self._say("asleep")

    def _wait_until_healthy(self, probe: Probe) -> None:
        limit_s = self._config.start_timeout_s
        deadline = time.monotonic() + limit_s
        while True:
            try:
                self._note_health(probe)
                return
            except Hopeless:
                raise
            except ProbeFailed as problem:
                waiting_for = self._yarn.queue() or str(problem)
            self._check_alive()
            if time.monotonic() > deadline:
                raise ProbeFailed(
                    f"the driver was not ready {limit_s:g} s after its start; it waited for {waiting_for}"
                )
            self._say("starting", waiting_for=waiting_for)
            self._sleep(min(0.5, self._config.probe_interval_s))

    def _watch(self, probe: Probe) -> None:
        """Ask again and again. Raises ProbeFailed when the driver must be replaced."""
        failures, patience_s = 0, self._config.sleep_after_s
        idleness = Idleness(self._config, patience_s, self._stopping) if patience_s else None
        while True:
            self._sleep(self._config.probe_interval_s)
            try:
                self._note_health(probe)
                if idleness:
                    idleness.look(str(self._status["app_id"]), probe.own_ports())
                failures = 0
            except Hopeless:
                raise
            except ProbeFailed as problem:
                failures += 1
                self._check_alive()
                self._say("unhealthy", last_reason=str(problem), last_probe_at=time.time())
                self._require_awake()
                if failures >= self._config.failures_before_restart:
                    raise
            try:
                cut_log(self._log)
            except OSError as problem:
                self._talk(f"{self._log} cannot be cut: {problem}")

    def _note_health(self, probe: Probe) -> None:
        started = time.monotonic()
        health = probe.round()
        self._say(
            "healthy",
            waiting_for=None,
            is_waking=False,
            app_id=health.app_id,
            doors=health.doors,
            ui_ms=health.ui_ms,
            yarn=health.yarn,
            last_probe_at=time.time(),
            last_probe_ms=int((time.monotonic() - started) * 1000),
        )

    def _check_alive(self) -> None:
        """Raise ProbeFailed with the cause if the driver's process is gone."""
        code = self._driver.poll() if self._driver else None
        if code is None:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        words = last_words(self._log, self._log_start)
        raise ProbeFailed(f"the driver {how}{': ' + words if words else ''}; see {self._log}")

    def _is_frozen(self) -> bool:
        """Whether a signal has stopped the driver's process: it answers nobody until another one wakes it."""
        return self._driver is not None and process_stat(self._driver.pid)[0] in ("T", "t")

    def _require_awake(self) -> None:
        """Raise ProbeFailed if the driver's process was stopped by a signal for a while."""
        if not self._is_frozen():
            self._ran_at = time.monotonic()
        elif time.monotonic() > self._ran_at + FROZEN_S:
            raise ProbeFailed("the driver did not answer: its process was stopped by a signal")

    # Ends

    def _end_driver(self, grace_s: float) -> None:
        """End the driver and all of its process group; returns when it is gone."""
        driver = self._driver
        if driver is None:
            return
        if not self._is_frozen():  # a frozen process could not act on SIGTERM
            signal_group(driver.pid, signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while driver.poll() is None and time.monotonic() < deadline:
                time.sleep(TICK_S / 4)
        signal_group(driver.pid, signal.SIGKILL)
        driver.wait(timeout=10)
        self._driver = None
        self._status["driver"] = None

    def _end_stale_driver(self) -> None:
        """End a driver that an earlier keeper of this session left behind."""
        stale = read_json(self._status_file).get("driver")
        if not isinstance(stale, dict) or not isinstance(stale.get("pid"), int):
            return
        pid = stale["pid"]
        if process_stat(pid)[0] in ("", "Z") or identity(pid) != stale:
            return
        self._talk(f"ending the driver {pid} of an earlier keeper")
        signal_group(pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        """End applications of earlier drivers, which would hold the memory that the next one needs."""
        deadline = time.monotonic() + LEFTOVER_GRACE_S
        try:
            live = self._yarn.live()
            while live and time.monotonic() < deadline:
                self._say("starting", waiting_for=f"{live[0]['id']} of an earlier driver to end")
                self._sleep(TICK_S)
                live = self._yarn.live()
            for app in live:
                self._talk(f"killing {app['id']} of an earlier driver")
                self._yarn.kill(app["id"])
        except (ProbeFailed, KeyError) as problem:
            self._talk(f"an earlier application may still hold containers: {problem}")

    # Waits and words

    def _wait_for_ports(self) -> None:
        ui = urlsplit(self._config.ui)
        wanted = [(door.host, door.port) for door in self._config.doors] + [
            (ui.hostname or "", ui.port or 80)
        ]
        deadline = time.monotonic() + PORTS_FREE_TIMEOUT_S
        taken = wanted
        while taken:
            taken = [(host, port) for host, port in wanted if not port_is_free(host, port)]
            names = ", ".join(f"{host}:{port}" for host, port in taken)
            if taken and time.monotonic() > deadline:
                raise ProbeFailed(f"another process still listens on {names}; `ss -ltnp` names it")
            if taken:
                self._say("starting", waiting_for=f"{names} to become free")
                self._sleep(1)

    def _wait_for_hdfs(self) -> None:
        """Wait until HDFS can be written; after `start_timeout_s` start all the same: its error says more."""
        url = f"{self._config.namenode}/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo"
        deadline = time.monotonic() + self._config.start_timeout_s
        while self._config.namenode and time.monotonic() < deadline:
            try:
                beans = http_json(url, self._config.probe_timeout_s, self._stopping)["beans"]
                if beans and beans[0]["Safemode"] == "":
                    return
                waiting_for = "HDFS to leave safe mode"
            except (ProbeFailed, KeyError, TypeError) as problem:
                waiting_for = f"HDFS: {problem}"
            self._say("starting", waiting_for=waiting_for)
            self._sleep(0.5)

    def _sleep(self, seconds: float) -> None:
        """Wait, but no longer than the driver lives; chores run meanwhile.

        Raises StopRequested, and ProbeFailed when a signal has stopped the driver's process for a while.
        """
        deadline = time.monotonic() + seconds
        while True:
            if self._stop_requested:
                raise StopRequested
            if self._status["state"] == "healthy":
                self._chores.tick()
            left_s = deadline - time.monotonic()
            if left_s <= 0 or (self._driver and self._driver.poll() is not None):
                return
            self._require_awake()
            time.sleep(min(TICK_S, left_s))

    def _say(self, state: str, **facts: Any) -> None:
        """Write the status file, and a line of talk when the state or what is waited for changed."""
        before = dict(self._status)
        self._status.update(facts, state=state, updated_at=time.time(), chores=self._chores.records)
        wait, changed = self._status["waiting_for"], before["state"] != state
        if changed:
            self._status["since"] = time.time()
        try:
            write_json(self._status_file, self._status)
        except OSError as problem:  # a full disk must not end a healthy session
            self._talk(f"{self._status_file} cannot be written: {problem}")
        if changed or (wait and wait != before["waiting_for"]):
            reason = self._status["last_reason"] if state in ("unhealthy", "restarting") else None
            self._talk("; ".join(part for part in (state, reason, wait and f"waiting for {wait}") if part))

    def _talk(self, words: str) -> None:
        sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._config.name}: {words}\n")
        sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run the keeper of one configuration file; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python keeper/__main__.py CONFIG.json\n")
        return 2
    try:
        config = load_config(arguments[0])
        for path in config.secret_environment.values():
            read_secret(path)
        with Path(config.status_file + ".lock").open("a", encoding="utf-8") as lock:
            # Two keepers of one session would end each other's drivers.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Keeper(config).run()
    except BlockingIOError:
        holder = read_json(Path(config.status_file)).get("keeper_pid")
        sys.stderr.write(
            f"keeper: {config.name}: another keeper (process {holder}) looks after this session\n"
        )
    except (ConfigError, OSError) as problem:
        sys.stderr.write(f"keeper: {problem}\n")
    return 2
