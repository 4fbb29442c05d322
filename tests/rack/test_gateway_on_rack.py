"""sparklyr's gateway on virtual Pis: let in whom it may, R through a tunnel, back after every fault."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_tools import ClusterUnderTest, inventories
from rack_tools import RackUnderTest

from rpicluster.errors import RpiclusterError
from rpicluster.runtime import sparklyr_jar

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

UNITS = {"pi1": ("namenode", "resourcemanager", "session-pi"), "pi2": ("datanode", "nodemanager")}
BACK_S, BACK_AFTER_REBOOT_S = 30, 120  # the product's limits
STATUS_FILE = "/run/rpicluster/session-pi/session-pi.json"
KNOCK = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 3).close()
    print("let in")
except OSError as error:
    print(error.strerror or error)
"""


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> Iterator[ClusterUnderTest]:
    try:
        sparklyr_jar.find()
    except RpiclusterError as error:
        pytest.skip(f"no sparklyr to test with: {error.message}")
    rack = make_rack("gateway")
    rack.run("up", "--nodes", "4G,2G")
    found = ClusterUnderTest(rack, inventories(rack, UNITS), UNITS)
    found.rpicluster("up", "--yes")  # `auto`, which is on here
    yield found


def state_folder(cluster: ClusterUnderTest) -> Path:
    return Path(cluster.asked("str(c.site.directory)"))


def door(cluster: ClusterUnderTest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((state_folder(cluster) / "connection.json").read_text())["sparklyr"]
    return found


def keeper_says(cluster: ClusterUnderTest) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(cluster.on("pi1", "sudo", "cat", STATUS_FILE))
    return said


def back(cluster: ClusterUnderTest, app_id: str, limit_s: float) -> float:
    """Return after how many seconds the session is healthy with another application."""
    started = time.monotonic()
    while time.monotonic() < started + 10 * limit_s:
        try:
            said = keeper_says(cluster)
        except (AssertionError, ValueError, subprocess.TimeoutExpired):  # it reboots
            said = {}
        if said.get("state") == "healthy" and said["app_id"] != app_id:
            return time.monotonic() - started
        time.sleep(0.5)
    raise AssertionError(f"not back: {keeper_says(cluster)}")


def test_both_doors_of_the_session_are_one_application(cluster: ClusterUnderTest) -> None:
    said = keeper_says(cluster)
    assert [each["kind"] for each in said["doors"]] == ["sparklyr", "connect"]
    with_connect = cluster.asked("[s := c.session(), s.app_id(), s.close()][1]")
    assert with_connect == said["app_id"]
    assert door(cluster)["last_port"] == door(cluster)["port"] + 19
    jar = cluster.on("pi1", "sha256sum", "/etc/rpicluster/session/sparklyr.jar").split()[0]
    assert jar == sparklyr_jar.find().sha256


def test_another_login_of_the_manager_is_refused_on_every_port_of_the_gateway(
    cluster: ClusterUnderTest,
) -> None:
    cluster.on("pi1", "sudo", "useradd", "eve")
    first = door(cluster)["port"]
    ports = (first, first + 1, first + 19, first + 99)  # the gateway's, the keeper's, and free ones

    def knock(login: str) -> list[str]:
        return [
            cluster.on("pi1", "sudo", "-u", login, "python3", "-", str(port), stdin=KNOCK) for port in ports
        ]

    for login in ("pi", "root", "rpi-tunnel"):
        assert knock(login)[:2] == ["let in", "let in"], login
    for login in ("eve", "rpi-yarn", "rpi-hdfs"):
        assert knock(login) == ["Connection refused"] * 4, login
    # The kernel refuses what nobody listens on, too: the rules must have done it.
    counted = cluster.on("pi1", "sudo", "nft", "list", "chain", "inet", "rpicluster", "to_gateway_0")
    packets = re.search(r"counter packets (\d+)", counted)
    assert packets is not None and int(packets[1]) >= 12


def test_r_without_java_works_through_the_tunnel_s_equal_ports(cluster: ClusterUnderTest) -> None:
    there, state = door(cluster), state_folder(cluster)
    forwards = [
        word
        for port in range(there["port"], there["last_port"] + 1)
        for word in ("-L", f"127.0.0.1:{port}:127.0.0.1:{port}")
    ]
    config = str(cluster.rack.directory / "ssh_config")
    own = ["-o", "ControlPath=none", "-o", "IdentitiesOnly=yes", "-o", "ExitOnForwardFailure=yes"]
    tunnel = subprocess.Popen(
        [
            "ssh",
            "-F",
            config,
            *own,
            "-i",
            str(state / "tunnel-key"),
            "-l",
            "rpi-tunnel",
            "-N",
            *forwards,
            "pi1",
        ],
        stdin=subprocess.DEVNULL,
    )
    code = """
    suppressMessages({library(sparklyr); library(dplyr)})
    t <- proc.time()[[3]]
    sc <- spark_connect(master = commandArgs(TRUE)[[1]])
    cat("connected after", proc.time()[[3]] - t, "s\\n")
    cars <- copy_to(sc, mtcars, "cars", overwrite = TRUE)
    there <- cars |> group_by(cyl) |> summarise(m = mean(mpg, na.rm = TRUE)) |> collect() |> arrange(cyl)
    model <- ml_linear_regression(cars, mpg ~ wt + cyl)
    here <- lm(mpg ~ wt + cyl, mtcars)
    cat("said:", isTRUE(all.equal(there$m, as.vector(tapply(mtcars$mpg, mtcars$cyl, mean)))),
        isTRUE(all.equal(unname(model$coefficients), unname(coef(here)), tolerance = 1e-6)))
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("JAVA_HOME", "SPARK_HOME")}
    rscript = shutil.which("Rscript")
    assert rscript is not None
    try:
        time.sleep(3)
        assert tunnel.poll() is None, "ssh refused a forward"
        master = f"sparklyr://{there['host']}:{there['port']}/{there['session']}"
        done = subprocess.run(
            [rscript, "-e", code, master],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    finally:
        tunnel.terminate()
        tunnel.wait(10)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    assert done.stdout.endswith("said: TRUE TRUE")


@pytest.mark.parametrize("fault", ["killed", "frozen", "application killed"])
def test_the_gateway_is_back_by_itself_and_status_says_what_happened(
    cluster: ClusterUnderTest, fault: str
) -> None:
    before = keeper_says(cluster)
    if fault == "application killed":
        cluster.rpicluster("jobs", "kill", before["app_id"], "--yes")
    else:
        signal = "KILL" if fault == "killed" else "STOP"
        cluster.on("pi1", "sudo", "kill", f"-{signal}", str(before["driver"]["pid"]))
    took_s = back(cluster, before["app_id"], BACK_S)
    print(f"{fault}: back after {took_s:.1f} s, load {os.getloadavg()[0]:.1f}")
    words = cluster.rpicluster("status")
    assert re.search(r"replaced (once|\d+ times), last .* ago: ", words), words
    assert took_s <= BACK_S


def test_the_gateway_is_back_after_the_manager_rebooted(cluster: ClusterUnderTest) -> None:
    before = keeper_says(cluster)["app_id"]
    started = time.monotonic()
    cluster.rack.run("reboot", "pi1")
    back(cluster, before, BACK_AFTER_REBOOT_S)
    took_s = time.monotonic() - started
    print(f"rebooted: back after {took_s:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert took_s <= BACK_AFTER_REBOOT_S
