"""Who is taken for a Pi: recorded neighbour tables, and a multicast DNS responder on loopback."""

import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rpicluster.cli.main import cli
from rpicluster.model.neighbours import PREFIXES, Announced, find, maker, read_neighbours
from rpicluster.nodes.discovery.mdns import listen

# The form of iproute2 6.1 (recorded on Debian 12); addresses and MACs were exchanged.
TABLE = json.dumps(
    [
        {"dst": "192.168.1.1", "dev": "eth0", "lladdr": "02:fc:00:00:00:05", "state": ["REACHABLE"]},
        {"dst": "192.168.1.11", "dev": "eth0", "lladdr": "DC:A6:32:01:02:03", "state": ["STALE"]},
        {
            "dst": "fe80::1%eth0",
            "dev": "eth0",
            "lladdr": "dc:a6:32:01:02:03",
            "router": None,
            "state": ["STALE"],
        },
        {"dst": "192.168.1.12", "dev": "eth0", "lladdr": "b8:27:eb:0a:0b:0c", "state": ["FAILED"]},
        {"dst": "192.168.1.13", "dev": "eth0", "state": ["INCOMPLETE"]},
        {"dst": "192.168.1.9", "dev": "eth0", "lladdr": "2c:cf:67:11:11:11", "state": ["DELAY"]},
    ]
)


def test_neighbours_that_answered_are_read_and_others_are_not() -> None:
    found = read_neighbours(TABLE)
    assert [n.address for n in found] == ["192.168.1.1", "192.168.1.11", "fe80::1", "192.168.1.9"]
    assert found[1].mac == "dc:a6:32:01:02:03"
    assert read_neighbours("") == read_neighbours("[]") == ()


@pytest.mark.parametrize(
    "text", ["{", '{"dst": 1}', '["x"]', '[{"dst": "x", "lladdr": "dc:a6:32:01:02:03"}]']
)
def test_an_answer_that_is_no_table_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        read_neighbours(text)


def test_only_the_prefixes_of_raspberry_pi_are_pis() -> None:
    assert maker("B8:27:EB:00:00:00") == "Raspberry Pi Foundation"
    assert maker("b8:27:ec:00:00:00") is None and maker("") is None
    assert all(len(prefix) == 8 and prefix == prefix.lower() for prefix in PREFIXES)


def test_a_pi_is_one_machine_with_all_its_addresses_and_a_router_is_none() -> None:
    first, second = find(read_neighbours(TABLE), ())
    assert (first.addresses, first.likely) == (("192.168.1.9",), True)
    assert second.addresses == ("192.168.1.11", "fe80::1")
    assert second.reasons == ("its MAC address was given to Raspberry Pi Trading Ltd",)


def test_a_name_joins_its_address_and_whoever_only_announces_ssh_is_no_likely_pi() -> None:
    announced = (
        Announced("pi1.local", ("192.168.1.11",), ("_ssh._tcp",)),
        Announced("desktop.local", ("192.168.1.50",), ("_ssh._tcp",)),
        Announced("raspberrypi-2.local", ("192.168.1.60",)),
        Announced("evil\x1b[2J.local", ("192.168.1.66",)),
    )
    found = {machine.name: machine for machine in find(read_neighbours(TABLE), announced)}
    assert set(found) == {"", "pi1.local", "desktop.local", "raspberrypi-2.local"}
    assert found["pi1.local"].mac == "dc:a6:32:01:02:03" and found["pi1.local"].likely
    assert not found["desktop.local"].likely
    assert found["raspberrypi-2.local"].reasons == ("it calls itself raspberrypi-2.local",)


# -- multicast DNS: a responder written by hand, byte by byte (RFC 1035, 6762, 6763) -------------------------

GROUP, PORT = "224.0.0.251", 5353
A, PTR, SRV = 1, 12, 33


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.rstrip(".").split(".")) + b"\0"


def record(owner: str, kind: int, data: bytes) -> bytes:
    return name(owner) + struct.pack("!HHIH", kind, 1, 120, len(data)) + data


def answer(*records: bytes) -> bytes:
    return struct.pack("!HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def host(label: str, address: str) -> bytes:
    return record(f"{label}.local", A, socket.inet_aton(address))


# By the first label asked for: the rest of a name may be a pointer to one before it.
RECORDS = {
    b"\x04_ssh": answer(
        record("_ssh._tcp.local", PTR, name("pi1._ssh._tcp.local")),
        record("pi1._ssh._tcp.local", SRV, struct.pack("!HHH", 0, 0, 22) + name("pi1.local")),
        record("pi1._ssh._tcp.local", 16, b"\0"),
        host("pi1", "192.0.2.11"),
    ),
    b"\x0braspberrypi": answer(host("raspberrypi", "192.0.2.77")),
}


class Responder(threading.Thread):
    """Answers on loopback only, until it is stopped; `heard` counts the queries that it knew."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.heard = 0
        self.ended = threading.Event()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind((GROUP, PORT))
        member = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        self.socket.settimeout(0.1)

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                query, sender = self.socket.recvfrom(9000)
            except TimeoutError:
                continue
            is_query = len(query) > 12 and not query[2] & 0x80
            for asked, said in RECORDS.items():
                if is_query and sender[0] == "127.0.0.1" and asked in query:
                    self.heard += 1
                    self.socket.sendto(said, (GROUP, PORT))

    def stop(self) -> None:
        self.ended.set()
        self.join(5)
        self.socket.close()


@pytest.fixture
def responder() -> Iterator[Responder]:
    pytest.importorskip("zeroconf", reason="the extra `discover` is not installed")
    try:
        started = Responder()
    except OSError as error:
        pytest.skip(f"no multicast on loopback here: {error}")
    started.start()
    yield started
    started.stop()


def test_who_announces_ssh_or_is_called_raspberrypi_is_found_by_multicast_dns(responder: Responder) -> None:
    started = time.monotonic()
    found = {one.name: one for one in listen(2.0, interfaces=["127.0.0.1"])}
    assert time.monotonic() - started < 5
    assert responder.heard > 0
    assert found["pi1.local"].addresses == ("192.0.2.11",)
    assert found["pi1.local"].services == ("_ssh._tcp",)
    assert found["raspberrypi.local"].addresses == ("192.0.2.77",)


def test_silence_ends_with_the_deadline_and_with_nobody() -> None:
    pytest.importorskip("zeroconf", reason="the extra `discover` is not installed")
    started = time.monotonic()
    assert listen(0.5, interfaces=["127.0.0.1"]) == ()
    assert time.monotonic() - started < 4


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a namespace needs root")
def test_a_machine_without_a_network_is_told_so_without_a_traceback() -> None:
    pytest.importorskip("zeroconf", reason="the extra `discover` is not installed")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "rpicluster", "discover", "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["machines"] == [] and "multicast DNS cannot be asked" in document["notes"][0]


# -- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def fake_ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `ip` that prints the recorded table, and no library for multicast DNS."""
    program = tmp_path / "ip"
    (tmp_path / "table").write_text(TABLE)
    program.write_text(f"#!/bin/sh\n[ \"$*\" = '-json neigh show' ] && cat {tmp_path}/table\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(__import__("sys").modules, "zeroconf", None)
    return program


def test_without_the_library_the_neighbour_table_is_listed_and_the_rest_is_said(fake_ip: Path) -> None:
    done = CliRunner().invoke(cli, ["discover", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [machine["addresses"][0] for machine in document["machines"]] == ["192.168.1.9", "192.168.1.11"]
    assert document["schema"] == 1 and "not installed" in document["notes"][0]
    table = CliRunner().invoke(cli, ["discover"])
    assert "192.168.1.11" in table.stdout and "pip install 'rpicluster[discover]'" in table.stderr


def test_where_neither_can_be_asked_it_is_an_error(fake_ip: Path) -> None:
    from rpicluster.cli.main import run

    fake_ip.write_text("#!/bin/sh\necho no such table >&2\nexit 2\n")
    assert run(["discover"]) == 1


def test_a_name_that_is_none_is_passed_over(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = answer(
        record("_ssh._tcp.local", PTR, name("x._http._udp.local")),
        record("_ssh._tcp.local", PTR, name("pi1._ssh._tcp.local")),
    )
    monkeypatch.setitem(RECORDS, b"\x04_ssh", odd)
    names = [one.name for one in listen(2.0, interfaces=["127.0.0.1"])]
    assert "raspberrypi.local" in names
