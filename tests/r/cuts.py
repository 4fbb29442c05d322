"""Every way to cut R off from its session, for every operation: how long until R says so, as a table.

`make cuts LIBRARY=…` (about 20 minutes) writes docs/reference/cuts.md. Needs root for network namespaces,
and an R library with sparklyr and rpicluster: python tests/r/cuts.py LIBRARY [OPERATION...]; with operations
it only prints.
"""

import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from gateway import Gateway

from rpicluster.nodes.local.facts import find_java
from rpicluster.runtime import store

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "cuts.md"
WORDS = {
    "dbGetQuery": "`dbGetQuery()`, a long query",
    "collect": "`collect()`, a long query",
    "collect_rows": "`collect()`, many rows, again and again",
    "copy_to": "`copy_to()`, again and again",
    "ml": "`ml_linear_regression()`, again and again",
    "spark_apply": "`spark_apply()`, a long one",
    "rpi_put": "`rpi_put()`, again and again",
}
OPERATIONS = tuple(WORDS)
LIMITS_S = {"SIGKILL": 10.0, "SIGSTOP": 10.0, "black hole": 10.0, "half-open": 20.0}
PORT = 18880
READY_S = 300
RUN_S = 3.0  # how long the operation runs before it is cut
GIVE_UP_S = 60.0
CANCEL = (
    "invoke <- sparklyr::invoke; invoke(sparklyr::spark_context(rpicluster::rpi_connect()), 'cancelAllJobs')"
)
CHAIN = "add chain inet cut out { type filter hook output priority 0 ; }"


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """A network namespace of this test's own, with loopback only."""
    name = f"rdoor{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "netns", "exec", name, "nft", "add", "table", "inet", "cut")
        run("ip", "netns", "exec", name, "nft", CHAIN)
        yield name
    finally:
        run("ip", "netns", "del", name)


def run(*command: str) -> str:
    """Run a command that must succeed; return what it said."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


class Cutter:
    """Cuts the way between R and a gateway, and mends it again."""

    def __init__(self, name: str, gateway: Gateway) -> None:
        """Keep the namespace's name and the gateway."""
        self.name, self.gateway = name, gateway
        self.ways: dict[str, Callable[[int], None]] = {
            "SIGKILL": lambda _: self.gateway.signal(signal.SIGKILL),
            "SIGSTOP": lambda _: self.gateway.signal(signal.SIGSTOP),
            "black hole": self.black_hole,
            "half-open": self.half_open,
        }

    def drop(self, ports: str) -> None:
        """Drop what comes from or goes to these ports, all at one moment."""
        rules = "; ".join(f"add rule inet cut out tcp {end} {{ {ports} }} drop" for end in ("sport", "dport"))
        run("ip", "netns", "exec", self.name, "nft", rules)

    def black_hole(self, _: int) -> None:
        """Nothing arrives at the session's ports any more, and no error comes back."""
        self.drop(f"{PORT}-{PORT + 24}")

    def half_open(self, pid: int) -> None:
        """The connections that R has are forgotten by the way between; new ones work."""
        sockets = run("ip", "netns", "exec", self.name, "ss", "-tnpH", "state", "established")
        ports = re.findall(rf":(\d+)\s+127\.0\.0\.1:18[89]\d\d\s.*pid={pid},", sockets)
        assert ports, sockets
        self.drop(", ".join(ports))

    def mend(self, way: str) -> None:
        """Make the way whole."""
        run("ip", "netns", "exec", self.name, "nft", "flush", "chain", "inet", "cut", "out")
        if way == "SIGSTOP":
            self.gateway.signal(signal.SIGCONT)
        if way == "SIGKILL":
            self.gateway.stop()
            self.gateway.start()
        else:  # what the killed R had started would keep both cores
            done = self.gateway.r(CANCEL, READY_S)
            assert done.returncode == 0, done.stderr


def cut(gateway: Gateway, cutter: Cutter, operation: str, way: str) -> dict[str, object]:
    """Start the operation, cut it, and return what R said and when."""
    row: dict[str, object] = {"operation": operation, "cut": way}
    path = gateway.folder / "said.txt"
    with path.open("wb") as file:
        process = subprocess.Popen(
            [*gateway.prefix, "Rscript", str(HERE / "cut.R"), operation],
            stdout=file,
            stderr=file,
            env=gateway.environment(),
        )

    def said() -> str:
        return path.read_text(errors="replace")

    def wait_for(word: str, seconds: float) -> list[str] | None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            lines = [line for line in said().splitlines() if f" {word} " in line]
            if lines:
                return lines[0].split(" ", 2)
            if ended:
                return None
            time.sleep(0.02)
        return None

    try:
        ready = wait_for("READY", READY_S)
        if ready is None:
            return {**row, "seconds": None, "class": "not ready", "said": said()[-500:]}
        time.sleep(RUN_S)
        at = time.time()  # from here, as a firewall's rule holds before its command returns
        cutter.ways[way](int(ready[2].split()[0]))
        took_s = time.time() - at
        end = wait_for("CONDITION", GIVE_UP_S)
        if end is None:
            return {**row, "seconds": None, "class": "hang", "said": said()[-500:]}
        again = wait_for("AGAIN", GIVE_UP_S)
        classes, message = end[2].split(" | ", 1)
        return {
            **row,
            "seconds": round(float(end[0]) - at, 1),
            "cutting_took_s": round(took_s, 1),
            "class": next((c for c in classes.split(",") if c.startswith("rpicluster_error_")), classes),
            "said": message[:300],
            "again": again[2] if again else None,
            "load": os.getloadavg()[0],
        }
    finally:
        process.kill()
        process.wait(30)


def measure(library: str, operations: tuple[str, ...]) -> list[dict[str, object]]:
    """Cut each operation in each way."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="rdoor-") as folder, namespace() as name:
        prefix = ("ip", "netns", "exec", name)
        gateway = Gateway(store.ensure(), find_java().home, library, Path(folder), PORT, prefix)
        try:
            gateway.start()
            cutter = Cutter(name, gateway)
            for operation in operations:
                for way in LIMITS_S:
                    rows.append(cut(gateway, cutter, operation, way))
                    print(rows[-1], flush=True)
                    cutter.mend(way)
        finally:
            gateway.stop()
    return rows


def beyond(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows that missed their limit or were no condition of ours."""
    return [
        row
        for row in rows
        if not isinstance(row["seconds"], float)
        or row["seconds"] > LIMITS_S[str(row["cut"])]
        or not str(row["class"]).startswith("rpicluster_error_")
    ]


def page(rows: list[dict[str, object]], at: str) -> str:
    """Return the result table as a page; `at` is the commit."""
    by = {(row["operation"], row["cut"]): row for row in rows}
    loads = [load for row in rows if isinstance(load := row.get("load"), float)]
    missed = beyond(rows)
    cores, machine = os.cpu_count(), platform.machine()
    load = f"{min(loads, default=0):.0f} to {max(loads, default=0):.0f}"
    lines = [
        "# How long R waits for a cluster that is gone",
        "",
        f"Made by `make cuts` on {time.strftime('%Y-%m-%d')} at commit {at}, one cut each, on {cores} cores",
        f"of {machine} at a load of {load}: seconds from the moment the cut was begun to R's condition. The",
        "gateway was sparklyr's, in a driver on `local[2]`; R and it had a network namespace of their own.",
        "",
        "| operation | "
        + " | ".join(f"{way}, at most {limit:.0f}" for way, limit in LIMITS_S.items())
        + " |",
        "|---|" + "---|" * len(LIMITS_S),
    ]
    for operation in dict.fromkeys(row["operation"] for row in rows):
        found = [by[operation, way] for way in LIMITS_S]
        told = [
            f"**{row['seconds']} ({row['class']})**" if row in missed else str(row["seconds"])
            for row in found
        ]
        lines.append(f"| {WORDS[str(operation)]} | " + " | ".join(told) + " |")
    kinds = sorted({f"`{row['class']}`" for row in rows})
    lines += [
        "",
        f"{len(rows) - len(missed)} of {len(rows)} within their limit; conditions: {', '.join(kinds)}.",
    ]
    return "\n".join(lines) + "\n"


def main(library: str, operations: tuple[str, ...]) -> int:
    found = measure(library, operations or OPERATIONS)
    if not operations:
        at = run("git", "-C", str(HERE), "describe", "--always", "--dirty").strip()
        PAGE.write_text(page(found, at), encoding="utf-8")
    return 1 if beyond(found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], tuple(sys.argv[2:])))
