"""Nodes that have another address: real sshds on loopback, each with its own keys, machine-id and boot id."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rpicluster.errors import HostKeyRefused, NodeAmbiguous, NodeUnreachable
from rpicluster.model.neighbours import Neighbour
from rpicluster.model.spec import ClusterSpec, NodeSpec
from rpicluster.nodes.remote.finding import Finder
from rpicluster.nodes.remote.place import Look, RemotePlace
from rpicluster.nodes.remote.state import RemoteState, open_remote_state
from rpicluster.nodes.ssh.openssh import OpenSsh

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ADDRESSES, USER, Sshd, free_port

pytestmark = pytest.mark.timeout(120)

A, B, C, D = ADDRESSES[:4]
MAC = "02:00:00:00:00:01"


@dataclass
class Board:
    """A machine with a card in it; it can be put at any address."""

    folder: Path
    port: int
    card: str
    sshd: Sshd | None = None

    def put_at(self, address: str, *, machine_id: str = "", boot: str = "") -> "Board":
        """Start its sshd at an address; what is run there reads the card's machine-id, and a boot's id."""
        self.take_away()
        identity = self.folder / f"id-{address}"
        identity.write_text((machine_id or f"{self.card:0<32}") + "\n")
        (self.folder / f"boot-{address}").write_text((boot or f"boot-{self.card}-{address}") + "\n")
        script = self.folder / f"run-{address}"
        script.write_text(
            '#!/bin/sh\n[ "${SSH_ORIGINAL_COMMAND#sh -s}" = "$SSH_ORIGINAL_COMMAND" ] && '
            'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
            f"sed -u -e 's,/etc/machine-id,{identity},g' "
            f"-e 's,/proc/sys/kernel/random/boot_id,{self.folder}/boot-{address},g' | "
            'sh -c "$SSH_ORIGINAL_COMMAND" | '
            f"sed -u -e 's,{identity},/etc/machine-id,g' "
            f"-e 's,{self.folder}/boot-{address},/proc/sys/kernel/random/boot_id,g'\n"
        )
        script.chmod(0o755)
        keys = self.folder / self.card
        keys.mkdir(exist_ok=True)
        made = (keys / "host").exists()
        server = Sshd.__new__(Sshd) if made else Sshd(keys, self.port)
        if made:
            server.folder, server.port, server.process, server.environment = keys, self.port, None, {}
        server.addresses, server.more = (address,), f"ForceCommand {script}"
        self.sshd = server
        (keys / "user.pub").write_bytes((self.folder / "user.pub").read_bytes())
        server.start()
        return self

    def take_away(self) -> None:
        if self.sshd is not None:
            self.sshd.stop()
            self.sshd = None

    def sessions(self) -> int:
        assert self.sshd is not None
        return self.sshd.sessions()


@dataclass
class Laptop:
    """Two nodes in a cluster.yml, pi1 at A and pi2 at B, and what this machine keeps of them."""

    folder: Path
    port: int
    boards: list[Board]
    state: RemoteState
    clients: int = 0

    def board(self, card: str) -> Board:
        self.boards.append(Board(self.folder, self.port, card))
        return self.boards[-1]

    def spec(self, **hosts: str) -> ClusterSpec:
        where = {"pi1": A, "pi2": B, **hosts}
        about = {"port": self.port, "user": USER, "config": str(self.folder / "config")}
        nodes = [{"name": name, "ssh": {**about, "host": host}} for name, host in where.items()]
        return ClusterSpec(name="lab", nodes=tuple(NodeSpec.model_validate(node) for node in nodes))

    def place(self, *, near: tuple[str, ...] = (), **hosts: str) -> RemotePlace:
        """What one command of this machine sees; `near` is its neighbour table."""
        self.clients += 1
        ssh = OpenSsh(self.folder / f"c{self.clients}", connect_timeout_s=2, keep_open_s=1)
        place = RemotePlace(self.spec(**hosts), self.state, ssh)
        table = tuple(Neighbour(address, MAC, "lo") for address in near)
        place.finder = Finder(place.nodes, self.state, neighbours=lambda: table, announced=lambda _: ())
        return place

    def look(self, *, near: tuple[str, ...] = (), **hosts: str) -> Look:
        return self.place(near=near, **hosts).look(first_contact=True)


@pytest.fixture
def laptop(short: Path, privilege_separation: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laptop]:
    """A laptop that has seen both nodes at their first addresses."""
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(short / "state"))
    # The nodes' network cards are this machine's: its own network is nobody's to sweep in a test.
    monkeypatch.setattr("rpicluster.design.whereabouts.network_to_search", lambda *_: None)
    client = Sshd(short, free_port())
    client.write_client("config", key="user")
    made = Laptop(short, client.port, [], open_remote_state("lab", root=short / "state"))
    yield made
    for board in made.boards:
        board.take_away()


@pytest.fixture
def two(laptop: Laptop) -> tuple[Board, Board]:
    one, other = laptop.board("1").put_at(A), laptop.board("2").put_at(B)
    seen = laptop.look()
    assert not seen.errors and set(seen.new_host_keys) == {"pi1", "pi2"}
    return one, other


def machine_id(look: Look, node: str) -> str | None:
    machine = look.machines[node]
    return machine.machine_id if machine else None


def test_a_node_with_another_address_is_found_and_the_next_command_goes_there_at_once(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    two[1].put_at(C)
    place = laptop.place(near=(D, C))
    look = place.look()
    assert not look.errors
    assert machine_id(look, "pi2") == f"{'2':0<32}"
    assert place.finder.reached == {"pi2": C}
    (note,) = place.finder.notes()
    assert f"pi2 is at {C} now" in note and f"ssh: {{host: {C}, user: {USER}, port: {laptop.port}" in note
    again = laptop.place()  # no neighbours: it is not looked for any more
    assert not again.look().errors
    said = again.nodes.ssh.check(again.nodes.targets["pi2"], ["echo", "there"], node="pi2", deadline_s=10)
    assert said == b"there\n"


def test_another_machine_at_the_old_address_is_told_nothing_and_the_node_is_found(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    two[1].put_at(C)
    stranger = laptop.board("9").put_at(B)
    place = laptop.place(near=(C,))
    assert not place.look().errors
    assert place.finder.reached == {"pi2": C}
    assert stranger.sshd and stranger.sshd.logins() == 0 and stranger.sessions() == 0


def test_another_machine_at_the_old_address_is_a_hard_stop_where_the_node_is_nowhere(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    two[1].take_away()
    stranger = laptop.board("9").put_at(B)
    with pytest.raises(HostKeyRefused, match="pi2"):
        laptop.look(near=(C, D))
    assert stranger.sshd and stranger.sshd.logins() == 0


def test_two_nodes_that_changed_places_are_both_found(laptop: Laptop, two: tuple[Board, Board]) -> None:
    two[0].take_away()
    two[1].put_at(A)
    two[0].put_at(B)
    place = laptop.place()
    look = place.look()
    assert not look.errors
    assert place.finder.reached == {"pi1": B, "pi2": A}
    assert (machine_id(look, "pi1"), machine_id(look, "pi2")) == (f"{'1':0<32}", f"{'2':0<32}")


def test_a_copied_card_at_two_addresses_is_a_hard_stop_that_names_both(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    two[1].put_at(C)
    laptop.board("2").put_at(D)
    with pytest.raises(NodeAmbiguous, match=rf"{C} and {D}.*pi2") as failure:
        laptop.look(near=(C, D))
    assert "/etc/machine-id" in (failure.value.hint or "")
    assert laptop.state.recall("elsewhere") is None


def test_one_machine_at_two_addresses_is_one_machine(laptop: Laptop, two: tuple[Board, Board]) -> None:
    two[1].put_at(C, boot="same")
    laptop.board("2").put_at(D, boot="same")
    place = laptop.place(near=(D, C))
    assert not place.look().errors
    assert place.finder.reached == {"pi2": D}


def test_the_key_with_another_machine_id_is_not_the_node_and_it_is_said(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    two[1].put_at(C, machine_id="f" * 32)
    place = laptop.place(near=(C,))
    look = place.look()
    assert isinstance(look.errors["pi2"], NodeUnreachable)
    assert machine_id(look, "pi2") == f"{'2':0<32}", "what was known before"
    (said,) = place.finder.notes()
    assert said.startswith(f"at {C} answers a machine with the host key of pi2 and another machine-id")


def test_a_node_that_is_off_stays_unreachable_and_is_looked_for_once_in_a_command(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    two[1].take_away()
    place = laptop.place(near=(C, D))
    assert isinstance(place.look().errors["pi2"], NodeUnreachable)
    (said,) = place.finder.notes()
    assert "pi2 was looked for" in said
    two[1].put_at(C)
    assert isinstance(place.look().errors["pi2"], NodeUnreachable), "the same command"
    assert not laptop.look(near=(C, D)).errors


def test_a_pasted_address_is_no_first_contact_and_the_known_key_counts(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    two[1].put_at(C)
    assert not laptop.look(near=(C,)).errors
    look = laptop.look(pi2=C)
    assert not look.errors and not look.new_host_keys
    known = (laptop.folder / "known_hosts").read_text()
    assert f"[{C}]:{laptop.port}" not in known


def test_an_address_that_the_owner_wrote_before_anybody_looked_is_checked_by_the_known_key(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    member = {
        "ssh": laptop.spec().nodes[1].ssh.model_dump(exclude_none=True),  # type: ignore[union-attr]
        "roles": ["worker"],
        "address": B,
        "datanode": "",
    }
    laptop.state.remember(members={"pi2": member})
    two[1].put_at(C)
    assert not laptop.look(pi2=C).errors
    stranger = laptop.board("9").put_at(D)
    with pytest.raises(HostKeyRefused):
        laptop.look(pi2=D)
    assert stranger.sshd and stranger.sshd.logins() == 0


def test_a_node_that_is_back_at_its_old_address_is_found_there_and_nothing_is_remembered(
    laptop: Laptop, two: tuple[Board, Board]
) -> None:
    two[1].put_at(C)
    assert not laptop.look(near=(C,)).errors
    two[1].put_at(B)
    place = laptop.place()
    assert not place.look().errors
    assert place.finder.reached == {} and place.finder.notes() == ()
    assert laptop.state.recall("elsewhere") == {}
    assert not laptop.look().errors


def test_a_node_that_moves_twice_is_found_twice(laptop: Laptop, two: tuple[Board, Board]) -> None:
    for address in (C, D):
        two[1].put_at(address)
        assert not laptop.look(near=(address,)).errors
    record = json.loads((laptop.state.directory / "cluster.json").read_text())["elsewhere"]["pi2"]
    assert (record["address"], record["known_as"]) == (D, f"[{B}]:{laptop.port}")
