"""Every kind of finding is triggered by its fault, and stays silent near it."""

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpicluster.errors import RpiclusterError
from rpicluster.health.findings import reach
from rpicluster.health.findings.finding import NOTE, Severity
from rpicluster.health.findings.registry import KINDS, diagnose
from rpicluster.model.machine import Clock, MachineFacts, MachineMemory, Mount, Problem
from rpicluster.nodes.ssh.failures import Cause

sys.path.insert(0, str(Path(__file__).parent))
import doctor_cases as cases
import facts_cases

BY_ID = {kind.id: kind for kind in KINDS}
TRIGGERS = [(kind, n, case) for kind, (found, _) in cases.CASES.items() for n, case in enumerate(found)]
NEAR = [(kind, n, case) for kind, (_, near) in cases.CASES.items() for n, case in enumerate(near)]


def test_every_kind_has_a_fault_and_a_near_miss_and_there_are_more_than_thirty() -> None:
    assert set(cases.CASES) == set(BY_ID)
    assert len(KINDS) == len(BY_ID) >= 30
    assert all(found and near for found, near in cases.CASES.values())


@pytest.mark.parametrize(
    ("kind", "case"), [(k, c) for k, _, c in TRIGGERS], ids=[f"{k}-{n}" for k, n, _ in TRIGGERS]
)
def test_a_fault_is_named_with_evidence_and_a_line_to_paste(kind: str, case: cases.Case) -> None:
    found = [finding for finding in case.findings() if finding.id == kind]
    assert found, [finding.id for finding in case.findings()]
    for finding in found:
        assert finding.evidence and all(finding.evidence)
        assert finding.what and finding.cause and finding.fix and finding.command
        assert "\n" not in finding.command
        assert finding.doc == f"docs/reference/doctor.md#{kind}"
        assert finding.severity.rank >= BY_ID[kind].severity.rank, "the kind states the worst"
        assert finding.severity == (case.severity or finding.severity)


@pytest.mark.parametrize(("kind", "case"), [(k, c) for k, _, c in NEAR], ids=[f"{k}-{n}" for k, n, _ in NEAR])
def test_what_is_near_a_fault_stays_silent(kind: str, case: cases.Case) -> None:
    assert [finding for finding in case.findings() if finding.id == kind] == []


@pytest.mark.parametrize("kind", BY_ID)
def test_the_worst_that_a_kind_states_is_reached_by_one_of_its_faults(kind: str) -> None:
    severities = {f.severity for case in cases.CASES[kind][0] for f in case.findings() if f.id == kind}
    assert BY_ID[kind].severity in severities


def test_a_healthy_cluster_has_no_finding_and_no_note() -> None:
    assert cases.Case().findings() == ()
    assert cases.says().findings() == ()
    set_up = {node: cases.deployed() for node in cases.NODES}
    assert cases.Case(facts=set_up, daemons=cases.daemons()).findings() == ()


harmless = st.fixed_dictionaries(
    {},
    optional={
        "kernel": st.sampled_from(("6.1.0", "6.12.34+rpt-rpi-v8")),
        "uptime_s": st.floats(0, 1e8),
        "temperature_c": st.floats(20, 74.9),
        "memory": st.integers(3500, 4096).map(
            lambda mib: MachineMemory(total_mib=mib, available_mib=mib // 9)
        ),
        "clock": st.builds(
            Clock,
            offset_s=st.floats(-1, 1),
            uncertainty_s=st.floats(0, 0.5),
            synchronised=st.just(True),
            utc_offset=st.sampled_from(("+0000", "+0200", "-0930")),
        ),
        "mounts": st.integers(1, 85).map(lambda used: (cases.mount(used_percent=used, free_mib=5000),)),
        "login": st.sampled_from(("pi", "ana", "root")),
        "privilege": st.sampled_from(("root", "sudo", "sudo-password")),
        "firewall_tables": st.sampled_from(((), ("table inet filter",), None)),
        "routes": st.just(cases.pi4().routes * 2),
    },
)


@settings(max_examples=150, deadline=None)
@given(st.lists(harmless, min_size=3, max_size=3))
def test_what_varies_between_healthy_nodes_is_no_finding(changes: list[dict[str, Any]]) -> None:
    # A zone that differs is no fault either: clocks are measured in seconds since the epoch.
    assert cases.Case(facts=dict(zip(cases.NODES, changes, strict=True))).findings() == ()


every_fault = st.lists(st.sampled_from([case for _, _, case in TRIGGERS]), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(every_fault, st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(chosen: list[cases.Case], shuffle: random.Random) -> None:
    facts: dict[str, dict[str, Any]] = {}
    for case in chosen:
        for node, changes in case.facts.items():
            facts.setdefault(node, {}).update(changes)
    nodes = cases.Case(facts=facts, errors=chosen[0].errors).nodes()
    names = list(nodes)
    shuffle.shuffle(names)
    ask = {"on": cases.paste, "year_month": cases.TODAY}
    assert diagnose(cases.SPEC, nodes, **ask) == diagnose(cases.SPEC, {n: nodes[n] for n in names}, **ask)


EMPTY = MachineFacts()


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.sampled_from(sorted(MachineFacts.model_fields))), st.sampled_from(cases.NODES), st.booleans()
)
def test_an_answer_that_broke_off_alarms_nobody(missing: set[str], node: str, is_set_up: bool) -> None:
    number = cases.NODES.index(node) + 1
    whole = cases.pi4(number).model_copy(update=cases.deployed() if is_set_up else {})
    partial = whole.model_copy(update={field: getattr(EMPTY, field) for field in missing})
    broken = partial.model_copy(update={"problems": (Problem(fact="answer", message="it broke off"),)})
    found = diagnose(cases.SPEC, {node: broken}, on=cases.paste, year_month=cases.TODAY)
    assert {finding.severity for finding in found} == {NOTE}
    assert "not-seen" in {finding.id for finding in found}


@settings(max_examples=200, deadline=None)
@given(st.sets(st.sampled_from(sorted(MachineFacts.model_fields))), st.sampled_from(facts_cases.NAMES))
def test_facts_with_missing_parts_raise_nothing(missing: set[str], name: str) -> None:
    partial = facts_cases.facts(name).model_copy(update={field: getattr(EMPTY, field) for field in missing})
    for finding in diagnose(cases.SPEC, {"pi2": partial}, on=cases.paste, year_month=cases.TODAY):
        assert finding.evidence and finding.fix


def test_nothing_seen_at_all_is_a_note() -> None:
    found = diagnose(cases.SPEC, dict.fromkeys(cases.NODES, EMPTY), on=cases.paste)
    assert {finding.severity for finding in found} == {Severity.NOTE}
    assert {finding.id for finding in found} == {"not-seen", "java-missing"}


@pytest.mark.parametrize(
    "name", ["pi4-ubuntu-22.04", "pi5-rpios-bookworm", "x86-debian-12", "rack-debian-12"]
)
def test_the_healthy_machines_of_the_fact_cases_have_no_problem(name: str) -> None:
    facts = facts_cases.facts(name).model_copy(update={"memory": MachineMemory(total_mib=3790)})
    found = diagnose(cases.SPEC, {"pi2": facts}, on=cases.paste, year_month=cases.TODAY)
    assert [
        finding.id for finding in found if finding.severity is not NOTE and finding.id != "memory-missing"
    ] == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "pi3-rpios-bookworm-32bit",
            {"userland-32-bit", "swap-on-card", "throttled", "wireless", "java-old"},
        ),
        (
            "pi4-rpios-bookworm",
            {"under-voltage", "swap-on-card", "link-slow", "dns-slow", "cgroup-memory-off"},
        ),
        ("pi4-rpios-trixie", {"open-port", "sudo-asks-password", "cloud-init-hosts", "still-setting-up"}),
        ("pi4-ubuntu-20.04", {"clock-skew", "no-time-source", "disk-full", "java-old", "os-unproven"}),
        (
            "pi4-ubuntu-24.04",
            {"disk-read-only", "disk-errors", "hot", "unit-failed", "foreign-hadoop", "secret-readable"}
            | {"file-missing", "config-drift", "cmdline-lines", "open-port"},
        ),
        ("pi5-rpios-trixie", {"supply-weak", "throttled", "java-missing"}),
    ],
)
def test_the_faults_of_the_fact_cases_are_found(name: str, wanted: set[str]) -> None:
    found = diagnose(cases.SPEC, {"pi2": facts_cases.facts(name)}, on=cases.paste, year_month=cases.TODAY)
    assert wanted <= {finding.id for finding in found}


def test_mixed_java_and_systems_of_real_machines_are_seen_together() -> None:
    names = ("pi4-rpios-bookworm", "pi4-rpios-trixie", "x86-debian-12")
    machines = dict(zip(cases.NODES, map(facts_cases.facts, names), strict=True))
    found = {finding.id for finding in diagnose(cases.SPEC, machines, on=cases.paste)}
    assert {"java-mixed", "os-mixed", "arch-mixed", "python-mixed"} <= found


def test_problems_come_first_and_the_cluster_before_its_nodes() -> None:
    case = cases.Case(facts={"pi2": {"userland_bits": 32, "java": ()}, "pi1": {"privilege": "none"}})
    severities = [finding.severity.rank for finding in case.findings()]
    assert severities == sorted(severities) and len(set(severities)) == 3


def test_all_nodes_that_are_too_small_are_named_not_only_the_first() -> None:
    small = {"memory": MachineMemory(total_mib=900)}
    found = [f.node for f in cases.everywhere(**small).findings() if f.id == "memory-below-floor"]
    assert found == ["pi1", "pi2", "pi3"]


def test_the_causes_that_are_told_apart_are_those_of_ssh() -> None:
    assert reach.HOST_KEY_CHANGED == Cause.HOST_KEY_CHANGED
    assert reach.KEY_FILE == Cause.KEY_FILE


def test_an_error_of_any_kind_is_one_finding() -> None:
    for case in (case for _, _, case in TRIGGERS if case.errors):
        assert len(case.findings()) == 1
    assert isinstance(next(iter(cases.fails(reach.NodeUnreachable, "x").errors.values())), RpiclusterError)


def test_of_several_mounts_on_one_path_the_last_hides_the_others() -> None:
    hidden: tuple[Mount, ...] = (cases.mount(used_percent=99), cases.mount(used_percent=20))
    assert cases.on(mounts=hidden).findings() == ()
