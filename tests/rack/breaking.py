"""`up` broken off on a rack at a step of its journal; what was done twice; what stands there afterwards."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rack_tools import RackUnderTest

from rpicluster.nodes.ansible.playbook import descendants
from rpicluster.nodes.remote.state import RemoteState, open_remote_state

UP_TIMEOUT_S = 900.0
_LOOK_S = 0.005
_ENDED_S = 30.0
Step = tuple[str, str, str]  # node, step, item

# What stands on a node, by content. Left out: what lives (data, logs, tokens, keys) and what packages bring.
_STATE = """
import hashlib, json, os, pwd, grp, stat, subprocess
found = {}
tops = ["/etc/rpicluster", "/opt/rpicluster", "/var/lib/rpicluster/manifest.json", "/etc/hosts"]
tops += ["/etc/sysctl.d", "/etc/profile.d", "/etc/environment.d", "/etc/ssh/sshd_config.d"]
tops += ["/etc/systemd/system"]
paths = [top for top in tops if os.path.isfile(top)]
for top in tops:
    for folder, folders, files in os.walk(top):
        paths += [os.path.join(folder, name) for name in folders + files]
living = ("/etc/rpicluster/tunnel-keys", "/etc/rpicluster/token-")
for path in sorted(path for path in paths if not path.startswith(living)):
    about = os.lstat(path)
    if stat.S_ISLNK(about.st_mode):
        what = "-> " + os.readlink(path)
    elif stat.S_ISDIR(about.st_mode):
        what = "directory"
    else:
        with open(path, "rb") as file:
            what = hashlib.sha256(file.read()).hexdigest()
    owner = pwd.getpwuid(about.st_uid).pw_name + ":" + grp.getgrgid(about.st_gid).gr_name
    found[path] = " ".join([what, oct(stat.S_IMODE(about.st_mode)), owner])
def said(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout
for line in said("systemctl", "list-unit-files", "--no-legend", "rpicluster*").splitlines():
    name, enabled = line.split()[:2]
    found["unit " + name] = enabled + " " + said("systemctl", "is-active", name).strip()
found["rules"] = said("nft", "list", "table", "inet", "rpicluster")
for name in ("rpi-hdfs", "rpi-yarn", "rpi-tunnel"):
    account = [a for a in pwd.getpwall() if a.pw_name == name]
    found["user " + name] = " ".join(map(str, account[0][4:])) if account else "none"
found["fresh"] = sorted(p for p in os.listdir("/opt/rpicluster/runtimes") if p.startswith("."))
found["to read"] = os.listdir("/run/rpicluster/reread") if os.path.isdir("/run/rpicluster/reread") else []
print(json.dumps(found))
"""


@dataclass
class Breaking:
    """A cluster on a rack whose `up` is broken off; `state` is what this laptop keeps of it."""

    rack: RackUnderTest
    name: str
    _lines_before: int = 0
    _runs_before: frozenset[str] = frozenset()

    @property
    def state(self) -> Path:
        return Path(self.rack.environment["RPICLUSTER_STATE_DIR"]) / "clusters" / self.name

    @property
    def spec(self) -> Path:
        return self.rack.directory / "cluster.yml"

    def begin(self, cluster_id: str) -> RemoteState:
        """Forget the cluster and give it an identity, so that two runs render the same bytes."""
        shutil.rmtree(self.state, ignore_errors=True)
        state = open_remote_state(self.name, root=self.state.parent.parent)
        state.remember(cluster_id=cluster_id)
        self.begin_change()
        return state

    def begin_change(self) -> None:
        """Count steps from here on: a later change may well do again what an earlier one did."""
        self._lines_before, self._runs_before = 0, frozenset()
        self._lines_before = len(self.journal())
        self._runs_before = frozenset(path.name for path in self.state.glob("runs/*"))

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start `rpicluster …` in a session of its own, so that signals reach it alone."""
        return subprocess.Popen(
            [sys.executable, "-m", "rpicluster", *arguments, "--cluster", str(self.spec)],
            env=environment or self.rack.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0, environment: dict[str, str] | None = None) -> str:
        """Run `rpicluster …` to its end; it must end with `code`. Returns all that it said."""
        process = self.start(*arguments, environment=environment)
        try:
            said, _ = process.communicate(timeout=UP_TIMEOUT_S)
        finally:
            process.kill()
        assert process.returncode == code, f"{arguments}: {process.returncode}, not {code}\n{said}"
        return said

    # -- the event log ---------------------------------------------------------------------------------

    def journal(self) -> list[dict[str, Any]]:
        """Return the change's lines in the journal; a last one that is only half there counts as none."""
        try:
            lines = (self.state / "journal.jsonl").read_text().split("\n")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines[self._lines_before : -1]]

    def done(self) -> list[Step]:
        """Return the journalled steps, in order."""
        return [(e["node"], e["step"], e.get("item", "")) for e in self.journal() if e["what"] == "done"]

    def repeated(self) -> list[str]:
        """Return the steps that were completed more than once, by the journal or by Ansible's own events."""
        twice = [step for step, count in Counter(self.done()).items() if count > 1]
        runs: Counter[Step] = Counter()
        for events in sorted(self.state.glob("runs/*/events.jsonl")):
            if events.parent.name not in self._runs_before:
                runs.update(_changed(events))
        twice += [step for step, count in runs.items() if count > 1]
        return sorted({" / ".join(step) for step in twice})

    # -- breaking it off -------------------------------------------------------------------------------

    def break_off(self, done: int, how: str, *, delay_s: float = 0.0) -> str:
        """Start `up` and break it off when the journal has `done` steps, and a new one; return the last one.

        `how`: `kill` (the command alone), `kill all` (with Ansible and every ssh), `Ctrl-C`, `reboot NODE` or
        `unplug NODE` (its cable, until `up` has ended). Fails if `up` ends before.
        """
        done = max(done, len(self.done()) + 1)  # each `up` gets on with it before it is broken off
        process = self.start("up", "--yes")
        try:
            deadline = time.monotonic() + UP_TIMEOUT_S
            while len(self.done()) < done:
                assert process.poll() is None, f"`up` ended at {len(self.done())} steps, before {done}"
                assert time.monotonic() < deadline, (
                    f"{len(self.done())} steps in {UP_TIMEOUT_S} s, not {done}"
                )
                time.sleep(_LOOK_S)
            last = " / ".join(self.done()[done - 1])
            time.sleep(delay_s)
            self._break(process, how)
        finally:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()
        return last

    def _break(self, process: "subprocess.Popen[str]", how: str) -> None:
        if how.startswith(("reboot", "unplug")):
            word, node = how.split()
            self.rack.run(*(("reboot", node) if word == "reboot" else ("link", node, "down")))
            try:
                said, _ = process.communicate(timeout=UP_TIMEOUT_S)
            finally:
                if word == "unplug":
                    self.rack.run("link", node, "up")
                    self.wait_for_restarts(node)
            # A node that is back in two seconds may not even have been missed.
            assert process.returncode in (0, 1, 4, 5, 6), said
            assert "Traceback" not in said, said
        elif how == "Ctrl-C":
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=_ENDED_S)
            assert process.returncode == 130, f"{process.returncode}\n{said}"
        else:
            below = descendants(process.pid) if how == "kill all" else []
            for pid in (process.pid, *below):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # it ended meanwhile
                    continue
            process.wait(_ENDED_S)
        self.wait_for_ansibles_end()

    def wait_for_restarts(self, node: str) -> None:
        """Wait until systemd has started again what ended without its network.

        An `up` that comes before that starts it, rightly: which would look like a step that is repeated.
        """
        deadline = time.monotonic() + 60
        query = ("systemctl", "list-units", "--plain", "--no-legend", "--state=activating", "'rpicluster-*'")
        while waiting := self.rack.ssh(node, *query):
            assert time.monotonic() < deadline, f"not started again by systemd: {waiting}"
            time.sleep(0.5)

    def wait_for_ansibles_end(self) -> None:
        """Nothing of a run that was broken off may go on here."""
        deadline = time.monotonic() + 10
        while left := [words for words in command_lines() if b"ansible" in words and self._mine(words)]:
            assert time.monotonic() < deadline, f"still at work: {left}"
            time.sleep(0.05)

    def _mine(self, words: bytes) -> bool:
        return os.fsencode(self.state) in words or b"apply.yml" in words

    def close_connections(self) -> None:
        """End the connections that are kept open to this rack's nodes: the next command makes new ones."""
        from rpicluster.model.spec import SshTarget
        from rpicluster.nodes.ssh.openssh import OpenSsh

        ssh, config = OpenSsh(), str(self.rack.directory / "ssh_config")
        for node in self.rack.status().values():
            for user in ("pi", "ann"):
                ssh.close(SshTarget(host=node["address"], user=user, config=config))

    # -- what stands there -----------------------------------------------------------------------------

    def on(self, node: str, *argv: str, stdin: str = "", code: int = 0) -> str:
        words = shlex.join(argv) if len(argv) > 1 else argv[0]
        done = self.rack.ssh_raw(node, words, stdin=stdin, timeout=120)
        assert done.returncode == code, f"{node}: {argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def end_state(self, nodes: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return files with hashes, modes and owners, units, rules and logins, by node."""
        return {node: json.loads(self.on(node, "sudo", "python3", "-", stdin=_STATE)) for node in nodes}


def differences(one: dict[str, dict[str, str]], other: dict[str, dict[str, str]]) -> list[str]:
    """Return what is not the same in two end states, in words."""
    return [
        f"{node}: {key}: {one[node].get(key)} | {other[node].get(key)}"
        for node in one
        for key in sorted({*one[node], *other[node]})
        if one[node].get(key) != other[node].get(key)
    ]


def _changed(events: Path) -> set[Step]:
    """Return what one run of Ansible has changed: items of loops, and whole steps without any."""
    found: set[Step] = set()
    looped: set[tuple[str, str]] = set()
    for line in events.read_text().split("\n")[:-1]:
        event = json.loads(line)
        if event["event"] != "result" or not event["changed"]:
            continue
        if event["status"] == "item-ok":
            looped.add((event["node"], event["task"]))
            found.add((event["node"], event["task"], event["item"]))
        elif event["status"] == "ok" and (event["node"], event["task"]) not in looped:
            found.add((event["node"], event["task"], ""))
    return found


def command_lines() -> list[bytes]:
    """Return the command line of every process on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return found
