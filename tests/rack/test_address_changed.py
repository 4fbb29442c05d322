"""A node that comes back with another address is found again, and its DataNode keeps its blocks."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_tools import ClusterUnderTest
from moving import Addresses
from rack_tools import RackUnderTest, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

MANAGER = ("namenode", "resourcemanager", "session-pi")
WORKER = ("datanode", "nodemanager")
ROWS = 3_000_000
TOTALS = "SELECT count(*) AS n, sum(id) AS s, count(DISTINCT g) AS g FROM numbers"
EXPECTED = [[ROWS, ROWS * (ROWS - 1) // 2, 97]]
LARGE = "100k"  # a table's blocks are; files of the session, which come and go, are not
HDFS = "[r.missing_blocks, r.corrupt_blocks, r.under_replicated_blocks, len(r.live)]"


class Moving:
    """A cluster of three whose nodes change their addresses."""

    def __init__(self, rack: RackUnderTest) -> None:
        self.rack = rack
        self.cluster = ClusterUnderTest(rack, {}, {"pi1": MANAGER, "pi2": WORKER, "pi3": WORKER})
        self.addresses = Addresses(rack)
        self.first = {node: self.addresses.of(node) for node in self.cluster.units}

    def free(self, number: int) -> str:
        return f"{self.first['pi1'].rpartition('.')[0]}.{number}"

    def blocks(self, node: str) -> frozenset[str]:
        """Return the blocks of a DataNode that hold the table, each with its size."""
        command = (
            f"sudo find /var/lib/rpicluster -name 'blk_*' ! -name '*.meta' -size +{LARGE} -printf '%f %s\\n'"
        )
        return frozenset(self.addresses.on(node, command).splitlines())

    def identity(self, node: str) -> str:
        """Return the DataNode's own lasting identity and that of its disk."""
        command = (
            "sudo grep -rhE '^(datanodeUuid|storageID|clusterID)=' /var/lib/rpicluster --include=VERSION"
        )
        return self.addresses.on(node, f"{command} | sort -u")

    def pids(self) -> dict[str, str]:
        return {
            f"{unit} on {node}": self.addresses.on(
                node, f"systemctl show -p MainPID --value rpicluster-{unit}"
            )
            for node, units in self.cluster.units.items()
            for unit in units
        }

    def naming(self, node: str, address: str) -> str:
        """Return the files and rules of ours on a node that name an address."""
        word = re.escape(address)
        return self.addresses.on(
            node,
            f"sudo grep -rlwF {address} /etc/hosts /etc/rpicluster /etc/ssh/sshd_config.d /etc/systemd/system"
            f" /etc/profile.d || true; sudo nft list table inet rpicluster | grep -w '{word}' || true",
        )

    def hosts(self, node: str) -> set[str]:
        """Return the lines of our block in a node's /etc/hosts."""
        text = self.addresses.on(node, "sed -n '/^# BEGIN rpicluster/,/^# END rpicluster/p' /etc/hosts")
        return {" ".join(line.split()) for line in text.splitlines() if not line.startswith("#")}

    def require_whole(self) -> None:
        """Wait until HDFS has every block as often as it should, and ask for the rows."""

        def report() -> list[int]:
            found: list[int] = self.cluster.asked(f"(lambda r: {HDFS})(c.namenode.report())")
            return found

        wait_for("every block in two copies", lambda: report() == [0, 0, 0, 2], 120)
        assert self.cluster.sql(TOTALS) == EXPECTED

    def plan(self, code: int = 0) -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = json.loads(
            self.cluster.rpicluster("plan", "--json", code=code)
        )
        return found


@pytest.fixture(scope="module")
def moving(make_rack: Callable[[str], RackUnderTest]) -> Iterator[Moving]:
    """A cluster with a table, whose blocks are on both workers."""
    rack = make_rack("moving")
    rack.run("up", "--nodes", "4G,2G,2G")
    made = Moving(rack)
    made.cluster.rpicluster("up", "--yes")
    made.cluster.rpicluster(
        "sql", f"CREATE TABLE numbers AS SELECT id, id % 97 AS g FROM range(0, {ROWS}, 1, 8)"
    )
    made.require_whole()
    yield made
    # `rack down` knows nodes by their disks and cables, not by their addresses.


def test_a_worker_with_another_address_is_found_and_keeps_its_blocks(moving: Moving, tmp_path: Path) -> None:
    blocks, identity, pids = moving.blocks("pi2"), moving.identity("pi2"), moving.pids()
    assert blocks
    was, now = moving.first["pi2"], moving.free(57)
    moving.addresses.change(pi2=now)
    begun = time.monotonic()
    plan = moving.plan()
    print(f"plan, which looks for it: {time.monotonic() - begun:.1f} s")
    moves = [step for step in plan["steps"] if step["action"] == "move"]
    assert [(step["node"], step["reason"]) for step in moves] == [("pi2", f"pi2 moved from {was} to {now}")]
    assert not plan["unreachable"] and not plan["refusals"]
    restarts = {
        (s["node"], s["target"]) for s in plan["steps"] if s["action"] in ("restart", "start", "stop")
    }
    assert restarts <= {("pi2", "datanode"), ("pi2", "nodemanager")}, "only what must"
    begun = time.monotonic()
    moving.cluster.rpicluster("up", "--yes")
    print(f"up: {time.monotonic() - begun:.1f} s")
    for node in ("pi1", "pi2", "pi3"):
        assert moving.naming(node, was) == "", f"{node} still names the old address"
    assert f"{now} pi2" in moving.hosts("pi1") & moving.hosts("pi3")
    moving.require_whole()
    assert blocks <= moving.blocks("pi2")
    assert moving.identity("pi2") == identity
    after = moving.pids()
    kept = [unit for unit in pids if not unit.endswith("on pi2") and not unit.startswith("session")]
    assert {unit: after[unit] for unit in kept} == {unit: pids[unit] for unit in kept}
    copied = tmp_path / "copied"
    copied.write_bytes(b"x" * 300_000)
    moving.cluster.rpicluster("put", str(copied), "copied")  # also through the tunnel's list of ports
    moving.cluster.rpicluster("get", "copied", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == copied.read_bytes()


def test_the_next_up_finds_nothing_to_do_and_status_and_ssh_go_to_the_new_address(moving: Moving) -> None:
    assert not moving.plan()["steps"]
    begun = time.monotonic()
    moving.cluster.rpicluster("up", "--yes")
    print(f"up without changes: {time.monotonic() - begun:.1f} s")
    moving.cluster.rpicluster("status")
    assert moving.cluster.rpicluster("ssh", "pi2", "hostname").strip() == "pi2"
    assert "address-changed" not in moving.cluster.asked("[f.id for f in c.doctor().findings]")


def test_two_workers_that_change_places_are_told_apart_and_keep_their_blocks(moving: Moving) -> None:
    before = {node: (moving.blocks(node), moving.identity(node)) for node in ("pi2", "pi3")}
    two, three = moving.addresses.of("pi2"), moving.addresses.of("pi3")
    # By a third address, as leases change hands; two machines never have one address.
    moving.addresses.change(pi2=moving.free(58))
    moving.addresses.change(pi3=two)
    moving.addresses.change(pi2=three)
    plan = moving.plan()
    moves = {step["reason"] for step in plan["steps"] if step["action"] == "move"}
    assert moves == {f"pi2 moved from {two} to {three}", f"pi3 moved from {three} to {two}"}
    moving.cluster.rpicluster("up", "--yes")
    assert moving.hosts("pi1") >= {f"{three} pi2", f"{two} pi3"}
    moving.require_whole()
    for node, (blocks, identity) in before.items():
        assert moving.identity(node) == identity
        assert blocks <= moving.blocks(node)
    assert not moving.plan()["steps"]


def test_a_manager_with_another_address_is_refused_and_works_again_with_its_own(moving: Moving) -> None:
    was, now = moving.addresses.of("pi1"), moving.free(77)
    moving.addresses.change(pi1=now)
    (refusal,) = moving.plan()["refusals"]
    assert f"pi1, the manager, moved from {was} to {now}" in refusal
    moving.cluster.rpicluster("up", "--yes", code=2)
    moving.addresses.change(pi1=was)
    moving.cluster.rpicluster("up", "--yes")
    moving.require_whole()
