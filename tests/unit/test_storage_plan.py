"""From cluster.yml and what nodes answer to what `plan` says of their disks; only the answers are made up."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_storage import ON_SSD, STICK, T7, card, mounted, part, pi, ssd

from rpicluster.cluster import Cluster
from rpicluster.design.plan import Action, Plan
from rpicluster.errors import NodeUnreachable, UsageError
from rpicluster.model.machine import (
    Address,
    Interface,
    MachineFacts,
    MachineMemory,
    Manifest,
    Mount,
    OperatingSystem,
    Processor,
    Route,
)
from rpicluster.nodes.remote import place
from rpicluster.nodes.ssh.observe import Observation

TEXT = """name: lab
users: [ana]
nodes:
  - {name: pi1, ssh: {host: 10.0.0.1, user: pi}}
  - {name: pi2, ssh: {host: 10.0.0.2, user: pi}, storage: @}
"""


def node(number: int, machine: MachineFacts, **about: object) -> MachineFacts:
    address = Address(address=f"10.0.0.{number}", prefix=24)
    known = {
        "machine_id": f"m{number}",
        "boot_id": f"b{number}",
        "privilege": "sudo",
        "login": "pi",
        "memory": MachineMemory(total_mib=3792),
        "processor": Processor(cores=4),
        "os": OperatingSystem(id="debian", codename="bookworm", name="Debian 12"),
        "interfaces": (Interface(name="eth0", up=True, hardware=True, addresses=(address,)),),
        "routes": (Route(family=4, gateway="10.0.0.254", interface="eth0"),),
        "firewall_tables": (),
    }
    return machine.model_copy(update={**known, **about})


class World:
    """Nodes as they answer now; None is a node that does not."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.nodes: dict[str, MachineFacts | None] = {"pi1": node(1, pi())}
        monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(folder / "state"))
        monkeypatch.setattr(place, "observe_nodes", self._observe)

    def _observe(self, targets: dict[str, object], *_: object, **__: object) -> dict[str, Observation]:
        return {
            name: Observation(facts=machine)
            if (machine := self.nodes.get(name)) is not None
            else Observation(error=NodeUnreachable(f"{name} is off", node=name, cause="timeout"))
            for name in targets
        }

    def cluster(self, storage: str, *formats: str) -> Cluster:
        path = self.folder / "cluster.yml"
        path.write_text(TEXT.replace(", storage: @", f", storage: {storage}" if storage else ""))
        cluster = Cluster.from_file(path)
        cluster.may_format(formats)
        return cluster

    def plan(self, storage: str, *formats: str) -> Plan:
        return self.cluster(storage, *formats).plan()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


NAMED = f'{{disk: "{T7}"}}'


def written(plan: Plan, node_name: str, path: str) -> str:
    (step,) = [s for s in plan.steps if (s.node, s.target) == (node_name, path) and s.content is not None]
    return step.content.decode()


def test_the_plan_shows_where_blocks_go_and_warns_of_a_card(world: World) -> None:
    world.nodes["pi2"] = node(2, pi(ssd(part("sda1")), mounts=(mounted("sda1", "/mnt/ssd", "sda"),)))
    plan = world.plan("")
    assert "file:///mnt/ssd/rpicluster/datanode/blocks" in written(plan, "pi2", "hadoop/hdfs-site.xml")
    assert "file:///var/lib/rpicluster/namenode/name" in written(plan, "pi1", "hadoop/hdfs-site.xml")
    notes = [note for note in plan.warnings if "data go to" in note]
    assert [note.split(":")[0] for note in notes] == ["pi1", "pi2"]
    assert "writing wears it out" in notes[0]


def test_a_disk_with_a_file_system_is_mounted_and_none_is_made(world: World) -> None:
    world.nodes["pi2"] = node(2, pi(ssd(part("sda1", "xfs"))))
    plan = world.plan(NAMED)
    assert not plan.refusals
    unit = written(plan, "pi2", "/etc/systemd/system/srv-rpicluster.mount")
    assert "What=/dev/disk/by-uuid/uuid-of-sda1" in unit and "Type=xfs" in unit
    assert [step for step in plan.steps if step.action is Action.FORMAT_DISK] == []
    (prepare,) = [s for s in plan.steps if (s.action, s.node) == (Action.PREPARE, "pi2")]
    assert "the disk for data on /srv/rpicluster" in prepare.reason


def test_an_empty_disk_is_refused_until_its_name_is_typed_and_then_shown_before_it_is_lost(
    world: World,
) -> None:
    world.nodes["pi2"] = node(2, pi(ssd()))
    (refusal,) = world.plan(NAMED).refusals
    assert refusal.endswith(f"rpicluster up --format {T7}")
    plan = world.plan(NAMED, T7)
    assert not plan.refusals
    (step,) = [step for step in plan.steps if step.action is Action.FORMAT_DISK]
    assert (step.node, step.target, step.symbol) == ("pi2", T7, "!")
    assert f"formats {T7} on pi2" in plan.summary()
    with pytest.raises(UsageError, match="names no such disk"):
        world.plan(NAMED, STICK)


def test_a_node_that_was_set_up_keeps_its_card_though_a_disk_was_plugged_in(world: World) -> None:
    with_ssd = pi(ssd(part("sda1")), mounts=(mounted("sda1", "/mnt/ssd", "sda"),))
    fresh = world.cluster("")
    world.nodes["pi2"] = node(2, with_ssd)
    mine = {"cluster": "lab", "cluster_id": fresh.placement.cluster_id}
    world.nodes["pi2"] = node(2, with_ssd, manifest=Manifest(version="1", extra=mine))
    plan = world.plan("")
    assert not plan.refusals
    assert "file:///var/lib/rpicluster/datanode" in written(plan, "pi2", "hadoop/hdfs-site.xml")
    (refusal,) = world.plan("/mnt/ssd").refusals
    assert refusal.startswith("pi2: its data lie in /var/lib/rpicluster")


def kept(world: World, *mounts: Mount) -> None:
    """Have pi2 answer as a node whose data lie on an SSD."""
    storage = {"cluster": "lab", "storage": ON_SSD.model_dump()}
    identity = world.cluster("").placement.cluster_id
    manifest = Manifest(version="1", extra={**storage, "cluster_id": identity})
    world.nodes["pi2"] = node(2, pi(ssd(part("sda1")), mounts=mounts), manifest=manifest)


def test_while_the_disk_is_away_the_plan_is_refused_and_its_files_stay_the_same(world: World) -> None:
    world.nodes["pi2"] = node(2, pi())
    kept(world, mounted("sda1", "/mnt/ssd", "sda"))
    there = world.plan("/mnt/ssd")
    assert not there.refusals
    kept(world)
    away = world.plan("/mnt/ssd")
    (refusal,) = away.refusals
    assert "nothing is mounted on /mnt/ssd now; is the disk connected?" in refusal
    assert written(away, "pi2", "hadoop/hdfs-site.xml") == written(there, "pi2", "hadoop/hdfs-site.xml")


def test_a_node_that_is_off_is_planned_for_the_disk_that_this_machine_remembers(world: World) -> None:
    world.nodes["pi2"] = node(2, pi())
    kept(world, mounted("sda1", "/mnt/ssd", "sda"))
    cluster = world.cluster("")
    cluster.plan()
    cluster.site.state.remember(placement=cluster.placement.model_dump())
    world.nodes["pi2"] = None
    off = world.cluster("")
    assert off.site.look.unreachable
    assert off.placement.nodes["pi2"].paths.disk == ON_SSD
    assert not off.plan().refusals


def test_a_card_that_was_written_anew_is_a_fresh_node_whatever_is_remembered(world: World) -> None:
    world.nodes["pi2"] = node(2, pi())
    kept(world, mounted("sda1", "/mnt/ssd", "sda"))
    cluster = world.cluster("")
    cluster.plan()
    cluster.site.state.remember(placement=cluster.placement.model_dump())
    world.nodes["pi2"] = node(2, pi())
    assert world.cluster("/var/lib").plan().refusals == ()


SHOWN = """Id=rpicluster-datanode.service
LoadState=loaded
ActiveState=inactive
SubState=dead
MainPID=0

Id=rpicluster-resourcemanager.service
LoadState=loaded
ActiveState=inactive
SubState=dead
MainPID=0

Id=mnt-ssd.mount
LoadState=loaded
ActiveState=%s
SubState=x
"""


@pytest.mark.parametrize(
    ("mount", "state", "detail"),
    [
        ("inactive", "failed", "the disk with its data is not mounted on /mnt/ssd"),
        ("active", "stopped", "systemd says inactive (dead), result "),
    ],
)
def test_a_daemon_whose_disk_is_away_says_so_and_one_that_needs_none_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch, mount: str, state: str, detail: str
) -> None:
    remote = world.cluster("").site.place
    asked: list[str] = []

    def check(_target: object, argv: list[str], **_: object) -> bytes:
        asked.extend(argv)
        return (SHOWN % mount).encode()

    monkeypatch.setattr(remote.nodes.ssh, "check", check)
    found, failed = remote.statuses({"pi2": ("datanode", "resourcemanager")}, disks={"pi2": "/mnt/ssd"})
    assert not failed and "mnt-ssd.mount" in asked
    assert [unit.state for unit in found] == [state, "stopped"]
    assert found[0].detail == detail


def test_virtual_nodes_have_no_disks_to_format(world: World) -> None:
    path = world.folder / "local.yml"
    path.write_text("name: demo\nnodes:\n  - {name: one, local: {memory: 4G}}\n")
    with pytest.raises(UsageError, match="they have no disks"):
        Cluster.from_file(path).may_format((T7,))


def test_the_disk_that_a_node_boots_from_is_never_formatted(world: World) -> None:
    world.nodes["pi2"] = node(2, pi())
    name = card().ids[0]
    plan = world.plan(f"{{disk: {name}}}", name)
    (refusal,) = plan.refusals
    assert "is the disk that it boots from; to use it, say storage: /var/lib" in refusal
    assert [step for step in plan.steps if step.action is Action.FORMAT_DISK] == []
