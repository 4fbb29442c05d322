"""Measures what is claimed of real nodes, on virtual Pis of this machine; writes benchmarks/rack-results.md.

Needs root, as `rpicluster rack` does. `rack.py FIGURE…` measures only some of: plan, fresh, no-change,
doctor, fan-out, worker.
"""

import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import thousand
from run import PROGRAM, machine, ran_on, seconds

from rpicluster.model.spec import SshTarget
from rpicluster.nodes.fanout.send import Destination, Package, fan_out
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.runtime import store

RACK = "bench"
MEMORIES = ("4G", "2G", "2G")
STEP_S = 400  # no step may take longer
RUNS = 7
FAN_OUT_RUNS = 3
DOCTOR_ENTRIES = 8
PACKAGES = ("openjdk-17-jre-headless", "nftables")
FIGURES = ("plan", "fresh", "no-change", "doctor", "fan-out", "worker")
_FOLDER = "/var/tmp/rpicluster-bench"


@dataclass
class Found:
    """Rows of the table: figure, aim, measured."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, figure: str, aim: str, measured: str) -> None:
        self.rows.append((figure, aim, measured))
        print(f"{figure}: {measured} (aim {aim})", flush=True)


@dataclass
class Rack:
    """A rack that stands, with plain ssh to its nodes."""

    directory: Path
    nodes: dict[str, str]  # address by name

    def ssh(self, node: str, *words: str) -> "subprocess.Popen[str]":
        line = ["ssh", "-F", str(self.directory / "ssh_config"), "-o", "BatchMode=yes", node]
        return subprocess.Popen(
            [*line, shlex.join(words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )

    def on_all(self, *words: str) -> float:
        """Run a command on all nodes at once; return seconds until the last has ended well."""
        started = time.perf_counter()
        running = {node: self.ssh(node, *words) for node in self.nodes}
        for node, process in running.items():
            process.communicate(timeout=STEP_S)
            if process.returncode:
                raise RuntimeError(f"{node}: {words} ended with {process.returncode}")
        return time.perf_counter() - started

    def rpicluster(self, *arguments: str, spec: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*PROGRAM, *arguments, "--cluster", str(spec or self.directory / "cluster.yml")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=False,
        )

    def timed(self, *arguments: str) -> tuple[float, str]:
        """Run a command that must end well; return seconds and what it printed to stdout."""
        started = time.perf_counter()
        done = self.rpicluster(*arguments)
        if done.returncode:
            raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr[-1000:]}")
        return time.perf_counter() - started, done.stdout


@contextmanager
def rack_of(state: Path, memories: tuple[str, ...]) -> Iterator[Rack]:
    """Boot fresh nodes, and take them down again."""
    tool = [*PROGRAM, "rack"]
    directory = state / "racks" / RACK
    try:
        up = [*tool, "up", "--name", RACK, "--nodes", ",".join(memories)]
        subprocess.run(up, check=True, timeout=STEP_S, stdout=subprocess.DEVNULL)
        asked = [*tool, "status", "--name", RACK, "--json"]
        told = subprocess.run(asked, check=True, timeout=60, capture_output=True, text=True).stdout
        yield Rack(directory, {node["name"]: node["address"] for node in json.loads(told)["nodes"]})
    finally:
        if directory.exists():
            subprocess.run([*tool, "down", "--name", RACK], check=True, timeout=STEP_S)


# -- fan-out -------------------------------------------------------------------------------------------


def raw_chain_s(rack: Rack, runtime: Path) -> float:
    """Send the runtime along all nodes by tar and plain TCP; return seconds until the last has synced."""
    program = (Path(__file__).parent / "raw_chain.py").read_text()
    started: list[subprocess.Popen[str]] = []
    following: tuple[str, ...] = ()
    for node, address in reversed(rack.nodes.items()):
        process = rack.ssh(node, "python3", "-c", program, f"{_FOLDER}/raw", address, *following)
        following = (address, process.stdout.readline().strip())
        started.append(process)
    begun = time.perf_counter()
    with socket.create_connection((following[0], int(following[1]))) as first:
        subprocess.run(["tar", "-cf", "-", "-C", str(runtime), "."], stdout=first.fileno(), check=True)
        first.shutdown(socket.SHUT_WR)
        for process in started:
            said, _ = process.communicate(timeout=STEP_S)
            if said.strip() != "done":
                raise RuntimeError(f"the raw chain ended with {process.returncode}: {said}")
    return time.perf_counter() - begun


def our_chain_s(rack: Rack, runtime: Path, ssh: OpenSsh) -> float:
    nodes = {name: Destination(SshTarget(host=name), address) for name, address in rack.nodes.items()}
    begun = time.perf_counter()
    package = Package(runtime, f"{_FOLDER}/ours/runtime")
    failed = fan_out(package, nodes, ssh, report=lambda *_: None, cancel=threading.Event())
    if failed:
        raise RuntimeError("; ".join(error.message for error in failed.values()))
    return time.perf_counter() - begun


def fan_out_ratio(rack: Rack, found: Found) -> float:
    """Compare both chains in turn; return the seconds of the raw one."""
    runtime = store.ensure().path
    with tempfile.TemporaryDirectory(prefix="ssh-") as control:
        ssh = OpenSsh(Path(control), config=rack.directory / "ssh_config")
        raw, ours = [], []
        for _ in range(FAN_OUT_RUNS):
            for measure, times in (
                (lambda: raw_chain_s(rack, runtime), raw),
                (lambda: our_chain_s(rack, runtime, ssh), ours),
            ):
                rack.on_all("sudo", "rm", "-rf", _FOLDER)
                rack.on_all("sync")
                times.append(measure())
        rack.on_all("sudo", "rm", "-rf", _FOLDER)
        for name in rack.nodes:
            ssh.close(SshTarget(host=name))
    raw_s, ours_s = statistics.median(raw), statistics.median(ours)
    found.add(
        f"fan-out to {len(rack.nodes)} nodes against a raw TCP chain",
        "≤ 1.5 ×",
        f"{ours_s:.1f} s, raw {raw_s:.1f} s: {ours_s / raw_s:.2f} ×",
    )
    return raw_s


# -- a whole cluster -----------------------------------------------------------------------------------


def parts_alone(rack: Rack, found: Found) -> dict[str, float]:
    """Measure on fresh nodes what a first `up` cannot do without: packages, and bytes over the link."""
    apt = "sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive apt-get install -q -y"
    words = ("sh", "-c", f"{apt} --no-install-recommends {' '.join(PACKAGES)}")
    return {"apt": rack.on_all(*words), "bytes over the link": fan_out_ratio(rack, found)}


def timings(said: str) -> dict[str, float]:
    return dict(json.loads(said)["timings_s"])


def fresh(rack: Rack, parts: dict[str, float], found: Found) -> float:
    """Bring a cluster up on fresh nodes, then start its daemons and run its first job alone."""
    up_s, _ = rack.timed("up", "--yes", "--json")
    rack.timed("stop")
    start_s, _ = rack.timed("start")
    verify_s, _ = rack.timed("up", "--yes", "--json", "--verify")
    no_change_s, _ = rack.timed("up", "--yes", "--json")
    parts = {**parts, "daemons": start_s, "first job": verify_s - no_change_s}
    sum_s = sum(parts.values())
    told = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    found.add(f"fresh `up` on {len(rack.nodes)} nodes", "90 s", f"{up_s:.0f} s")
    found.add("the same against its parts alone", "≤ 1.3 ×", f"{up_s / sum_s:.2f} × ({told} s)")
    return up_s


def no_change(rack: Rack, found: Found) -> None:
    """Time an `up` that changes nothing, with and without connections that stand already."""
    python = [sys.executable, "-c", "pass"]
    control = OpenSsh(config=rack.directory / "ssh_config")
    command = [*PROGRAM, "up", "--yes", "--json", "--cluster", str(rack.directory / "cluster.yml")]

    def median_s(before: Callable[[], None]) -> float:
        beyond = []
        for _ in range(RUNS + 1):
            before()
            base = seconds(python)
            beyond.append(seconds(command) - base)
        return statistics.median(beyond[1:])

    def close_all() -> None:
        for address in rack.nodes.values():
            config = str(rack.directory / "ssh_config")
            control.close(SshTarget(host=address, user="pi", config=config))

    kept, anew = median_s(lambda: None), median_s(close_all)
    nodes = len(rack.nodes)
    figure = f"`up` without changes, {nodes} nodes, beyond Python's start"
    found.add(f"{figure}: connections stand", "≤ 1.0 s", f"{kept:.2f} s")
    found.add(f"{figure}: connections made anew", "≤ 1.0 s", f"{anew:.2f} s")


def doctor(rack: Rack, found: Found) -> None:
    """Time doctor on more entries than nodes: some lead to one node, which is one finding more."""
    spec = rack.directory / "cluster.yml"
    config = json.dumps(str(rack.directory / "ssh_config"))
    addresses = list(rack.nodes.values())
    entries = []
    for number in range(DOCTOR_ENTRIES):
        host = addresses[number % len(addresses)]
        entries.append(f"  - {{name: n{number}, ssh: {{host: {host}, user: pi, config: {config}}}}}")
    many = spec.with_name("doctor.yml")
    many.write_text("\n".join(["name: bench-doctor", "nodes:", *entries]) + "\n")
    started = time.perf_counter()
    done = rack.rpicluster("doctor", "--json", spec=many)
    took_s = time.perf_counter() - started
    findings = len(json.loads(done.stdout)["findings"])
    found.add(f"`doctor` on {DOCTOR_ENTRIES} entries", "≤ 10 s", f"{took_s:.1f} s, {findings} findings")


def plan_of_thousand(found: Found) -> None:
    cpu_s, wall_s, reading_s = thousand.median_cpu_and_wall_s()
    found.add(
        f"plan of {thousand.NODES} generated nodes",
        "≤ 1 s",
        f"{wall_s:.2f} s, of it {cpu_s:.2f} s of CPU; reading its cluster.yml {reading_s:.2f} s more",
    )


def measure(wanted: tuple[str, ...], state: Path, found: Found) -> None:
    if "plan" in wanted:
        plan_of_thousand(found)
    if not set(wanted) - {"plan"}:
        return
    store.ensure()
    parts: dict[str, float] = {}
    if {"fresh", "fan-out"} & set(wanted):
        with rack_of(state, MEMORIES) as rack:
            parts = parts_alone(rack, found)
    if not set(wanted) - {"plan", "fan-out"}:
        return
    with rack_of(state, MEMORIES) as rack:
        if parts:
            up_s = fresh(rack, parts, found)
        else:
            up_s, _ = rack.timed("up", "--yes", "--json")
        if "no-change" in wanted:
            no_change(rack, found)
        if "doctor" in wanted:
            doctor(rack, found)
    if "worker" in wanted:
        with rack_of(state, (*MEMORIES, MEMORIES[-1])) as rack:
            more_s, _ = rack.timed("up", "--yes", "--json")
            found.add(
                "fresh `up` with one worker more", "≤ + 5 s", f"{more_s - up_s:+.0f} s ({more_s:.0f} s)"
            )


def write(found: Found, where: str, ended: str) -> None:
    where += f", after {os.getloadavg()[0]:.1f}"
    lines = [
        "# Figures of real nodes, measured on a rack",
        "",
        f"{ran_on(where)} The rack: virtual Pis, which share this machine's cores, disk and memory with the "
        "control machine; the link between them is as fast as that memory. No real board.",
        "",
        "| figure | aim | measured |",
        "|---|---|---|",
        *(f"| {figure} | {aim} | {measured} |" for figure, aim, measured in found.rows),
    ]
    lines += ["", ended] if ended else []
    (Path(__file__).parent / "rack-results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    wanted = tuple(sys.argv[1:]) or FIGURES
    if unknown := set(wanted) - set(FIGURES):
        sys.exit(f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    found, where, ended = Found(), machine(), ""
    with tempfile.TemporaryDirectory(prefix="rpicluster-bench-") as folder:
        state = Path(folder) / "state"
        os.environ["RPICLUSTER_STATE_DIR"] = str(state)
        os.environ["RPICLUSTER_NO_PROGRESS"] = "1"
        # As an installed wheel: its modules are compiled once, not at every start.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "compiled")
        try:
            measure(wanted, state, found)
        except BaseException as error:
            ended = f"It was broken off: {type(error).__name__}: {str(error)[:300]}"
            raise
        finally:
            if found.rows:
                write(found, where, ended)


if __name__ == "__main__":
    main()
