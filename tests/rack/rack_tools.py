"""A rack as its user sees it: the command line, ssh, and this machine's own tools to look at what is left."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PORTS = (22, 53, 80, 443, 8080, 9999)
# Accepts on every port and says so, until its stdin is closed.
LISTENER = """
import selectors, socket, sys
chooser = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    server = socket.create_server(("", port))
    chooser.register(server, selectors.EVENT_READ, port)
chooser.register(sys.stdin, selectors.EVENT_READ, None)
print("ready", flush=True)
while True:
    for key, _ in chooser.select():
        if key.data is None:
            sys.exit()
        connection, _ = key.fileobj.accept()
        connection.sendall(b"hello from %d" % key.data)
        connection.close()
"""
# Connects to an address on each port; prints the ports that answered.
PROBE = """
import socket, sys
address, answered = sys.argv[1], []
for port in map(int, sys.argv[2:]):
    try:
        with socket.create_connection((address, port), timeout=1.0) as connection:
            if connection.recv(64):
                answered.append(port)
    except OSError:
        pass
print(*answered)
"""


def tool(*argv: str, check: bool = True, stdin: str | None = None) -> str:
    """Run one of this machine's tools and return what it printed."""
    done = subprocess.run(argv, check=False, input=stdin, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@dataclass
class RackUnderTest:
    """One rack by its name; `environment` keeps its state away from the user's."""

    name: str
    environment: dict[str, str]

    def start(self, command: str, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        """Start `rpicluster rack COMMAND --name NAME …` and return its process."""
        return subprocess.Popen(
            [sys.executable, "-m", "rpicluster", "rack", command, "--name", self.name, *arguments],
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def run(
        self, command: str, *arguments: str, code: int = 0, timeout: float = 280
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; it must end with `code`."""
        process = self.start(command, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode == code, f"rack {command} {arguments}: {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the nodes of `status --json` by name."""
        document = json.loads(self.run("status", "--json").stdout)
        assert document["schema"] == 1
        return {node["name"]: node for node in document["nodes"]}

    @property
    def directory(self) -> Path:
        return Path(self.environment["RPICLUSTER_STATE_DIR"]) / "racks" / self.name

    def ssh_raw(
        self,
        node: str,
        *words: str,
        options: Sequence[str] = (),
        timeout: float = 60,
        stdin: str | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run plain ssh with the rack's own configuration."""
        return subprocess.run(
            ["ssh", "-F", str(self.directory / "ssh_config"), "-o", "BatchMode=yes", *options, node, *words],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def ssh(self, node: str, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Return what a command printed on a node; it must succeed."""
        done = self.ssh_raw(node, *words, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"{node} {words}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout.strip()

    def python(self, node: str, script: str, *arguments: str, timeout: float = 60) -> str:
        """Return what a Python script printed on a node."""
        return self.ssh(node, "python3", "-", *arguments, stdin=script, timeout=timeout)

    def ports_reached(self, node: str, address: str) -> list[int]:
        """Return the ports of PORTS that a node reaches at `address`."""
        return [int(port) for port in self.python(node, PROBE, address, *map(str, PORTS)).split()]


def wait_for(what: str, happens: Callable[[], bool], timeout_s: float = 60.0) -> float:
    """Wait until something happens and return how long it took."""
    begun = time.monotonic()
    while not happens():
        assert time.monotonic() - begun < timeout_s, f"{what}: not within {timeout_s} s"
        time.sleep(0.1)
    return time.monotonic() - begun


def inventory() -> dict[str, list[str]]:
    """Return all that a rack could leave on this machine, seen with the machine's own tools."""
    routes = [
        {key: value for key, value in route.items() if key not in ("expires", "metrics", "flags")}
        for family in ("-4", "-6")
        for route in json.loads(tool("ip", "-json", family, "route", "show", "table", "all"))
    ]
    return {
        "links": sorted(link["ifname"] for link in json.loads(tool("ip", "-json", "link"))),
        "routes": sorted(json.dumps(route, sort_keys=True) for route in routes),
        "nft": tool("nft", "list", "ruleset").splitlines(),
        "mounts": sorted(Path("/proc/self/mounts").read_text().splitlines()),
        "loops": sorted(tool("losetup", "--all", "--noheadings", "--output", "NAME,BACK-FILE").splitlines()),
        "cgroups": sorted(
            folder for folder, _, _ in os.walk("/sys/fs/cgroup") if "rpicluster" in Path(folder).name
        ),
        "processes": sorted(rack_processes()),
        "forward": [Path("/proc/sys/net/ipv4/ip_forward").read_text()],
        "register": sorted(str(path) for path in Path("/run/rpicluster").rglob("*")),
    }


def require_same(before: dict[str, list[str]], timeout_s: float) -> None:
    """Wait until the machine has exactly what it had; fail with what differs.

    Where other containers run, whose owners change the machine meanwhile, only what names a rack counts.
    """
    deadline = time.monotonic() + timeout_s
    while differences := _differences(before, inventory()):
        assert time.monotonic() < deadline, f"not as before: {differences}"
        time.sleep(0.1)


def _differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    if after == before:
        return []
    for line in {*before["processes"], *after["processes"]}:
        if Path(line.split()[0]).name in ("systemd-nspawn", "lxcfs") and "/racks/" not in line:
            before, after = _ours(before), _ours(after)
            break
    return [
        f"{sign} {kind}: {line}"
        for kind in before
        for sign, here, there in (("-", before, after), ("+", after, before))
        for line in here[kind]
        if line not in there[kind]
    ]


def _ours(seen: dict[str, list[str]]) -> dict[str, list[str]]:
    words = ("rpicluster", "rp-", "/racks", "blackhole", *(f"vb-{tag}-" for tag in ("three", "b", "c")))
    return {
        kind: [line for line in lines if any(word in line for word in words)] for kind, lines in seen.items()
    }


def rack_processes() -> list[str]:
    """Return the command lines of everything that only a rack or its base image starts."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        text = " ".join(words)
        is_tool = Path(words[0]).name in ("systemd-nspawn", "lxcfs")
        if is_tool or "node_loop.py" in text or ("debootstrap" in text and "pytest" not in text):
            found.append(text)
    return found
