"""What commands say of nodes that have another address: a network in memory, checked keys, no node asked."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rpicluster.cli.main import run
from rpicluster.cluster import Cluster
from rpicluster.errors import HostKeyRefused, NodeUnreachable
from rpicluster.health import doctor as health_doctor
from rpicluster.model.machine import Address, MachineFacts, Manifest
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.discovery import sweep
from rpicluster.nodes.local.state import cluster_names, open_state
from rpicluster.nodes.remote import finding, place
from rpicluster.nodes.remote.finding import Finder
from rpicluster.nodes.remote.state import open_remote_state
from rpicluster.nodes.ssh.elsewhere import door
from rpicluster.nodes.ssh.failures import Cause
from rpicluster.nodes.ssh.observe import Observation
from rpicluster.nodes.ssh.openssh import OpenSsh

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import doctor_cases as cases

SPEC = "name: shelf\nusers: [ana]\nnodes:\n" + "".join(
    f"  - {{name: pi{n}, ssh: {{host: 10.0.0.{n}, user: pi}}}}\n" for n in (1, 2, 3)
)
MEMBERS = {
    f"pi{n}": {
        "ssh": {"host": f"10.0.0.{n}", "user": "pi"},
        "roles": ["manager" if n == 1 else "worker"],
        "address": f"10.0.0.{n}",
        "datanode": "" if n == 1 else f"10.0.0.{n}:9866",
    }
    for n in (1, 2, 3)
}


class Network:
    """Machines by address; known_hosts has the keys that each was first met with."""

    def __init__(self) -> None:
        self.there: dict[str, MachineFacts] = {}
        self.known: dict[str, str | None] = {}
        self.swept: list[str] = []

    def put(self, number: int, address: str, **changes: Any) -> None:
        interface = cases.interface(number, addresses=(Address(address=address, prefix=24),))
        board = cases.pi4(number).model_copy(update={"interfaces": (interface,), **changes})
        self.there[address] = board
        self.known.setdefault(address, board.host_keys[0].fingerprint)

    def move(self, **places: str) -> None:
        """Give nodes, `pi2="10.0.0.57"`, other addresses, all at the same time."""
        taken = {
            name: self.there.pop(next(a for a, m in self.there.items() if m.names.hostname == name))
            for name in places
        }
        for name, address in places.items():
            board = taken[name]
            (interface,) = board.interfaces
            moved = interface.model_copy(update={"addresses": (Address(address=address, prefix=24),)})
            self.there[address] = board.model_copy(update={"interfaces": (moved,)})

    def observe_node(self, target: SshTarget, ssh: OpenSsh, *, node: str, **_: Any) -> Observation:
        elsewhere = ssh.elsewhere.get(door(target))
        address = elsewhere.address if elsewhere else target.host
        known = self.known.get(elsewhere.known_as if elsewhere else target.host)
        machine = self.there.get(address)
        if machine is None:
            error = NodeUnreachable(f"{node}: nothing answers at {address}", node=node, cause=Cause.TIMEOUT)
            return Observation(error=error)
        if known is None or known != machine.host_keys[0].fingerprint:
            said = f"{node}: host key changed at {address}"
            return Observation(error=HostKeyRefused(said, node=node, cause=Cause.HOST_KEY_CHANGED))
        return Observation(facts=machine)

    def observe_nodes(
        self, targets: Mapping[str, SshTarget], ssh: OpenSsh, **_: Any
    ) -> dict[str, Observation]:
        return {name: self.observe_node(target, ssh, node=name) for name, target in targets.items()}

    def answering(self, addresses: Iterable[str], port: int) -> tuple[str, ...]:
        asked = list(addresses)
        self.swept += asked
        return tuple(address for address in asked if address in self.there)

    def shown_keys(self, addresses: Iterable[str], port: int) -> dict[str, frozenset[str]]:
        return {a: frozenset(k.fingerprint for k in self.there[a].host_keys) for a in addresses}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three nodes that were seen once, and belong to a cluster."""
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    made = Network()
    monkeypatch.setattr(place, "observe_nodes", made.observe_nodes)
    monkeypatch.setattr(health_doctor, "observe_nodes", made.observe_nodes)
    monkeypatch.setattr(finding, "observe_node", made.observe_node)
    monkeypatch.setattr(sweep, "answering", made.answering)
    monkeypatch.setattr(sweep, "shown_keys", made.shown_keys)
    monkeypatch.setattr(finding, "known_prints", lambda way: frozenset())
    monkeypatch.setattr(finding, "_or_nothing", lambda ask: ())  # neither neighbours nor own networks
    monkeypatch.setattr(Finder, "_neighbours_of", lambda self, node: ())
    Path("cluster.yml").write_text(SPEC)
    for number in (1, 2, 3):
        made.put(number, f"10.0.0.{number}")
    assert run(["check"]) == 0
    open_remote_state("shelf").remember(members=MEMBERS)
    yield made
    for name in cluster_names(tmp_path / "state"):
        open_state(name, root=tmp_path / "state").remove()


def moves(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    capsys.readouterr()
    assert run(["plan", "--json"]) == 0
    printed = capsys.readouterr()
    steps = json.loads(printed.out)["steps"]
    return [step["reason"] for step in steps if step["action"] == "move"], printed.err


def test_plan_says_who_moved_and_prints_the_line_to_paste(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.move(pi2="10.0.0.57")
    said, notes = moves(capsys)
    assert said == ["pi2 moved from 10.0.0.2 to 10.0.0.57"]
    assert "to have it there, too: ssh: {host: 10.0.0.57, user: pi}" in notes
    assert Path("cluster.yml").read_text() == SPEC
    assert len(network.swept) == len(set(network.swept)) <= 254
    assert not {"10.0.0.1", "10.0.0.3"} & set(network.swept), "those answer"


def test_the_next_command_goes_there_at_once_and_looks_for_nobody(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.move(pi2="10.0.0.57")
    assert run(["check"]) == 0
    network.swept.clear()
    capsys.readouterr()
    assert run(["check", "--json"]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [node["address"] for node in nodes] == ["10.0.0.1", "10.0.0.57", "10.0.0.3"]
    assert network.swept == []
    assert run(["plan"]) == 0
    assert "move address (pi2 moved from 10.0.0.2 to 10.0.0.57)" in capsys.readouterr().out


def test_the_line_that_was_pasted_is_taken(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    network.move(pi2="10.0.0.57")
    assert run(["check"]) == 0
    Path("cluster.yml").write_text(SPEC.replace("10.0.0.2,", "10.0.0.57,"))
    said, notes = moves(capsys)
    assert said == ["pi2 moved from 10.0.0.2 to 10.0.0.57"]
    assert "to have it there" not in notes


def test_two_nodes_that_changed_places_are_each_planned_at_its_new_one(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.move(pi2="10.0.0.3", pi3="10.0.0.2")
    said, _ = moves(capsys)
    assert said == ["pi2 moved from 10.0.0.2 to 10.0.0.3", "pi3 moved from 10.0.0.3 to 10.0.0.2"]


def test_another_machine_at_the_old_address_is_a_hard_stop_if_the_node_is_nowhere(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    del network.there["10.0.0.2"]
    network.put(9, "10.0.0.2")
    assert run(["plan"]) == 1
    assert "pi2: host key changed at 10.0.0.2" in capsys.readouterr().err
    network.put(2, "10.0.0.57")
    assert run(["plan"]) == 0


def test_a_copied_card_is_refused_with_both_addresses(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.move(pi2="10.0.0.57")
    network.put(2, "10.0.0.58", boot_id="00000000-0000-4000-8000-999999999999")
    for command in ("plan", "up", "check"):
        assert run([command]) == 1
        said = capsys.readouterr().err
        assert "10.0.0.57 and 10.0.0.58" in said and "pi2" in said and "hint:" in said
    assert run(["doctor"]) == 4
    assert "several machines answer as pi2" in capsys.readouterr().out


def test_where_nobody_of_the_cluster_answers_no_network_is_swept(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.there.clear()  # the laptop is somewhere else
    assert run(["up", "--yes"]) == 4
    assert set(network.swept) <= {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


def test_a_manager_with_files_is_found_and_refused_until_it_has_its_address_again(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {"cluster": "shelf", "cluster_id": open_remote_state("shelf").cluster_id(), "members": MEMBERS}
    network.put(1, "10.0.0.1", file_system="rpicluster-x", manifest=Manifest(version="1", extra=extra))
    network.move(pi1="10.0.0.77")
    assert run(["up", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "pi1, the manager, moved from 10.0.0.1 to 10.0.0.77" in said
    assert "Reserve 10.0.0.1 for it in your router (its network card: dc:a6:32:00:00:01)" in said
    network.move(pi1="10.0.0.1")
    assert moves(capsys)[0] == []
    assert open_remote_state("shelf").recall("elsewhere") == {}


def test_a_node_that_left_is_forgotten_with_its_address(network: Network) -> None:
    network.move(pi2="10.0.0.57")
    assert run(["check"]) == 0
    state = open_remote_state("shelf")
    assert state.recall("elsewhere")["pi2"]["address"] == "10.0.0.57"
    Path("cluster.yml").write_text("\n".join(line for line in SPEC.splitlines() if "pi2" not in line))
    assert Cluster.find().site.place.nodes.ssh.elsewhere, "it is still to be cleared"  # type: ignore[union-attr]
    state.forget_facts("pi2")
    Path("cluster.yml").write_text(SPEC)
    assert not Cluster.find().site.place.nodes.ssh.elsewhere  # type: ignore[union-attr]
    del network.there["10.0.0.57"]
    network.put(2, "10.0.0.2")
    assert run(["check"]) == 0


def test_an_address_that_another_entry_has_now_is_that_entrys(network: Network) -> None:
    network.move(pi2="10.0.0.57")
    assert run(["check"]) == 0
    # pi2's old line now stands for pi4: what was found of pi2 is not about it
    text = SPEC.replace("name: pi2", "name: pi4")
    Path("cluster.yml").write_text(text)
    assert not Cluster.find().site.place.nodes.ssh.elsewhere  # type: ignore[union-attr]


def test_doctor_finds_a_node_that_moved_and_says_what_up_will_do(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {"cluster": "shelf", "cluster_id": "x", "members": MEMBERS}
    network.put(1, "10.0.0.1", manifest=Manifest(version="1", extra=extra))
    network.move(pi2="10.0.0.57")
    run(["doctor", "--json"])
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["nodes"]["pi2"] == "seen"
    (found,) = [each for each in document["findings"] if each["id"] == "address-changed"]
    assert found["node"] == "pi2" and "was set up as 10.0.0.2" in found["what"]
    assert "pi2 is at 10.0.0.57 now" in printed.err
