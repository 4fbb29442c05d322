"""Measures what README and docs claim; writes benchmarks/results.md."""

import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rpicluster import rpackage
from rpicluster.cluster import Cluster
from rpicluster.nodes.local.first_spec import initial_spec
from rpicluster.runtime import store

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "rpicluster"]
RUNS = 7
SETTLE_S = 20
TARGETS = {
    "rpicluster --help": "≤ 150 ms",
    'sql "select 1", warm, beyond Python\'s start': "≤ 0.6 s",
    "cold up: HDFS out of safe mode, NodeManagers running": "≤ 30 s",
    "idle daemons, PSS, against Java's default flags": "≤ 60 %",
    "shipped per session": "≤ 4 MB",
    "1e6 × 4 rows into R": "≤ 2 s",
    "1e6 × 4 rows up from R": "≤ 4 s",
    "warm rpicluster demo": "≤ 90 s",
    "put of 100 MiB into HDFS, verified, against curl": "–",
    "runtime that is there already, found and checked": "–",
}


def silent(*_: object) -> None:
    """Report to nobody."""


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def in_turn(command: list[str], base: list[str]) -> tuple[float, float]:
    """Return the medians of two commands that were run in turn."""
    pairs = [(seconds(command), seconds(base)) for _ in range(RUNS + 1)][1:]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def pss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1]) / 1024


@contextmanager
def daemons(cluster: Cluster, *, stock: bool) -> Iterator[list[int]]:
    """Run the six daemons and nothing else, with our flags or with Java's own defaults; yields their pids."""
    processes = []
    try:
        for unit in cluster.rendered.units:
            if unit.name.startswith("session"):
                continue
            argv = [part for part in unit.argv if not (stock and part.startswith("-X"))]
            environment = {k: v for k, v in unit.environment if not (stock and k == "MALLOC_ARENA_MAX")}
            processes.append(
                subprocess.Popen(
                    [part for part in argv if not part.startswith("-Drpicluster.unit")],
                    env=environment,
                    cwd=unit.directory,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


def idle_mib(cluster: Cluster, *, stock: bool) -> float:
    """Return the PSS of the six daemons, SETTLE_S after they have formed a cluster."""
    with daemons(cluster, stock=stock) as pids:
        deadline = time.monotonic() + 180
        while True:
            try:
                if not cluster.namenode.safe_mode() and sum(n.is_running for n in cluster.yarn.nodes()) == 2:
                    break
            except Exception as error:
                if time.monotonic() > deadline:
                    raise TimeoutError("the daemons did not come up") from error
            time.sleep(0.5)
        time.sleep(SETTLE_S)
        return sum(pss_mib(pid) for pid in pids)


def idle_memory(cluster: Cluster) -> tuple[float, float]:
    """Return MiB of PSS of the six daemons, ours and with default flags, each the median of three in turn."""
    cluster.stop(report=silent)
    pairs = [(idle_mib(cluster, stock=False), idle_mib(cluster, stock=True)) for _ in range(3)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def transfer(cluster: Cluster, folder: Path) -> dict[str, float]:
    library = folder / "library"
    rpackage.install(library)
    out = folder / "transfer.json"
    subprocess.run(
        ["Rscript", str(ROOT / "tests" / "r" / "transfer.R"), str(out)],
        env={**os.environ, "R_LIBS": str(library), "RPICLUSTER_CONNECTION": str(cluster.connection_path)},
        check=True,
    )
    found: dict[str, float] = json.loads(out.read_text())
    return found


def put_against_curl(cluster: Cluster, folder: Path) -> str:
    source = folder / "100 MiB"
    source.write_bytes(os.urandom(100 << 20))
    home = f"/user/{cluster.login}"
    url = cluster.webhdfs.url("CREATE", f"{home}/curl", {"overwrite": "true"})

    def ours() -> float:
        started = time.perf_counter()
        cluster.put(source, f"{home}/ours", overwrite=True, progress=silent)
        return time.perf_counter() - started

    curl = ["curl", "--fail", "-s", "-L", "-T", str(source), url]
    pairs = [(ours(), seconds(curl)) for _ in range(RUNS + 1)][1:]
    put_s, curl_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    return f"{put_s:.2f} s, curl {curl_s:.2f} s: {put_s / curl_s:.1f} ×"


def warm_ensure_ms() -> float:
    started = time.perf_counter()
    for _ in range(RUNS):
        store.ensure()
    return 1000 * (time.perf_counter() - started) / RUNS


def measure(folder: Path) -> dict[str, str]:
    os.environ["RPICLUSTER_STATE_DIR"] = str(folder / "state")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's second command finds what the first compiled
    found = {}
    python = [sys.executable, "-c", "pass"]
    helped, base = in_turn([*PROGRAM, "--help"], python)
    found["rpicluster --help"] = f"{helped * 1000:.0f} ms (python alone {base * 1000:.0f} ms)"
    store.ensure()
    found["runtime that is there already, found and checked"] = f"{warm_ensure_ms():.0f} ms"
    spec = folder / "cluster.yml"
    spec.write_text(initial_spec(name="bench", workers=2, memory=None))
    cluster = Cluster.from_file(spec)
    try:
        with cluster.changing("bench"):
            cluster.ensure_runtime(silent)
            timings = list(cluster.apply(cluster.plan(), report=silent).values())
        found["cold up: HDFS out of safe mode, NodeManagers running"] = f"{timings[0]:.1f} s"
        found["cold up: first select 1 answered"] = f"{timings[1]:.1f} s"
        one = ["sql", "--cluster", "bench", "select 1"]
        warm, base = in_turn([*PROGRAM, *one], python)
        found['sql "select 1", warm, beyond Python\'s start'] = f"{warm - base:.2f} s"
        application = cluster.check_door()["application"]
        staged = cluster.webhdfs.content_summary(f"/user/{cluster.login}/.sparkStaging/{application}")
        found["shipped per session"] = f"{staged.length_bytes / 1e6:.2f} MB"
        found["put of 100 MiB into HDFS, verified, against curl"] = put_against_curl(cluster, folder)
        if shutil.which("Rscript"):
            moved = transfer(cluster, folder)
            found["1e6 × 4 rows into R"] = f"{moved['down_s']:.2f} s"
            found["1e6 × 4 rows up from R"] = f"{moved['up_s']:.2f} s"
        ours, stock = idle_memory(cluster)
        found["idle daemons, PSS, against Java's default flags"] = (
            f"{ours:.0f} of {stock:.0f} MiB, {100 * ours / stock:.0f} %"
        )
        cluster.destroy(report=silent)
        seconds([*PROGRAM, "demo", "--yes"])
        found["warm rpicluster demo"] = f"{seconds([*PROGRAM, 'demo', '--yes']):.0f} s"
        Cluster.find("demo").destroy(report=silent)
    except BaseException:
        cluster.destroy(report=silent)
        raise
    return found


def machine() -> str:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), load before {load:.1f}"


def ran_on(where: str) -> str:
    """Return when, on which commit, system and machine (`where`) something was measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    today, python = time.strftime("%Y-%m-%d"), platform.python_version()
    return f"{today}, commit {commit}; {system}, {where}; Python {python}. Method: [README](README.md)."


def main() -> None:
    where = machine()
    with tempfile.TemporaryDirectory(prefix="rpicluster-bench-") as folder:
        found = measure(Path(folder))
    lines = [
        "# Figures",
        "",
        f"{ran_on(where)} Virtual nodes on one machine, no real board.",
        "",
        "| figure | aim | measured |",
        "|---|---|---|",
        *(f"| {name} | {TARGETS.get(name, '–')} | {value} |" for name, value in found.items()),
    ]
    text = "\n".join(lines) + "\n"
    (Path(__file__).parent / "results.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
