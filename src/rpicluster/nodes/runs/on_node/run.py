"""Runs on the manager beside one script: starts its driver, keeps its log, writes down how it ended.

`python3 run.py FOLDER`; FOLDER/run.json says what to run. The folder `keeper` beside this file has the
modules of the session's keeper. Needs Python 3.8. In FOLDER it writes `state.json`, `log` (what the script
says), `driver.out`, `end` (how it ended: its blocks are taken at the start, so a full disk does not lose it)
and holds `lock` while it lives. SIGINT asks for its end; SIGTERM is systemd's, when the machine shuts down.
"""

import errno
import fcntl
import json
import os
import pwd
import random
import secrets
import select
import signal
import sys
import time
import types
from pathlib import Path

END_BYTES = 4096
POLL_S = 0.2
SCRIPT_GRACE_S = 5.0
DRIVER_GRACE_S = 8.0
LAST_OUTPUT_S = 1.0  # what a script left running may hold the pipe open
START_TRIES = 3
LISTEN = "0A"  # the state TCP_LISTEN in /proc/net/tcp


class CannotRun(Exception):
    """The script cannot be started; the message says why."""


class Stopped(Exception):
    """A signal asked for the end."""


class Run:
    """One run, from its start to its record."""

    def __init__(self, folder):
        """Read what to run."""
        self.folder = Path(folder)
        self.order = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        about = pwd.getpwuid(os.geteuid())
        person = {"HOME": about.pw_dir, "USER": about.pw_name, "LOGNAME": about.pw_name}
        self.order["environment"] = {**person, **self.order["environment"]}
        self.stopping = 0  # the first signal that asked for it
        self.driver = None
        self.driver_gone = False
        self.script = None
        self.visits = []
        self.log = None
        self.log_bytes = 0
        self.log_cut = False
        self.state = {
            "schema": 1,
            "id": self.order["id"],
            "state": "starting",
            "waiting_for": None,
            "started_at": time.time(),
            "script_at": None,
            "application": None,
            **identity(os.getpid()),
        }

    def stop(self, number, _):
        self.stopping = self.stopping or number

    def say(self, state=None, **facts):
        """Write the state; a full disk keeps the one before."""
        self.state.update(facts)
        if state:
            self.state["state"] = state
        try:
            write_json(self.folder / "state.json", self.state)
        except OSError as problem:
            if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def main(self):
        """Run to the end and return 0; what became of the script stands in `end`."""
        end = os.open(str(self.folder / "end"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(end, b" " * END_BYTES, 0)
        os.fsync(end)
        self.log = os.open(
            str(self.folder / "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.say()
        outcome = {"state": "failed", "exit_code": None, "signal": None, "reason": None}
        try:
            outcome = self.run()
        except Stopped:
            if self.stopping == signal.SIGINT:
                outcome.update(state="killed", reason="it was ended by `jobs kill`, or with the cluster")
            else:
                outcome.update(
                    state="stopped", reason="the manager was shut down, or systemd was told to end it"
                )
        except (CannotRun, OSError) as problem:
            outcome["reason"] = str(problem)
        finally:
            for process, grace_s in ((self.script, SCRIPT_GRACE_S), (self.driver, DRIVER_GRACE_S)):
                end_group(process, grace_s)
            outcome["ended_at"] = time.time()
            outcome["log_cut"] = self.log_cut
            outcome["application"] = self.state["application"]
            record = json.dumps(outcome).encode()
            if len(record) > END_BYTES:
                outcome["reason"] = str(outcome["reason"])[:500]
                record = json.dumps(outcome).encode()
            os.pwrite(end, record.ljust(END_BYTES), 0)
            os.fsync(end)
        return 0

    # -- the driver ------------------------------------------------------------------------------------

    def run(self):
        if self.order["door"] == "connect":
            self.open_door()
        ports = self.free_ports() if self.order["door"] == "submit" else {}
        self.say("running", script_at=time.time(), waiting_for=None)
        return self.watch(filled(self.order["argv"], ports))

    def open_door(self):
        """Start the run's own driver and wait until it answers. Raises CannotRun with the cause."""
        reason = ""
        for _ in range(START_TRIES):
            token = secrets.token_urlsafe(32)
            ports = self.free_ports()
            life = secrets.token_hex(8)
            environment = {**self.order["environment"], "SPARK_CONNECT_AUTHENTICATE_TOKEN": token}
            environment["RPICLUSTER_DRIVER"] = life  # by it the gateway is known as this driver's
            with (self.folder / "driver.out").open("ab") as output:
                self.driver = self.start(filled(self.order["driver"], ports), environment, output)
            reason = self.wait_for_doors(ports, token, life)
            if not reason:
                self.write_connection(ports, token)
                return
            end_group(self.driver, DRIVER_GRACE_S)
            self.driver = None
            if not reason.startswith("ended"):
                break  # it lives and does not answer: a second one would not, either
        raise CannotRun("its driver did not start: " + reason)

    def wait_for_doors(self, ports, token, life):
        """Return "" when all doors answer, else why they will not."""
        from keeper.config import Door
        from keeper.doors import open_door
        from keeper.wire import Hopeless, ProbeFailed, StopRequested

        config = types.SimpleNamespace(probe_timeout_s=5.0, user=self.order["user"])
        deadline = time.monotonic() + self.order["start_timeout_s"]
        for about in self.order["doors"]:
            host, port = ports[about["kind"]]
            door = open_door(
                config,
                Door(host=host, port=port, **about),
                token=token,
                life=life,
                stopping=lambda: bool(self.stopping),
            )
            self.visits.append(door)  # a client of the gateway, as long as the run lasts
            waiting_for = "it to listen"
            while True:
                if self.stopping:
                    raise Stopped
                status = self.driver.poll()
                if status is not None:
                    return ended(status) + last_words(self.folder / "driver.out")
                # Whoever else listens there must not be told the token.
                if listener(port) == os.geteuid():
                    try:
                        self.say(application=door.ask())
                        break
                    except StopRequested:
                        raise Stopped from None
                    except Hopeless as problem:
                        return str(problem)
                    except ProbeFailed as problem:
                        waiting_for = str(problem)
                if time.monotonic() > deadline:
                    limit_s = self.order["start_timeout_s"]
                    return "no answer within %d s; it waited for %s" % (limit_s, waiting_for)
                if self.state["waiting_for"] != "its driver: " + waiting_for:
                    self.say(waiting_for="its driver: " + waiting_for)
                time.sleep(POLL_S)
        return ""

    def write_connection(self, ports, token):
        write_private(self.folder / "token", token + "\n")
        document = {**self.order["connection"], "connect_port": ports["connect"][1]}
        if document.get("sparklyr"):
            document["sparklyr"]["port"] = ports["sparklyr"][1]
        write_private(self.folder / "connection.json", json.dumps(document, indent=2) + "\n")

    def free_ports(self):
        """Return {name: (host, port)} of ports on which nobody listens now."""
        found = {}
        taken = set()
        for name, about in self.order["ports"].items():
            numbers = [n for n in about["candidates"] if n not in taken]
            first = random.randrange(len(numbers)) if numbers else 0
            for number in numbers[first:] + numbers[:first]:
                if is_free(about["host"], number):
                    found[name] = (about["host"], number)
                    taken.add(number)
                    break
            else:
                raise CannotRun(
                    "all ports for %s are taken on %s: %s" % (name, about["host"], about["candidates"])
                )
        return found

    # -- the script ------------------------------------------------------------------------------------

    def start(self, argv, environment, output):
        """Start a program in a process group of its own, which ends when this program does."""
        from keeper.processes import spawn

        try:
            return spawn(argv, environment, str(self.folder / "files"), output)
        except FileNotFoundError as problem:
            raise CannotRun("%s is not on this machine" % problem.filename) from problem

    def watch(self, argv):
        """Start the script, keep what it says, and return how it ended."""
        readable, writable = os.pipe2(os.O_CLOEXEC)
        with os.fdopen(writable, "wb") as output:
            self.script = self.start(argv, self.order["environment"], output)
        status, ended_at, closed = None, 0.0, False
        while status is None or not closed:
            if self.stopping:
                raise Stopped
            if status is None:
                status = self.script.poll()
                ended_at = time.monotonic()
            elif time.monotonic() - ended_at > LAST_OUTPUT_S:
                break
            self.look_at_driver()
            if closed:
                time.sleep(POLL_S)
            elif select.select([readable], [], [], POLL_S)[0]:
                block = os.read(readable, 65536)
                closed = not block
                self.keep(block)
        os.close(readable)
        if status < 0:
            words = "the script was ended by %s" % signal.Signals(-status).name
            if -status == signal.SIGKILL:
                words += "; the kernel does that when memory runs out"
            return {"state": "ended", "exit_code": 128 - status, "signal": -status, "reason": words}
        return {"state": "ended", "exit_code": status, "signal": None, "reason": None}

    def look_at_driver(self):
        """Say it in the log once when the driver is gone; the script then gets errors of its own."""
        if self.driver is None or self.driver_gone or self.driver.poll() is None:
            return
        self.driver_gone = True
        words = ended(self.driver.poll()) + last_words(self.folder / "driver.out")
        self.keep(("rpicluster: the driver of this run is gone: %s\n" % words).encode())

    def keep(self, block):
        """Add to the log, up to its limit."""
        left = self.order["log_limit_bytes"] - self.log_bytes
        if left <= 0 and block:
            self.log_cut = True
            return
        self.log_bytes += len(block)
        try:
            while block:
                block = block[os.write(self.log, block) :]
        except OSError as problem:
            if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.log_cut = True


def filled(argv, ports):
    """Return a command with the chosen ports in it; they stand in it as @NAME@."""
    found = []
    for word in argv:
        for name, (_, number) in ports.items():
            word = word.replace("@%s@" % name, str(number))
        found.append(word)
    return found


def identity(pid):
    from keeper.processes import identity as of

    return of(pid)


def ended(status):
    return "ended by %s" % signal.Signals(-status).name if status < 0 else "ended with exit code %d" % status


def last_words(path):
    from keeper.records import last_words as words

    said = words(path, 0)
    return ": " + said if said else ""


def end_group(process, grace_s):
    """End a program and all of its process group."""
    if process is None:
        return
    from keeper.processes import signal_group

    if process.poll() is None:
        signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
    signal_group(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def is_free(host, number):
    from keeper.processes import port_is_free

    return port_is_free(host, number)


def listener(port):
    """Return the user id of who listens on a port of loopback, None for nobody."""
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net/%s" % name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                return int(words[7])
    return None


def write_json(path, document):
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(document, file)
    draft.replace(path)


def write_private(path, text):
    descriptor = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def main(folder):
    os.umask(0o077)
    sys.dont_write_bytecode = True
    with open(os.path.join(folder, "lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits: who asks whether the run goes on holds it for a moment
        return Run(folder).main()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).absolute().parent)
    sys.exit(main(sys.argv[1]))
