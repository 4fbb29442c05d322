"""Addresses and ports: chosen once, kept, apart from those of other clusters and programs."""

import json
import os
import socket
from pathlib import Path

import pytest

from rpicluster.errors import LocalEngineError
from rpicluster.model.facts import Placement
from rpicluster.model.ports import MANAGER_PORTS, SESSION_PORTS, WORKER_PORTS
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.local.listeners import can_bind, listener_on, parse_listeners
from rpicluster.nodes.local.placement import allocate, check_ports, recorded, unit_ports
from rpicluster.nodes.local.state import ClusterState, open_state

NETWORKS = ["127.63.60", "127.63.61", "127.63.62"]


def spec_of(name: str, nodes: int) -> ClusterSpec:
    return ClusterSpec.model_validate(
        {"name": name, "nodes": [{"name": f"n{i}", "local": {"memory": "2G"}} for i in range(nodes)]}
    )


def place(
    root: Path, name: str = "demo", nodes: int = 3, networks: list[str] = NETWORKS
) -> tuple[ClusterState, Placement]:
    base = root / "base"
    base.mkdir(mode=0o700, exist_ok=True)
    state = open_state(name, root=root, bases=[base])
    return state, allocate(state, spec_of(name, nodes), java_home="/j", python="/p", networks=networks)


def test_the_same_spec_is_placed_the_same_for_ever(tmp_path):
    _, first = place(tmp_path)
    _, second = place(tmp_path, networks=["127.63.99"])
    assert first == second
    assert len(first.cluster_id) == 16


def test_every_node_has_an_address_of_its_own_and_the_standard_ports(tmp_path):
    _, placement = place(tmp_path)
    assert [placed.address for placed in placement.nodes.values()] == [
        "127.63.60.10",
        "127.63.60.11",
        "127.63.60.12",
    ]
    manager, worker = placement.nodes["n0"], placement.nodes["n1"]
    assert {name: manager.ports[name] for name in MANAGER_PORTS} == MANAGER_PORTS
    assert set(manager.ports) == set(MANAGER_PORTS) | set(SESSION_PORTS)
    assert worker.ports == WORKER_PORTS


def with_gateway(spec: ClusterSpec, setting: str) -> ClusterSpec:
    return ClusterSpec.model_validate({**spec.model_dump(), "sessions": {"sparklyr": setting}})


def test_a_gateway_gets_twenty_free_ports_on_127_0_0_1_that_it_keeps(tmp_path):
    state, _ = place(tmp_path)
    spec = with_gateway(spec_of("demo", 3), "on")
    busy = []
    try:
        # Somebody listens in the middle of the first range.
        if can_bind("127.0.0.1", 18885):
            busy.append(socket.create_server(("127.0.0.1", 18885)))
        first = allocate(state, spec, java_home="/j", python="/p").nodes["n0"].ports["sparklyr"]
        assert first >= 18900 and (first - 18880) % 20 == 0
    finally:
        for server in busy:
            server.close()
    again = allocate(state, spec, java_home="/j", python="/p")
    assert again.nodes["n0"].ports["sparklyr"] == first
    assert unit_ports(again, "n0", "session-me")["sparklyr"] == ("127.0.0.1", first)
    off = allocate(state, with_gateway(spec, "off"), java_home="/j", python="/p")
    assert "sparklyr" not in off.nodes["n0"].ports
    other, _ = place(tmp_path, "other", networks=["127.63.61"])
    ports = allocate(other, with_gateway(spec_of("other", 3), "on"), java_home="/j", python="/p").nodes["n0"]
    assert abs(ports.ports["sparklyr"] - first) >= 20


def test_a_taken_port_of_the_gateway_is_named_with_its_owner(tmp_path):
    state, _ = place(tmp_path)
    placement = allocate(state, with_gateway(spec_of("demo", 3), "on"), java_home="/j", python="/p")
    with (
        socket.create_server(("127.0.0.1", placement.nodes["n0"].ports["sparklyr"])),
        pytest.raises(LocalEngineError, match=r"session-me on n0 needs 127\.0\.0\.1:\d+ \(sparklyr\)"),
    ):
        check_ports(placement, "n0", "session-me")


def test_datanodes_of_one_machine_differ_in_their_data_port(tmp_path):
    _, placement = place(tmp_path, nodes=5)
    ports = [placed.ports["datanode_data"] for name, placed in placement.nodes.items() if name != "n0"]
    assert len(set(ports)) == 4


def test_no_two_ports_of_one_address_are_the_same(tmp_path):
    _, placement = place(tmp_path, nodes=1)
    ports = list(placement.nodes["n0"].ports.values())
    assert len(set(ports)) == len(ports)


def test_all_paths_lead_through_the_alias(tmp_path):
    state, placement = place(tmp_path)
    for placed in placement.nodes.values():
        for path in placed.paths.model_dump(exclude={"per_unit", "disk"}).values():
            assert path.startswith(f"{state.alias}/")


def test_an_added_node_gets_the_next_address_and_a_removed_one_keeps_its_own(tmp_path):
    _, first = place(tmp_path, nodes=2)
    _, more = place(tmp_path, nodes=3)
    assert more.nodes["n1"] == first.nodes["n1"]
    assert more.nodes["n2"].address == "127.63.60.12"
    state, fewer = place(tmp_path, nodes=2)
    assert set(fewer.nodes) == {"n0", "n1"}
    everything = recorded(state)
    assert everything is not None
    assert set(everything.nodes) == {"n0", "n1", "n2"}


def test_clusters_of_one_user_share_no_network_and_no_connect_port(tmp_path):
    _, one = place(tmp_path, "one")
    _, two = place(tmp_path, "two")
    assert one.nodes["n0"].address == "127.63.60.10"
    assert two.nodes["n0"].address == "127.63.61.10"
    assert one.nodes["n0"].ports["connect"] != two.nodes["n0"].ports["connect"]
    assert one.cluster_id != two.cluster_id


def test_when_every_network_is_given_away_that_is_said(tmp_path):
    place(tmp_path, "one", networks=NETWORKS[:1])
    with pytest.raises(LocalEngineError, match="no loopback network is left"):
        place(tmp_path, "two", networks=NETWORKS[:1])


def test_a_network_where_somebody_listens_is_left_to_him(tmp_path):
    with socket.create_server(("127.63.60.10", 8020)):
        _, placement = place(tmp_path)
    assert placement.nodes["n0"].address == "127.63.61.10"


def test_a_standard_port_that_is_held_is_replaced_once_and_for_ever(tmp_path):
    with socket.create_server(("127.63.60.11", 8042)):
        _, placement = place(tmp_path)
    port = placement.nodes["n1"].ports["nm_http"]
    assert port not in {8042, *MANAGER_PORTS.values(), *SESSION_PORTS.values()}
    assert placement.nodes["n2"].ports["nm_http"] == 8042
    _, again = place(tmp_path)
    assert again.nodes["n1"].ports["nm_http"] == port


def test_a_listener_on_all_addresses_holds_the_port_of_every_loopback_address():
    header = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    )
    line = "   0: {address}:1F6A {other}:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1"
    zeros, loopback_6 = "0" * 32, "0" * 24 + "01000000"
    for name, address, held in (
        ("tcp", "00000000", True),
        ("tcp6", zeros, True),
        ("tcp6", "0000000000000000FFFF00000A3C3F7F", True),  # ::ffff:127.63.60.10, as Java listens
        ("tcp6", loopback_6, False),
        ("tcp", "0100007F", False),
    ):
        table = f"{header}\n{line.format(address=address, other='0' * len(address))}\n"
        found = parse_listeners(table)
        assert [listener.port for listener in found] == [8042], name
        assert found[0].holds("127.63.60.10", 8042) is held


def test_a_port_taken_later_is_named_with_purpose_and_owner(tmp_path):
    _, placement = place(tmp_path)
    check_ports(placement, "n0", "namenode")
    with socket.create_server(("127.63.60.10", 9870)), pytest.raises(LocalEngineError) as caught:
        check_ports(placement, "n0", "namenode")
    message = caught.value.message
    assert "namenode on n0 needs 127.63.60.10:9870 (namenode_http)" in message
    assert f"pid {os.getpid()}" in message
    assert "python" in message


def test_a_port_of_another_user_is_said_to_be_that(tmp_path, monkeypatch):
    with socket.create_server(("127.63.60.10", 9870)):
        owner = listener_on("127.63.60.10", 9870)
        assert owner is not None
        monkeypatch.setattr("rpicluster.nodes.local.listeners._pid_of", lambda inode: None)
        monkeypatch.setattr(os, "getuid", lambda: owner.uid + 1)
        assert "another user's process" in owner.describe()


def test_binding_is_possible_exactly_where_nobody_listens():
    with socket.create_server(("127.63.60.20", 0)) as server:
        port = server.getsockname()[1]
        assert not can_bind("127.63.60.20", port)
        assert can_bind("127.63.60.21", port)
    assert can_bind("127.63.60.20", port)


def test_units_know_their_ports_and_the_connect_door_is_on_localhost(tmp_path):
    _, placement = place(tmp_path)
    ports = unit_ports(placement, "n0", "session-ana")
    assert ports["connect"][0] == "127.0.0.1"
    assert ports["spark_ui"][0] == "127.63.60.10"
    assert unit_ports(placement, "n1", "datanode")["datanode_ipc"] == ("127.63.60.11", 9867)


def test_a_damaged_record_is_an_error_and_is_not_replaced(tmp_path):
    state, _ = place(tmp_path)
    record = state.directory / "placement.json"
    for damage in ("", "[]", "{}", json.dumps({"schema": 9})):
        record.write_text(damage)
        with pytest.raises(LocalEngineError, match="is damaged"):
            place(tmp_path)
        assert record.read_text() == damage
