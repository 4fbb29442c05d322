"""Who is whom when addresses have changed: what is decided from answers, and what ssh is told."""

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpicluster.design.plan import Action, Observed, ObservedFile, ObservedUnit, make_plan
from rpicluster.design.rendering import render
from rpicluster.design.units import unit_hash
from rpicluster.design.whereabouts import (
    MOST_PAIRS,
    Claim,
    Lost,
    by_card,
    first_candidates,
    judge,
    manager_refusal,
    move_steps,
    moves,
    network_to_search,
    pairs,
    sweep_of,
)
from rpicluster.model.machine import Address, HostKeyFact, Interface, MachineFacts
from rpicluster.model.neighbours import Announced, Neighbour, read_networks
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.discovery.sweep import answering, read_keyscan, shown_keys
from rpicluster.nodes.remote.finding import pasted
from rpicluster.nodes.ssh.elsewhere import Elsewhere, Way, known_prints, read_way
from rpicluster.nodes.ssh.openssh import OpenSsh

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import KEEPER, load

LO = {"family": "inet", "local": "127.0.0.1", "prefixlen": 8}
ETH = {"family": "inet", "local": "192.168.1.7", "prefixlen": 24}


def facts(address: str = "10.0.0.12", prefix: int = 24, **more: object) -> MachineFacts:
    interface = Interface(
        name="eth0", mac="DC:A6:32:00:00:02", up=True, addresses=(Address(address=address, prefix=prefix),)
    )
    known: dict[str, object] = {
        "machine_id": "m2",
        "interfaces": (interface,),
        "host_keys": (HostKeyFact(type="ssh-ed25519", fingerprint="SHA256:two"),),
    }
    return MachineFacts.model_validate({**known, **more})


def lost(name: str = "pi2", machine_id: str = "m2", *addresses: str, mac: str = "dc:a6:32:00:00:02") -> Lost:
    return Lost(name, machine_id, addresses, frozenset([f"SHA256:{name}"]), frozenset([mac]))


# -- what is known of a lost node ------------------------------------------------------------------------


def test_a_lost_node_is_known_by_its_id_its_keys_its_cards_and_its_network() -> None:
    found = Lost.of("pi2", facts(), ["pi2.local", "10.0.0.12", "", "10.0.0.12"])
    assert found == Lost(
        "pi2",
        "m2",
        ("10.0.0.12",),
        frozenset(["SHA256:two"]),
        frozenset(["dc:a6:32:00:00:02"]),
        IPv4Network("10.0.0.0/24"),
    )


def test_without_a_machine_id_nothing_could_be_proven_so_nobody_is_looked_for() -> None:
    assert Lost.of("pi2", facts(machine_id=None), ["10.0.0.12"]) is None


@pytest.mark.parametrize(
    ("address", "prefix", "network"),
    [
        ("192.168.1.12", 24, "192.168.1.0/24"),
        ("10.1.2.3", 8, "10.1.0.0/22"),
        ("172.16.9.9", 16, "172.16.8.0/22"),
        ("192.168.1.12", 28, "192.168.1.0/28"),
        ("203.0.113.200", 0, None),
        ("8.8.4.4", 24, None),
        ("127.0.0.2", 24, None),
        ("169.254.3.4", 16, None),
    ],
)
def test_only_a_private_network_is_swept_and_never_more_than_a_22(
    address: str, prefix: int, network: str | None
) -> None:
    found = network_to_search(address, facts(address, prefix))
    assert found == (IPv4Network(network) if network else None)


def test_the_network_of_an_address_that_the_node_never_had_is_not_swept() -> None:
    assert network_to_search("10.9.9.9", facts()) is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 32))
def test_a_sweep_has_at_most_1022_addresses_and_never_a_public_one(number: int, prefix: int) -> None:
    address = str(IPv4Address(number))
    network = network_to_search(address, facts(address, prefix))
    swept = sweep_of([Lost("pi2", "m2", network=network)], [], near=[IPv4Network("0.0.0.0/0")])
    assert len(swept) <= 1022
    assert all(each.is_private and not each.is_loopback for each in swept)


def test_two_nodes_of_one_network_have_it_swept_once_without_those_that_are_known() -> None:
    network = IPv4Network("10.0.0.0/29")
    both = [Lost("pi2", "m2", network=network), Lost("pi3", "m3", network=network)]
    swept = [str(address) for address in sweep_of(both, ["10.0.0.2"], ["10.0.0.3"], near=[network])]
    assert swept == ["10.0.0.1", "10.0.0.4", "10.0.0.5", "10.0.0.6"]


def test_a_network_is_swept_only_from_within_or_where_another_node_of_it_answers() -> None:
    node = Lost("pi2", "m2", network=IPv4Network("192.168.1.0/24"))
    for near in ("192.168.1.0/24", "192.168.0.0/16", "192.168.1.11/32"):
        assert len(sweep_of([node], [], near=[IPv4Network(near)])) == 254
    for far in ("10.8.0.0/24", "192.168.2.11/32"):
        assert sweep_of([node], [], near=[IPv4Network(far)]) == ()


def test_this_machines_networks_are_read_without_loopback() -> None:
    text = json.dumps(
        [
            {"ifname": "lo", "flags": ["LOOPBACK"], "addr_info": [LO]},
            {"ifname": "eth0", "flags": ["UP"], "addr_info": [ETH, {"family": "inet6", "local": "fd00::1"}]},
        ]
    )
    assert read_networks(text) == (IPv4Network("192.168.1.0/24"),)
    with pytest.raises(ValueError):
        read_networks('{"a": 1}')


# -- where to look first ---------------------------------------------------------------------------------


def test_its_own_card_is_asked_first_then_its_name_then_old_addresses_then_the_others() -> None:
    neighbours = [
        Neighbour("10.0.0.50", "02:00:00:00:00:01", "eth0"),
        Neighbour("10.0.0.57", "DC:A6:32:00:00:02", "eth0"),
        Neighbour("fe80::1", "dc:a6:32:00:00:02", "eth0"),
        Neighbour("10.0.0.11", "dc:a6:32:00:00:01", "eth0"),
    ]
    announced = [Announced("printer.local", ("10.0.0.9",)), Announced("PI2.local", ("10.0.0.58", "fd00::58"))]
    found = first_candidates([lost("pi2", "m2", "10.0.0.12")], neighbours, announced, taken=["10.0.0.11"])
    assert found == ("10.0.0.57", "10.0.0.58", "10.0.0.12", "10.0.0.50", "10.0.0.9")


def test_behind_a_jump_host_only_its_own_card_and_its_old_addresses_are_asked() -> None:
    neighbours = [
        Neighbour("10.0.0.50", "02:00:00:00:00:01", "eth0"),
        Neighbour("10.0.0.57", "dc:a6:32:00:00:02", "eth0"),
    ]
    assert by_card([lost("pi2", "m2", "10.0.0.12")], neighbours) == (
        ("pi2", "10.0.0.57"),
        ("pi2", "10.0.0.12"),
    )


def test_a_login_is_tried_only_where_a_known_key_was_shown_or_none_is_known() -> None:
    shown = {"10.0.0.57": frozenset(["SHA256:pi2"]), "10.0.0.50": frozenset(["SHA256:x"])}
    unknown = Lost("pi3", "m3")
    assert pairs([lost(), unknown], shown) == (
        ("pi2", "10.0.0.57"),
        ("pi3", "10.0.0.57"),
        ("pi3", "10.0.0.50"),
    )
    many = {str(IPv4Address(0x0A000000 + n)): frozenset(["SHA256:x"]) for n in range(500)}
    assert len(pairs([unknown], many)) == MOST_PAIRS


# -- who is whom -----------------------------------------------------------------------------------------


def test_the_right_key_with_the_right_machine_id_is_the_node() -> None:
    verdict = judge({"pi2": lost()}, [Claim("pi2", "10.0.0.57", "m2", "boot")])
    assert (verdict.found, verdict.copies, verdict.others) == ({"pi2": "10.0.0.57"}, {}, {})


@pytest.mark.parametrize("machine_id", ["m3", "", None])
def test_the_right_key_with_another_machine_id_is_not_the_node(machine_id: str | None) -> None:
    verdict = judge({"pi2": lost()}, [Claim("pi2", "10.0.0.57", machine_id, "boot")])
    assert (verdict.found, verdict.others) == ({}, {"pi2": ("10.0.0.57",)})


def test_two_nodes_that_changed_places_are_each_found_at_the_others_address() -> None:
    both = {"pi2": lost("pi2", "m2", "10.0.0.12"), "pi3": lost("pi3", "m3", "10.0.0.13")}
    claims = [Claim("pi2", "10.0.0.13", "m2", "b2"), Claim("pi3", "10.0.0.12", "m3", "b3")]
    assert judge(both, claims).found == {"pi2": "10.0.0.13", "pi3": "10.0.0.12"}


def test_a_copied_card_at_two_addresses_is_refused_with_both() -> None:
    claims = [Claim("pi2", "10.0.0.57", "m2", "b1"), Claim("pi2", "10.0.0.58", "m2", "b2")]
    verdict = judge({"pi2": lost()}, claims)
    assert (verdict.found, verdict.copies) == ({}, {"pi2": ("10.0.0.57", "10.0.0.58")})


def test_without_boot_ids_two_addresses_are_two_machines() -> None:
    claims = [Claim("pi2", "10.0.0.57", "m2", None), Claim("pi2", "10.0.0.58", "m2", None)]
    assert judge({"pi2": lost()}, claims).copies


def test_one_machine_with_cable_and_radio_is_found_at_the_address_that_was_asked_first() -> None:
    claims = [Claim("pi2", "10.0.0.57", "m2", "b1"), Claim("pi2", "10.0.0.99", "m2", "b1")]
    assert judge({"pi2": lost()}, claims).found == {"pi2": "10.0.0.57"}


def test_one_machine_that_claims_to_be_two_nodes_is_neither() -> None:
    both = {"pi2": lost("pi2", "same"), "pi3": lost("pi3", "same")}
    claims = [Claim("pi2", "10.0.0.57", "same", "b1"), Claim("pi3", "10.0.0.57", "same", "b1")]
    verdict = judge(both, claims)
    assert verdict.found == {}
    assert verdict.copies == {"pi2": ("10.0.0.57",), "pi3": ("10.0.0.57",)}


NAMES = st.sampled_from(["pi1", "pi2", "pi3", "stranger"])
CLAIMS = st.lists(
    st.builds(
        Claim,
        NAMES,
        st.sampled_from([f"10.0.0.{n}" for n in range(1, 6)]),
        st.sampled_from(["m1", "m2", "m3", None]),
        st.sampled_from(["b1", "b2", "b3", None]),
    ),
    max_size=12,
)


@given(CLAIMS, st.randoms(use_true_random=False))
def test_whoever_is_found_has_the_one_claim_that_holds_in_whatever_order_answers_come(
    claims: list[Claim],
    random: Random,
) -> None:
    nodes = {name: lost(name, f"m{name[-1]}") for name in ("pi1", "pi2", "pi3")}
    verdict = judge(nodes, claims)
    assert not set(verdict.found) & set(verdict.copies)
    for name, address in verdict.found.items():
        right = [c for c in claims if c.node == name and c.machine_id == nodes[name].machine_id]
        assert address == right[0].address
        assert len({c.boot_id or c.address for c in right}) == 1
    shuffled = list(claims)
    random.shuffle(shuffled)
    other = judge(nodes, shuffled)
    assert set(other.found) == set(verdict.found)
    assert {n: set(a) for n, a in other.copies.items()} == {n: set(a) for n, a in verdict.copies.items()}


@given(CLAIMS)
def test_no_machine_is_two_nodes(claims: list[Claim]) -> None:
    nodes = {name: lost(name, "m1") for name in ("pi1", "pi2", "pi3")}  # cards that were all copied
    found = judge(nodes, claims).found
    right = [c for c in claims if c.machine_id == "m1"]
    boots = [next(c.boot_id for c in right if (c.node, c.address) == pair) for pair in found.items()]
    known = [boot for boot in boots if boot]
    assert len(known) == len(set(known))


# -- what follows ----------------------------------------------------------------------------------------


def test_a_plan_says_who_moved_from_where_to_where() -> None:
    moved = moves(
        {"pi1": "10.0.0.11", "pi2": "10.0.0.12", "pi4": "pi4.local"},
        {"pi1": "10.0.0.11", "pi2": "10.0.0.57", "pi3": "10.0.0.13", "pi4": "10.0.0.14"},
    )
    assert moved == {"pi2": ("10.0.0.12", "10.0.0.57")}
    (step,) = move_steps(moved)
    assert (step.symbol, step.node, step.reason) == ("~", "pi2", "pi2 moved from 10.0.0.12 to 10.0.0.57")


def test_a_manager_with_files_may_not_move_because_tables_name_its_address() -> None:
    moved = {"pi1": ("10.0.0.11", "10.0.0.60")}
    said = manager_refusal("pi1", moved, formatted=True, macs=["dc:a6:32:00:00:01"])
    assert said is not None
    assert "Reserve 10.0.0.11 for it in your router (its network card: dc:a6:32:00:00:01)" in said
    assert manager_refusal("pi1", moved, formatted=False) is None
    assert manager_refusal("pi1", {"pi2": ("10.0.0.12", "10.0.0.60")}, formatted=True) is None


def test_the_line_to_paste_keeps_all_but_the_host() -> None:
    target = SshTarget(host="10.0.0.12", user="pi", port=2222)
    assert pasted(target, "10.0.0.57") == "ssh: {host: 10.0.0.57, user: pi, port: 2222}"


# -- edges -----------------------------------------------------------------------------------------------


def test_ssh_goes_to_the_new_address_and_checks_the_key_under_the_known_name(tmp_path: Path) -> None:
    target, other = SshTarget(host="10.0.0.12", user="pi"), SshTarget(host="10.0.0.13", user="pi")
    control = tmp_path / "c"
    plain = OpenSsh(control) if len(str(control)) < 60 else OpenSsh()
    there = plain.redirected(target, Elsewhere("10.0.0.57", "10.0.0.12"))
    words = there.shared_options(target)
    assert {"HostName=10.0.0.57", "HostKeyAlias=10.0.0.12", "CheckHostIP=no"} <= set(words)
    assert "StrictHostKeyChecking=yes" in words
    assert there.shared_options(target.model_copy(update={"user": "rpi-tunnel"}))[:2] != words[:2]
    assert there.where(other) == plain.where(other)
    assert "HostName=10.0.0.57" in there.where(target.model_copy(update={"user": "rpi-tunnel"}))


def test_nodes_that_changed_places_never_share_a_connection(tmp_path: Path) -> None:
    two, three = SshTarget(host="10.0.0.12"), SshTarget(host="10.0.0.13")
    plain = OpenSsh()
    swapped = plain.redirected(two, Elsewhere("10.0.0.13", "10.0.0.12")).redirected(
        three, Elsewhere("10.0.0.12", "10.0.0.13")
    )
    paths = {
        next(word for word in client.shared_options(target) if word.startswith("ControlPath="))
        for client in (plain, swapped)
        for target in (two, three)
    }
    assert len(paths) == 3  # without the redirection %C alone tells them apart


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("host pi2\nhostname 10.0.0.12\nport 22\n", Way("10.0.0.12", 22, False)),
        ("hostname 10.0.0.12\nport 2222\n", Way("[10.0.0.12]:2222", 2222, False)),
        ("hostname 10.0.0.12\nport 22\nhostkeyalias pi2\n", Way("pi2", 22, False)),
        ("hostname 10.0.0.12\nport 22\nproxyjump ana@gate\n", Way("10.0.0.12", 22, True)),
        ("hostname pi2\nport 22\nproxycommand none\n", Way("pi2", 22, False)),
    ],
)
def test_ssh_says_under_which_name_a_key_is_known(text: str, way: Way) -> None:
    assert replace(read_way(text, "pi2"), known_hosts=()) == way


def test_the_keys_that_known_hosts_has_under_a_name_are_found_also_hashed(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    kind, blob = key.with_suffix(".pub").read_text().split()[:2]
    known = tmp_path / "known hosts"
    known.write_text(f"[10.0.0.12]:2222,pi2 {kind} {blob}\n")
    digest = hashlib.sha256(base64.b64decode(blob)).digest()
    wanted = frozenset(["SHA256:" + base64.b64encode(digest).decode().rstrip("=")])
    way = read_way(f"hostname 10.0.0.12\nport 2222\nuserknownhostsfile {known} /none\n", "pi2")
    assert known_prints(way) == wanted
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    assert known_prints(way) == wanted
    assert known_prints(replace(way, known_as="10.0.0.12")) == frozenset()


def test_key_prints_are_read_from_what_keyscan_prints_and_rubbish_is_not() -> None:
    blob = b"a public key"
    key = base64.b64encode(blob).decode()
    wanted = "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    text = (
        "# 10.0.0.57:22 SSH-2.0-OpenSSH_9.2\n"
        f"10.0.0.57 ssh-ed25519 {key}\n[10.0.0.58]:2222 ssh-ed25519 {key}\n"
        f"10.0.0.57 ssh-rsa not*base64\n10.6.6.6 ssh-ed25519 {key}\nshort line\n"
    )
    assert read_keyscan(text, ["10.0.0.57", "10.0.0.58", "10.0.0.59"]) == {
        "10.0.0.57": frozenset([wanted]),
        "10.0.0.58": frozenset([wanted]),
    }


def test_only_addresses_that_take_a_connection_are_found_and_the_deadline_holds() -> None:
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answering(["127.0.0.2", "127.0.0.1", "127.0.0.1"], port) == ("127.0.0.1",)
    begun = time.monotonic()
    # 192.0.2.0/24 is for documentation (RFC 5737): whatever becomes of packets there, nobody answers.
    silent = [f"192.0.2.{n}" for n in range(1, 200)]
    assert answering(silent, 9, connect_s=5.0, at_once=8, deadline_s=0.5) == ()
    assert time.monotonic() - begun < 3
    assert shown_keys([], 22) == {}


def _what_follows(**addresses: str) -> dict[str, set[str]]:
    """Return, by node, what a plan starts, restarts or reloads when nodes have other addresses."""
    inputs = load("pi4-3x4g")
    placed = inputs.placement.nodes
    before = render(inputs.spec, inputs.sizes, inputs.placement, "r", keeper_sources=KEEPER)
    changed = {n: p.model_copy(update={"address": addresses.get(n, p.address)}) for n, p in placed.items()}
    after_placement = inputs.placement.model_copy(update={"nodes": changed})
    after = render(inputs.spec, inputs.sizes, after_placement, "r", keeper_sources=KEEPER)
    there = Observed(
        files={
            node: {
                path: ObservedFile(hashlib.sha256(file.content).hexdigest(), file.mode, file.owner)
                for path, file in of_node.items()
            }
            for node, of_node in before.files.items()
        },
        units={
            node: {
                unit.name: ObservedUnit("running", unit_hash(unit, before.files[node]))
                for unit in before.units
                if unit.node == node
            }
            for node in before.files
        },
        runtime=dict.fromkeys(before.files, before.runtime_hash),
        namenode="formatted",
    )
    found: dict[str, set[str]] = {}
    for step in make_plan("lab", after, there).steps:
        if step.action in (Action.START, Action.RESTART, Action.RELOAD, Action.STOP):
            found.setdefault(step.node, set()).add(f"{step.action.value} {step.target}")
    return found


def test_a_worker_that_moved_restarts_its_own_daemons_and_no_others() -> None:
    assert _what_follows() == {}
    found = _what_follows(pi2="192.168.1.57")
    assert found["pi2"] == {"restart datanode", "restart nodemanager"}
    assert found["pi1"] >= {"reload namenode", "reload resourcemanager"}
    assert set(found) <= {"pi1", "pi2"}, "pi3 only lets the new address in"
    assert not any(each.startswith("restart") for each in found["pi1"]), found
