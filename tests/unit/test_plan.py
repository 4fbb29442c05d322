import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpicluster.design.plan import Action, Observed, ObservedFile, ObservedUnit, Plan, Step, diff, make_plan
from rpicluster.design.units import Rendered, RenderedFile, Unit, unit_hash
from rpicluster.nodes.place import Place


class FakeSshNode:
    """A place that keeps files and units in memory, as a node behind SSH would."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        self.files: dict[str, dict[str, tuple[bytes, int]]] = {node: {} for node in nodes}
        self.units: dict[str, dict[str, str]] = {node: {} for node in nodes}
        self.runtime: dict[str, str] = {}
        self.formatted = False
        self.dead: set[str] = set()
        self.applied: list[tuple[Action, str, str]] = []

    def observe(self) -> Observed:
        alive = [node for node in self.files if node not in self.dead]
        return Observed(
            files={
                node: {
                    path: ObservedFile(hashlib.sha256(content).hexdigest(), mode, "root", content.decode())
                    for path, (content, mode) in self.files[node].items()
                }
                for node in alive
            },
            units={
                node: {name: ObservedUnit("running", h) for name, h in self.units[node].items()}
                for node in alive
            },
            runtime={node: self.runtime.get(node, "") for node in alive},
            namenode="formatted" if self.formatted else "empty",
            unreachable=dict.fromkeys(self.dead, "no route to host"),
        )

    def apply(self, step: Step) -> None:
        self.applied.append((step.action, step.node, step.target))
        files, units = self.files[step.node], self.units[step.node]
        match step.action:
            case Action.WRITE:
                assert step.content is not None
                files[step.target] = (step.content, step.mode)
            case Action.REMOVE:
                del files[step.target]
            case Action.FORMAT:
                assert not self.formatted, "a NameNode is formatted once"
                self.formatted = True
            case Action.INSTALL_RUNTIME:
                self.runtime[step.node] = step.target
            case Action.START | Action.RESTART:
                assert step.unit is not None
                here = {path: RenderedFile(content, mode) for path, (content, mode) in files.items()}
                units[step.target] = unit_hash(step.unit, here)
            case Action.STOP:
                del units[step.target]


def unit(name: str, node: str, reads: tuple[str, ...] = ("a.xml",), after: tuple[str, ...] = ()) -> Unit:
    return Unit(name, node, ("/bin/java", name), (("LANG", "C.UTF-8"),), reads, "/", after)


def rendered(**contents: bytes) -> Rendered:
    files = {
        "a.xml": RenderedFile(contents.get("a", b"a\n")),
        "b.xml": RenderedFile(contents.get("b", b"b\n")),
    }
    return Rendered(
        files={"pi1": files, "pi2": files},
        units=(
            unit("datanode", "pi2", after=("namenode",)),
            unit("namenode", "pi1", reads=("b.xml",)),
            unit("session-ana", "pi1", after=("datanode", "namenode")),
        ),
        runtime_hash="r1",
    )


def converge(place: Place, wanted: Rendered) -> Plan:
    plan = make_plan("home", wanted, place.observe())
    for step in plan.steps:
        place.apply(step)
    return plan


def test_a_second_plan_after_applying_the_first_is_empty():
    place = FakeSshNode(("pi1", "pi2"))
    first = converge(place, rendered())
    assert {step.symbol for step in first.steps} == {"+", "!"}
    assert make_plan("home", rendered(), place.observe()).is_empty


def test_units_start_behind_those_they_wait_for():
    place = FakeSshNode(("pi1", "pi2"))
    converge(place, rendered())
    assert [target for action, _, target in place.applied if action is Action.START] == [
        "namenode",
        "datanode",
        "session-ana",
    ]
    kinds = [action for action, _, _ in place.applied]
    assert kinds.index(Action.FORMAT) < kinds.index(Action.START)
    assert max(i for i, k in enumerate(kinds) if k is Action.WRITE) < kinds.index(Action.FORMAT)


def test_a_changed_file_restarts_only_the_units_that_read_it():
    place = FakeSshNode(("pi1", "pi2"))
    converge(place, rendered())
    plan = make_plan("home", rendered(b=b"other\n"), place.observe())
    assert [(s.symbol, s.node, s.target) for s in plan.steps] == [
        ("~", "pi1", "b.xml"),
        ("~", "pi2", "b.xml"),
        ("!", "pi1", "namenode"),
    ]
    assert "-b\n+other" in diff(plan.steps[0])
    assert plan.summary() == "Plan: 0 to create, 2 to change, 0 to remove; restarts namenode on pi1"


def test_a_file_changed_by_hand_and_one_left_over_are_put_right():
    place = FakeSshNode(("pi1", "pi2"))
    converge(place, rendered())
    place.files["pi1"]["a.xml"] = (b"by hand\n", 0o644)
    place.files["pi2"]["old.xml"] = (b"old\n", 0o644)
    place.files["pi2"]["a.xml"] = (b"a\n", 0o666)
    plan = converge(place, rendered())
    assert [(s.symbol, s.node, s.target) for s in plan.steps] == [
        ("~", "pi1", "a.xml"),
        ("-", "pi2", "old.xml"),
        ("~", "pi2", "a.xml"),
    ]
    assert "-old" in diff(plan.steps[1])
    assert make_plan("home", rendered(), place.observe()).is_empty


def test_a_file_system_is_never_formatted_twice_nor_over_anothers():
    place = FakeSshNode(("pi1", "pi2"))
    converge(place, rendered())
    place.units["pi1"].clear()
    assert Action.FORMAT not in [step.action for step in converge(place, rendered()).steps]
    foreign = dataclasses.replace(place.observe(), namenode="foreign")
    plan = make_plan("home", rendered(), foreign)
    assert plan.refusals
    assert Action.FORMAT not in [step.action for step in plan.steps]


def test_a_dead_node_gets_no_steps_and_is_named():
    place = FakeSshNode(("pi1", "pi2"))
    place.dead = {"pi2"}
    plan = converge(place, rendered())
    assert plan.unreachable == {"pi2": "no route to host"}
    assert {step.node for step in plan.steps} == {"pi1"}
    place.dead = set()
    assert {step.node for step in converge(place, rendered()).steps} == {"pi2"}


def test_a_unit_that_left_the_spec_is_stopped_before_anything_else():
    place = FakeSshNode(("pi1", "pi2"))
    converge(place, rendered())
    place.units["pi2"]["session-old"] = "h"
    plan = make_plan("home", rendered(a=b"x\n"), place.observe())
    assert (plan.steps[0].action, plan.steps[0].target) == (Action.STOP, "session-old")


def test_a_new_runtime_restarts_every_unit():
    place = FakeSshNode(("pi1", "pi2"))
    converge(place, rendered())
    newer = dataclasses.replace(rendered(), runtime_hash="r2")
    plan = make_plan("home", newer, place.observe())
    assert [s.action for s in plan.steps] == [Action.INSTALL_RUNTIME] * 2 + [Action.RESTART] * 3


def test_units_that_wait_for_each_other_are_refused():
    circle = dataclasses.replace(
        rendered(), units=(unit("x", "pi1", after=("y",)), unit("y", "pi1", after=("x",)))
    )
    with pytest.raises(ValueError, match="wait for each other"):
        make_plan("home", circle, Observed())


def test_a_plan_survives_its_json_and_the_hash_tells_plans_apart():
    plan = make_plan("home", rendered(), Observed(files={"pi1": {"z": ObservedFile("0" * 64, 0o600)}}))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.hash == plan.hash
    assert make_plan("home", rendered(a=b"y"), Observed()).hash != plan.hash


@given(st.text() | st.just('{"schema": 1}') | st.just('{"schema": 2}') | st.just("[]"))
def test_anything_that_is_not_a_plan_is_refused_as_one(text):
    with pytest.raises(ValueError, match="plan"):
        Plan.from_json(text)


def test_the_restart_hash_changes_with_what_a_unit_reads_and_with_nothing_else():
    files = rendered().files["pi1"]
    namenode = unit("namenode", "pi1", reads=("b.xml",))
    base = unit_hash(namenode, files)
    assert unit_hash(namenode, {**files, "a.xml": RenderedFile(b"different")}) == base
    assert unit_hash(namenode, {**files, "b.xml": RenderedFile(b"different")}) != base
    assert unit_hash(dataclasses.replace(namenode, argv=("/bin/java", "-Xmx1m")), files) != base


def test_a_changed_list_of_nodes_is_read_again_without_a_restart():
    reader = dataclasses.replace(unit("namenode", "pi1"), rereads=("list",), reload=("/bin/tell",))
    files = {"a.xml": RenderedFile(b"a"), "list": RenderedFile(b"pi2\n")}
    wanted = Rendered({"pi1": files}, (reader,), "r1")
    place = FakeSshNode(("pi1",))
    for step in make_plan("lab", wanted, place.observe()).steps:
        place.apply(step)
    assert make_plan("lab", wanted, place.observe()).is_empty

    longer = Rendered({"pi1": {**files, "list": RenderedFile(b"pi2\npi3\n")}}, (reader,), "r1")
    plan = make_plan("lab", longer, place.observe())
    assert [(s.action, s.target) for s in plan.steps] == [(Action.WRITE, "list"), (Action.RELOAD, "namenode")]
    assert plan.summary().endswith("; reloads namenode on pi1")
    assert Plan.from_json(plan.to_json()) == plan
    both = Rendered({"pi1": {**longer.files["pi1"], "a.xml": RenderedFile(b"b")}}, (reader,), "r1")
    assert Action.RESTART in {step.action for step in make_plan("lab", both, place.observe()).steps}
