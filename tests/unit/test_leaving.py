"""Nodes that leave: who, whether they may, how far it is, and what is done when."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpicluster.design import layout
from rpicluster.design.leaving import (
    Leaver,
    Member,
    Storage,
    Stored,
    exclude_files,
    leave_steps,
    leavers,
    manager_refusal,
    refusals,
    still_to_do,
)
from rpicluster.design.plan import Action
from rpicluster.errors import ServiceError, Unhealthy, UsageError
from rpicluster.model.machine import DeployedFile, MachineFacts, Manifest
from rpicluster.model.spec import ClusterSpec, Role, SshTarget
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.remote import members
from rpicluster.nodes.remote.commands import Nodes
from rpicluster.nodes.remote.placement import place_nodes
from rpicluster.nodes.remote.state import open_remote_state
from rpicluster.sites.leaving import GRACE_S, STALLED_S, Leaving

MIB = 1 << 20
GIB = 1 << 30


def spec(*names: str, roles: str = "") -> ClusterSpec:
    lines = "".join(
        f"  - {{name: {name}, ssh: {{host: {name}.lan, user: pi}}{roles if name == names[0] else ''}}}\n"
        for name in names
    )
    return parse_spec(f"name: lab\nnodes:\n{lines}", "cluster.yml")


def member(name: str, *roles: Role) -> Member:
    number = name[-1]
    roles = roles or (Role.WORKER,)
    datanode = f"10.0.0.{number}:9866" if Role.WORKER in roles else ""
    return Member(name, SshTarget(host=f"{name}.lan", user="pi"), roles, f"10.0.0.{number}", datanode)


BEFORE = {
    "pi1": member("pi1", Role.MANAGER),
    "pi2": member("pi2"),
    "pi3": member("pi3"),
    "pi4": member("pi4"),
}
PI2 = Leaver(BEFORE["pi2"], whole=True)


def stored(state: str = "live", **numbers: int) -> Stored:
    return Stored(state, **{"blocks": 40, "used_bytes": GIB, "remaining_bytes": 9 * GIB, **numbers})


def storage(*, copies: int = 2, missing: int = 0, **nodes: Stored) -> Storage:
    return Storage({BEFORE[name].datanode: of_node for name, of_node in nodes.items()}, copies, missing)


# -- who -----------------------------------------------------------------------------------------------


def test_whoever_is_no_longer_in_cluster_yml_leaves() -> None:
    assert leavers(BEFORE, spec("pi1", "pi3", "pi4")) == (PI2,)
    assert leavers(BEFORE, spec("pi1", "pi2", "pi3", "pi4", "pi5")) == ()


def test_a_node_that_is_no_worker_any_more_moves_its_blocks_and_stays() -> None:
    both = {**BEFORE, "pi1": member("pi1", Role.MANAGER, Role.WORKER)}
    (found,) = leavers(both, spec("pi1", "pi2", "pi3", "pi4"))
    assert (found.name, found.whole) == ("pi1", False)
    kept = spec("pi1", "pi2", "pi3", "pi4", roles=", roles: [manager, worker]")
    assert leavers(both, kept) == ()


def test_the_manager_cannot_become_another_node() -> None:
    said = manager_refusal(BEFORE, spec("pi3", "pi1", "pi2", "pi4"))
    assert said is not None and said.startswith("pi1 is the manager and cannot become pi3")
    assert manager_refusal(BEFORE, spec("pi1", "pi3")) is None
    assert manager_refusal({}, spec("pi1", "pi3")) is None


def test_the_plan_says_in_plain_words_what_becomes_of_the_node() -> None:
    steps = leave_steps([PI2], ["pi3", "pi4"], {})
    assert {step.symbol for step in steps} == {"-"}
    assert [(s.action, s.target) for s in steps] == [
        (Action.LEAVE, "datanode"),
        (Action.LEAVE, "nodemanager"),
        (Action.CLEAR, "node"),
    ]
    assert "copied to pi3, pi4 first" in steps[0].reason


def test_of_a_node_that_is_dead_nothing_is_promised() -> None:
    first, last = leave_steps([PI2], ["pi3"], {"pi2": "pi2 (pi2.lan) does not answer"})
    assert "if the other copies of its blocks on pi3 are enough" in first.reason
    assert last.reason == "is forgotten; what is on it stays there: pi2 (pi2.lan) does not answer"


# -- whether -------------------------------------------------------------------------------------------


def test_a_node_may_leave_where_enough_and_large_enough_ones_stay() -> None:
    assert refusals([PI2], storage(pi2=stored(), pi3=stored(), pi4=stored())) == []


def test_fewer_datanodes_than_copies_are_refused() -> None:
    (said,) = refusals([PI2], storage(pi2=stored(), pi3=stored()))
    assert "kept in 2 copies on different DataNodes, and only 1 would be left" in said
    assert refusals([PI2], storage(copies=1, pi2=stored(), pi3=stored())) == []


def test_a_datanode_that_is_dead_does_not_count_as_one_that_stays() -> None:
    (said,) = refusals([PI2], storage(pi2=stored(), pi3=stored(), pi4=stored("dead")))
    assert "only 1 would be left" in said


def test_too_little_room_is_refused_with_the_arithmetic() -> None:
    small = stored(remaining_bytes=1500 * MIB)
    (said,) = refusals([PI2], storage(pi2=stored(), pi3=small, pi4=small))
    assert "1024 MiB of blocks would have to fit into 952 MiB" in said
    enough = stored(remaining_bytes=1536 * MIB)
    assert refusals([PI2], storage(pi2=stored(), pi3=enough, pi4=enough)) == []


def test_what_has_moved_out_already_is_not_counted_again() -> None:
    assert refusals([PI2], storage(pi2=stored("decommissioned"), pi3=stored())) == []


def test_a_dead_node_may_go_when_no_block_would_be_lost_and_not_otherwise() -> None:
    alive = {"pi3": stored(), "pi4": stored()}
    assert refusals([PI2], storage(pi2=stored("dead", used_bytes=0), **alive)) == []
    (said,) = refusals([PI2], storage(missing=17, pi2=stored("dead", used_bytes=0), **alive))
    assert said.startswith("pi2 cannot leave: 17 blocks would be lost")


def test_a_node_that_has_just_died_is_waited_for_until_the_namenode_knows() -> None:
    just = storage(pi2=stored(silent_s=60), pi3=stored(), pi4=stored())
    (said,) = refusals([PI2], just, ["pi2"])
    assert "gives one up after 2 minutes" in said
    assert refusals([PI2], just) == [], "its DataNode may only be slow: SSH answers"
    heard = storage(pi2=stored(silent_s=3), pi3=stored(), pi4=stored())
    assert refusals([PI2], heard, ["pi2"]) == [], "only SSH is out: its DataNode can copy"


# -- how far -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pi2", "missing", "said"),
    [
        (stored("live"), 0, "pi2: the NameNode looks at its 40 blocks"),
        (stored("decommission in progress"), 0, "pi2: the NameNode looks at its 40 blocks"),
        (stored("decommission in progress", to_copy=12), 0, "pi2: 12 of 40 blocks still to copy"),
        (
            stored("decommission in progress", to_copy=1, open_files=1),
            0,
            "pi2: 1 of 40 blocks still to copy, 1 in files that are being written",
        ),
        (stored("decommissioned"), 0, None),
        (stored("dead"), 0, None),
        (stored("dead"), 1, "pi2 is dead; without any copy elsewhere: 1 block"),
    ],
)
def test_progress_is_blocks_that_are_still_to_copy(pi2: Stored, missing: int, said: str | None) -> None:
    assert still_to_do(PI2, storage(missing=missing, pi2=pi2, pi3=stored())) == said


def test_a_datanode_that_the_namenode_does_not_know_keeps_nobody_waiting() -> None:
    assert still_to_do(PI2, storage(pi3=stored())) is None


def test_the_lists_name_a_datanode_by_address_and_port_and_a_nodemanager_by_address() -> None:
    files = exclude_files([PI2, Leaver(member("pi9", Role.MANAGER), whole=True)])
    assert files[layout.DFS_EXCLUDED].content == b"10.0.0.2:9866\n"
    assert files[layout.YARN_EXCLUDED].content == b"10.0.0.2\n"


# -- records -------------------------------------------------------------------------------------------


def test_members_are_known_from_this_machine_and_from_the_managers_manifest(tmp_path: Path) -> None:
    state = open_remote_state("lab", root=tmp_path)
    members.remember(state, {"pi2": BEFORE["pi2"]})
    there = MachineFacts(
        manifest=Manifest(version="1", files={}, extra=members.manifest_entry({"pi3": BEFORE["pi3"]}))
    )
    assert members.known_members(state, there) == {"pi2": BEFORE["pi2"], "pi3": BEFORE["pi3"]}
    assert members.known_members(state, None) == {"pi2": BEFORE["pi2"]}


def test_a_file_of_this_machine_is_not_told_to_other_ones() -> None:
    known = Member(
        "pi2", SshTarget(host="pi2", config="/home/ana/ssh_config"), (Role.WORKER,), "10.0.0.2", ""
    )
    assert "config" not in known.document()["ssh"]
    assert Member.read("pi2", known.document(private=True)) == known


def test_a_record_that_another_version_wrote_is_left_out(tmp_path: Path) -> None:
    state = open_remote_state("lab", root=tmp_path)
    state.remember(members={"pi2": {"ssh": {"host": "-oProxyCommand=x"}}, "pi3": BEFORE["pi3"].document()})
    assert set(members.known_members(state, None)) == {"pi3"}


def test_members_of_a_spec_have_the_addresses_under_which_the_namenode_knows_them() -> None:
    cluster = spec("pi1", "pi2")
    placed = place_nodes(cluster, {"pi1": None, "pi2": None}, cluster_id="x", login="pi")
    found = members.members_of(cluster, placed)
    assert (found["pi1"].datanode, found["pi2"].datanode) == ("", "pi2.lan:9866")


# -- in order ------------------------------------------------------------------------------------------


class Clock:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


class FakeDaemons:
    """NameNode and ResourceManager that answer what a test has written down, the last answer for ever."""

    def __init__(self, *answers: Storage | Exception, containers: int = 0, until_s: float = 0.0) -> None:
        self.answers = list(answers)
        self.busy, self.until_s = containers, until_s
        self.clock = Clock()

    def storage(self) -> Storage:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def containers(self, addresses: list[str]) -> dict[str, int]:
        return dict.fromkeys(addresses, self.busy if self.clock.now < self.until_s else 0)


class FakeSsh:
    """OpenSSH that keeps what was run, and a manifest."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.manifest: dict[str, Any] = {"units": {"namenode": "aa.bb", "datanode": "cc"}}
        self.files: dict[str, bytes] = {}

    def check(self, target: SshTarget, argv: list[str], *, stdin: bytes = b"", **_: Any) -> bytes:
        if argv[0] == "cat":
            return json.dumps(self.manifest).encode()
        if stdin:
            import base64

            for entry in json.loads(stdin)["files"]:
                content = base64.b64decode(entry["content"])
                if entry["path"].endswith("manifest.json"):
                    self.manifest = json.loads(content)
                else:
                    self.files[entry["path"]] = content
            self.ran.append("place " + " ".join(sorted(self.files)))
        else:
            self.ran.append(" ".join(argv))
        return b""


MANAGER = MachineFacts(
    deployed={
        f"/etc/rpicluster/{path}": DeployedFile(sha256="", mode=0o644, owner="root")
        for path in (layout.DFS_EXCLUDED, layout.YARN_EXCLUDED)
    }
)
Make = Callable[..., tuple[Leaving, FakeSsh, list[str]]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    def build(daemons: FakeDaemons, manager: MachineFacts = MANAGER) -> tuple[Leaving, FakeSsh, list[str]]:
        state = open_remote_state("lab", root=tmp_path)
        members.remember(state, BEFORE)
        ssh = FakeSsh()
        wanted = spec("pi1", "pi3", "pi4")
        targets = {node.name: node.ssh for node in wanted.nodes if node.ssh}
        leaving = Leaving(
            wanted,
            state,
            Nodes(targets, ssh, {}),  # type: ignore[arg-type]
            {"pi1": manager},
            lambda: daemons,  # type: ignore[arg-type,return-value]
            clock_s=daemons.clock,
            pause=daemons.clock.pause,
        )
        monkeypatch.setattr(Leaving, "_look", ({}, {"pi2": "pi2 does not answer"}))
        return leaving, ssh, []

    yield build


def run(leaving: Leaving, said: list[str]) -> None:
    leaving.move_out(report=lambda key, text, share: said.append(text))


OTHERS = {"pi3": stored(), "pi4": stored()}
GOING = [
    storage(pi2=stored(), **OTHERS),
    storage(pi2=stored("decommission in progress", to_copy=12), **OTHERS),
    storage(pi2=stored("decommission in progress", to_copy=3), **OTHERS),
    storage(pi2=stored("decommissioned"), **OTHERS),
]


def test_a_node_is_counted_out_waited_for_and_the_lists_are_as_the_plan_knows_them(make: Make) -> None:
    leaving, ssh, said = make(FakeDaemons(*GOING))
    run(leaving, said)
    assert said == [
        "pi2: 12 of 40 blocks still to copy",
        "pi2: 3 of 40 blocks still to copy",
        "every block is elsewhere",
    ]
    assert [command for command in ssh.ran if "reload" in command] == [
        "systemctl reload rpicluster-namenode.service rpicluster-resourcemanager.service"
    ]
    assert set(ssh.files.values()) == {b""}


def test_a_node_that_is_put_back_is_counted_in_again_by_the_next_up(make: Make) -> None:
    leaving, ssh, said = make(FakeDaemons(*GOING))
    run(leaving, said)
    assert ssh.manifest["units"] == {"namenode": "aa.leaving", "datanode": "cc"}


def test_a_refusal_changes_nothing(make: Make) -> None:
    leaving, ssh, said = make(FakeDaemons(storage(pi2=stored(), pi3=stored())))
    with pytest.raises(UsageError, match="pi2 cannot leave"):
        run(leaving, said)
    assert ssh.ran == []


def test_a_node_whose_datanode_is_known_no_more_needs_no_reload(make: Make) -> None:
    leaving, ssh, said = make(FakeDaemons(storage(**OTHERS)))
    run(leaving, said)
    assert not any("reload" in command for command in ssh.ran)


def test_a_namenode_that_is_away_for_a_while_is_waited_for(make: Make) -> None:
    away = ServiceError("NameNode at pi1:9870 is still starting")
    leaving, _, said = make(FakeDaemons(GOING[0], away, *GOING[1:]))
    run(leaving, said)
    assert said[0] == "NameNode at pi1:9870 is still starting" and said[-1] == "every block is elsewhere"


def test_when_nothing_moves_the_wait_ends_and_says_what_it_waited_for(make: Make) -> None:
    daemons = FakeDaemons(GOING[0], GOING[1])
    leaving, _, said = make(daemons)
    with pytest.raises(Unhealthy, match="nothing has moved for 10 min: pi2: 12 of 40 blocks still to copy"):
        run(leaving, said)
    assert STALLED_S <= daemons.clock.now < STALLED_S + 10


def test_containers_have_five_minutes_to_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    daemons = FakeDaemons(GOING[0], GOING[3], containers=2, until_s=1e9)
    leaving, _, said = make(daemons)
    monkeypatch.setattr(Leaving, "_look", ({"pi2": MachineFacts()}, {}))
    run(leaving, said)
    assert "pi2: 2 containers may end" in said
    assert GRACE_S <= daemons.clock.now < GRACE_S + 10


def test_a_cluster_of_a_version_without_the_lists_says_what_to_do_first(make: Make) -> None:
    leaving, ssh, said = make(FakeDaemons(*GOING), MachineFacts())
    with pytest.raises(UsageError, match="could not take nodes out"):
        run(leaving, said)
    assert ssh.ran == []


def test_while_hdfs_says_nothing_nobody_leaves(make: Make) -> None:
    leaving, _, _ = make(FakeDaemons(ServiceError("no answer")))
    assert "while HDFS does not say where its blocks are: no answer" in leaving.refusals()[0]


def test_who_left_is_forgotten_on_both_sides_and_who_leaves_is_not(make: Make) -> None:
    leaving, ssh, _ = make(FakeDaemons(*GOING))
    staying = {name: known for name, known in BEFORE.items() if name != "pi2"}
    assert leaving.members(staying) == BEFORE
    told: list[str] = []
    assert leaving.clear(staying, report=lambda key, text, share: told.append(text)) == {}
    assert told == ["left behind as it is: pi2 does not answer"]
    assert set(ssh.manifest["members"]) == {"pi1", "pi3", "pi4"}
    assert leaving.remaining(staying, {}) == staying
    assert leaving.remaining(staying, {"pi2": Unhealthy("not cleared")}) == BEFORE
    assert set(members.known_members(leaving._state, None)) == {"pi1", "pi3", "pi4"}
