"""What is decided of nodes behind SSH: addresses, Java, states, refusals, bundles."""

import base64
import json

import pytest

from rpicluster.design.plan import Action, Step
from rpicluster.design.units import RenderedFile
from rpicluster.errors import FactsIncomplete, SpecError
from rpicluster.model.machine import (
    Address,
    Cgroups,
    Daemon,
    DeployedFile,
    Interface,
    Java,
    MachineFacts,
    Manifest,
    OperatingSystem,
    Route,
    SystemdUnit,
)
from rpicluster.model.spec import SshTarget
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.remote import manifest
from rpicluster.nodes.remote.bundle import NodeWork, bundle
from rpicluster.nodes.remote.change import prepare_steps
from rpicluster.nodes.remote.manifest import Base
from rpicluster.nodes.remote.observed import observed, refusals, unit_state
from rpicluster.nodes.remote.placement import (
    cluster_address,
    cluster_facts,
    java_homes,
    mixed_java,
    packages,
    place_nodes,
    session_users,
)
from rpicluster.nodes.remote.removal import difference, left

SPEC = parse_spec(
    """
name: lab
nodes:
  - {name: pi1, ssh: {host: pi1.lan, user: pi}, hardware: {memory: 4G}}
  - {name: pi2, ssh: {host: pi2.lan, user: pi}, hardware: {memory: 2G}}
""",
    "cluster.yml",
)
BASE = Base(
    "rpicluster", (), ({"path": "/etc/rpicluster", "mode": "0755", "owner": "root", "group": "root"},), ""
)


def interface(name: str, *addresses: str, wireless: bool = False, hardware: bool = True) -> Interface:
    return Interface(
        name=name,
        up=True,
        wireless=wireless,
        hardware=hardware,
        addresses=tuple(Address(address=a, prefix=24) for a in addresses),
    )


def machine(**facts: object) -> MachineFacts:
    defaults: dict[str, object] = {
        "machine_id": "a",
        "privilege": "sudo",
        "login": "pi",
        "interfaces": (interface("eth0", "192.168.1.11"),),
        "routes": (Route(family=4, gateway="192.168.1.1", interface="eth0"),),
        "userland_arch": "arm64",
        "os": OperatingSystem(id="debian", codename="bookworm"),
        "firewall_tables": (),
    }
    return MachineFacts.model_validate({**defaults, **facts})


# -- placement -----------------------------------------------------------------------------------------


def test_the_address_by_which_we_reach_a_node_counts_where_it_is_its_own() -> None:
    seen = machine(interfaces=(interface("eth0", "192.168.1.11"), interface("eth1", "10.0.0.1")))
    assert cluster_address("pi1", SshTarget(host="10.0.0.1"), seen, []) == "10.0.0.1"


def test_a_name_leads_to_the_address_in_the_managers_network_not_to_a_bridge_of_docker() -> None:
    seen = machine(
        interfaces=(
            interface("docker0", "172.17.0.1", hardware=False),
            interface("wlan0", "192.168.1.51", wireless=True),
            interface("eth0", "192.168.1.12"),
        ),
        routes=(),
    )
    spec_target = SshTarget(host="pi2.lan")
    placed = place_nodes(SPEC, {"pi1": machine(), "pi2": seen}, cluster_id="x", login="pi")
    assert placed.nodes["pi2"].address == "192.168.1.12"
    assert cluster_address("pi2", spec_target, seen, []) == "192.168.1.12"


def test_a_node_behind_a_jump_host_is_placed_by_its_default_route() -> None:
    seen = machine(interfaces=(interface("eth0", "10.9.9.9"), interface("eth1", "192.168.7.2")))
    assert cluster_address("pi1", SshTarget(host="localhost"), seen, []) == "10.9.9.9"


def test_a_node_without_an_address_is_refused_with_its_name() -> None:
    with pytest.raises(FactsIncomplete, match="pi1 has no IPv4 address"):
        cluster_address("pi1", SshTarget(host="pi1.lan"), machine(interfaces=()), [])


@pytest.mark.parametrize(
    ("codename", "installed", "home", "wanted"),
    [
        ("bookworm", (), "/usr/lib/jvm/java-17-openjdk-arm64", ("openjdk-17-jre-headless",)),
        ("trixie", (), "/usr/lib/jvm/java-21-openjdk-arm64", ("openjdk-21-jre-headless",)),
        ("bookworm", (("/opt/jdk21", 21),), "/opt/jdk21", ()),
        ("noble", (("/opt/jdk21", 21), ("/opt/jdk17", 17)), "/opt/jdk17", ()),
        (
            "focal",
            (("/usr/lib/jvm/java-11", 11),),
            "/usr/lib/jvm/java-17-openjdk-arm64",
            ("openjdk-17-jre-headless",),
        ),
    ],
)
def test_java_is_what_will_do_or_what_the_system_offers(
    codename: str, installed: tuple[tuple[str, int], ...], home: str, wanted: tuple[str, ...]
) -> None:
    seen = machine(
        os=OperatingSystem(id="x", codename=codename),
        java=tuple(Java(home=path, version=f"{major}.0", major=major) for path, major in installed),
    )
    assert java_homes({"pi1": seen, "pi2": None}) == {"pi1": home}
    assert packages(seen, home) == wanted


def on(codename: str, *majors: int) -> MachineFacts:
    return machine(
        os=OperatingSystem(id="x", codename=codename),
        java=tuple(Java(home=f"/opt/jdk{major}", version=f"{major}.0", major=major) for major in majors),
    )


@pytest.mark.parametrize(
    ("nodes", "majors"),
    [
        ([on("noble"), on("trixie")], [21, 21]),
        ([on("noble", 17), on("trixie", 21)], [21, 21]),
        ([on("noble"), on("bookworm")], [17, 17]),
        ([on("noble", 17, 21), on("noble", 21)], [21, 21]),
        ([on("noble", 17, 21), on("noble", 17, 21)], [17, 17]),
        ([on("bookworm", 17), on("trixie", 17, 21)], [17, 17]),
        ([on("bookworm", 17, 21), on("trixie")], [21, 21]),
        ([on("noble", 21), on("noble", 17)], [17, 17]),
        ([on("trixie", 25), on("trixie", 11)], [21, 21]),
    ],
)
def test_all_nodes_get_the_java_that_all_have_or_can_have(
    nodes: list[MachineFacts], majors: list[int]
) -> None:
    machines = {f"pi{number}": node for number, node in enumerate(nodes)}
    homes = java_homes(machines)
    for (name, node), major in zip(machines.items(), majors, strict=True):
        there = any(java.major == major for java in node.java)
        assert homes[name] == (f"/opt/jdk{major}" if there else f"/usr/lib/jvm/java-{major}-openjdk-arm64")
        assert packages(node, homes[name]) == (() if there else (f"openjdk-{major}-jre-headless",))
    assert mixed_java({**machines, "never-seen": None}) == ()


def test_a_node_that_cannot_have_the_java_of_the_others_is_refused_by_name() -> None:
    (reason,) = mixed_java({"pi1": on("bookworm"), "pi2": on("bookworm", 17), "pi3": on("trixie", 21)})
    assert reason.startswith("pi3: its system has Java 21 and the other nodes have 17")
    assert "unpack a Java 17 below /opt on pi3" in reason
    # What each would run on by itself is still known, so that the plan can be shown.
    assert java_homes({"pi1": on("bookworm"), "pi3": on("trixie", 21)}) == {
        "pi1": "/usr/lib/jvm/java-17-openjdk-arm64",
        "pi3": "/opt/jdk21",
    }


def test_of_two_nodes_that_cannot_agree_one_is_named() -> None:
    (reason,) = mixed_java({"pi1": on("bookworm"), "pi2": on("trixie")})
    assert reason.startswith("pi2: ")


def test_nftables_is_installed_where_it_cannot_be_asked() -> None:
    assert "nftables" in packages(machine(firewall_tables=None), "/usr/lib/jvm/java-17-openjdk-arm64")


def test_who_reaches_the_manager_uses_the_cluster_unless_the_spec_says_otherwise() -> None:
    assert session_users(SPEC, machine(login="ana")) == ("ana",)
    assert session_users(SPEC.model_copy(update={"users": ("ben",)}), machine(login="ana")) == ("ben",)
    with pytest.raises(SpecError, match="who uses the cluster"):
        session_users(SPEC, machine(login="root"))


def test_a_node_that_was_never_seen_is_what_the_spec_says() -> None:
    facts = cluster_facts(SPEC, {"pi1": None, "pi2": None})
    assert facts.nodes["pi2"].memory_mib == 2048
    assert not facts.nodes["pi2"].observed


# -- what stands there ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active", "sub", "state"),
    [
        ("active", "running", "running"),
        ("activating", "start", "running"),
        ("activating", "auto-restart", "failed"),
        ("failed", "failed", "failed"),
        ("inactive", "dead", "stopped"),
        ("deactivating", "stop-sigterm", "stopped"),
    ],
)
def test_a_unit_that_waits_to_be_started_again_has_failed(active: str, sub: str, state: str) -> None:
    assert unit_state(SystemdUnit(name="x", loaded="loaded", active=active, sub=sub)) == state


def test_what_was_started_with_which_hash_is_read_from_the_manifest_not_guessed() -> None:
    running = SystemdUnit(name="rpicluster-namenode.service", loaded="loaded", active="active", sub="running")
    seen = machine(
        units={"rpicluster-namenode.service": running},
        manifest=Manifest(version="1", extra={"units": {"datanode": "old"}}),
        deployed={"/etc/rpicluster/hadoop/core-site.xml": DeployedFile(sha256="s", mode=0o644, owner="root")},
        runtime="abc",
    )
    found = observed({"pi1": seen}, {}, {"pi1": ("namenode",)}, manager="pi1", file_system="rpicluster-1")
    assert found.units["pi1"]["namenode"].config_hash == ""
    assert found.units["pi1"]["datanode"].state == "stopped"
    assert set(found.files["pi1"]) == {"hadoop/core-site.xml"}
    assert found.runtime == {"pi1": "abc"}


@pytest.mark.parametrize(
    ("there", "means"),
    [(None, "empty"), ("rpicluster-1", "formatted"), ("CID-x", "foreign"), ("unknown", "foreign")],
)
def test_only_this_clusters_own_file_system_counts_as_formatted(there: str | None, means: str) -> None:
    found = observed({"pi1": machine(file_system=there)}, {}, {}, manager="pi1", file_system="rpicluster-1")
    assert found.namenode == means


def test_a_node_of_another_cluster_is_refused_and_of_this_one_is_not() -> None:
    other = machine(manifest=Manifest(version="1", extra={"cluster": "lab", "cluster_id": "2"}))
    mine = machine(
        manifest=Manifest(version="1", extra={"cluster": "lab", "cluster_id": "1"}), machine_id="b"
    )
    found = refusals({"pi1": other, "pi2": mine}, cluster="lab", cluster_id="1")
    assert len(found) == 1
    assert found[0].startswith("pi1 belongs to cluster 'lab' (id 2)")


def test_somebody_elses_hadoop_two_names_for_one_machine_and_no_root_are_refused() -> None:
    hadoop = Daemon(pid=1, user="x", classes=("org.apache.hadoop.hdfs.server.namenode.NameNode",))
    found = refusals(
        {"pi1": machine(daemons=(hadoop,)), "pi2": machine(privilege="none")}, cluster="lab", cluster_id="1"
    )
    assert [reason.split(":")[0] for reason in found] == [
        "pi1 already runs somebody else's Hadoop or Spark",
        "pi2",
        "pi1 and pi2 have one machine-id",
    ]


def test_the_daemons_of_a_cluster_that_was_interrupted_are_not_foreign() -> None:
    ours = Daemon(pid=1, user="rpi-hdfs", classes=("org.apache.hadoop.x.NameNode",), mark="1/pi1/namenode")
    assert refusals({"pi1": machine(daemons=(ours,))}, cluster="lab", cluster_id="1") == ()


# -- what is sent --------------------------------------------------------------------------------------


def work(**kinds: object) -> NodeWork:
    empty: dict[str, object] = {
        "prepare": False, "runtime": None, "write": (), "remove": (), "stop": (), "start": (), "restart": (),
        "reload": (), "format": None,
    }  # fmt: skip
    return NodeWork(**{**empty, **kinds})  # type: ignore[arg-type]


def test_a_bundle_holds_what_changes_and_the_manifest_last() -> None:
    files = {
        "hadoop/core-site.xml": RenderedFile(b"x"),
        "same": RenderedFile(b"y"),
        "firewall.nft": RenderedFile(b"z"),
    }
    sent = json.loads(
        bundle(BASE, files, work(write=("hadoop/core-site.xml", "firewall.nft"), remove=("old",)), b"{}")
    )
    assert [file["path"] for file in sent["files"]] == ["/etc/rpicluster/hadoop/core-site.xml", manifest.PATH]
    assert base64.b64decode(sent["files"][0]["content"]) == b"x"
    assert sent["remove"] == ["/etc/rpicluster/old"]
    assert sent["directories"] == []


def test_steps_are_sorted_by_what_a_node_does_with_them() -> None:
    steps = [
        Step(Action.PREPARE, "pi1", "node", "x"),
        Step(Action.INSTALL_RUNTIME, "pi1", "abc", "x"),
        Step(Action.START, "pi1", "namenode", "x"),
        Step(Action.RESTART, "pi1", "session-pi", "x"),
    ]
    found = NodeWork.of(steps)
    assert (found.prepare, found.runtime, found.start, found.restart) == (
        True,
        "abc",
        ("namenode",),
        ("session-pi",),
    )


def test_a_node_is_prepared_when_its_base_changed_or_packages_are_missing_and_not_otherwise() -> None:
    same = machine(manifest=Manifest(version="1", extra={"base": BASE.hash}))
    assert prepare_steps({"pi1": BASE}, {"pi1": same}, {}) == []
    changed = machine(manifest=Manifest(version="1", extra={"base": "other"}))
    assert [step.node for step in prepare_steps({"pi1": BASE}, {"pi1": changed}, {})] == ["pi1"]
    assert prepare_steps({"pi1": BASE}, {"pi1": changed}, {"pi1": "off"}) == []
    lacking = Base("rpicluster", (), BASE.directories, "", packages=("nftables",))
    assert "install nftables" in prepare_steps({"pi1": lacking}, {"pi1": same}, {})[0].reason


def test_the_memory_cgroup_is_asked_for_only_on_a_board_that_lacks_it() -> None:
    from rpicluster.nodes.remote.base import _boot_file

    line = "console=tty1 root=PARTUUID=1-02 rootwait"
    cgroups = Cgroups(version=2, memory=False, boot_file="/boot/firmware/cmdline.txt", boot_command_line=line)
    board = {"model": "Raspberry Pi 4 Model B Rev 1.4"}
    assert _boot_file(machine(cgroups=cgroups)) == ""
    assert _boot_file(machine(cgroups=cgroups, board=board)) == "/boot/firmware/cmdline.txt"
    done = cgroups.model_copy(update={"boot_command_line": line + " cgroup_enable=memory"})
    assert _boot_file(machine(cgroups=done, board=board)) == ""


# -- what is left --------------------------------------------------------------------------------------


def test_only_what_is_ours_and_was_not_there_before_is_left() -> None:
    before = {"users": ["root"], "paths": ["/etc/a"], "ports": []}
    after = {"users": ["root", "rpi-hdfs", "eve"], "paths": ["/etc/a", "/etc/rpicluster"], "ports": []}
    assert left(before, after) == ["users: rpi-hdfs", "paths: /etc/rpicluster"]
    assert difference(before, after) == ["+ users: rpi-hdfs", "+ users: eve", "+ paths: /etc/rpicluster"]
    assert left(None, {"units": ["rpicluster-namenode.service", "ssh.service"]}) == [
        "units: rpicluster-namenode.service"
    ]
