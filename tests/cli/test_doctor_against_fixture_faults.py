"""`rpicluster doctor` against faults that only hardware has: a stand-in for ssh gives a Pi's answers.

Written by somebody who has not read how doctor finds things; results: docs/reference/doctor-faults.md.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "rack" / "faults"
sys.path.insert(0, str(FAULTS))  # --import-mode=importlib adds no folder by itself

from fixture_faults import ALONE, CLUSTER_SIZE, TOGETHER, Cluster, FixtureFault, TogetherFault  # noqa: E402
from fixture_nodes import Answer  # noqa: E402
from judging import Report, Verdict, false_alarms, judge, keep, read_report  # noqa: E402
from member_faults import MEMBERS, MemberFault, join  # noqa: E402

NAMES = tuple(f"pi{number}" for number in range(1, CLUSTER_SIZE + 1))
VICTIMS = NAMES[1:]
MEMBER_GROUPS = [MEMBERS[first : first + len(VICTIMS)] for first in range(0, len(MEMBERS), len(VICTIMS))]
GROUPS = [ALONE[first : first + len(VICTIMS)] for first in range(0, len(ALONE), len(VICTIMS))]
# Not named by doctor yet; whoever mends it takes the name out.
NOT_YET = {
    "PoE HAT with a disk",
    "member: hosts lines gone",  # a note, which is not counted here
}
Look = Callable[[Callable[[Cluster], None]], Report]


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Return what lets doctor look at healthy answers that a function has spoiled."""
    folder = tmp_path_factory.mktemp("fixtures")
    (folder / "bin").mkdir()
    shim = folder / "bin" / "ssh"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{FAULTS / "fake_ssh.py"}" "$@"\n')
    shim.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}",
        "FAKE_SSH_ANSWERS": str(folder),
        "RPICLUSTER_STATE_DIR": str(folder / "state"),
    }

    def examine(spoil: Callable[[Cluster], None]) -> Report:
        cluster = {name: Answer(name, number) for number, name in enumerate(NAMES, 1)}
        spoil(cluster)
        nodes = ""
        for answer in cluster.values():
            (folder / f"{answer.host}.txt").write_text(answer.text())
            nodes += f"  - {{name: {answer.name}, ssh: {{host: {answer.host}, user: ubuntu}}}}\n"
        (folder / "cluster.yml").write_text(f"name: fixtures\nnodes:\n{nodes}")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "rpicluster",
                "doctor",
                "--json",
                "--cluster",
                str(folder / "cluster.yml"),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return read_report(done.returncode, done.stdout, done.stderr)

    return examine


@pytest.fixture(scope="module")
def healthy(look: Look) -> Report:
    return look(lambda _: None)


@pytest.fixture(scope="module")
def verdicts() -> Iterator[dict[str, Verdict]]:
    found: dict[str, Verdict] = {}
    yield found
    order = [*(fault.expected("") for fault in ALONE), *(fault.expected for fault in TOGETHER)]
    order += [expected for expected, _ in MEMBERS]
    keep("fixtures", found, order, "fixture")


def test_of_healthy_pis_nothing_is_said(healthy: Report) -> None:
    assert (healthy.code, healthy.findings) == (0, [])


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0].name} to {group[-1].name}")
def test_faults_of_single_pis_alarm_for_no_other(
    look: Look, healthy: Report, verdicts: dict[str, Verdict], group: tuple[FixtureFault, ...]
) -> None:
    pairs = list(zip(VICTIMS, group, strict=False))

    def spoil(cluster: Cluster) -> None:
        for node, fault in pairs:
            fault.spoil(cluster[node])

    report = look(spoil)
    expected = [fault.expected(node) for node, fault in pairs]
    for each in expected:
        verdicts[each.name] = judge(each, report, healthy)
    assert report.document["counts"] is not None
    assert false_alarms(report, healthy, expected) == []


@pytest.mark.parametrize("fault", TOGETHER, ids=lambda fault: fault.expected.name)
def test_faults_of_several_pis_alarm_for_no_other(
    look: Look, healthy: Report, verdicts: dict[str, Verdict], fault: TogetherFault
) -> None:
    report = look(fault.spoil)
    verdicts[fault.expected.name] = judge(fault.expected, report, healthy)
    assert false_alarms(report, healthy, [fault.expected]) == []


@pytest.fixture(scope="module")
def healthy_members(look: Look) -> Report:
    return look(join)


def test_of_healthy_members_nothing_is_said(healthy_members: Report) -> None:
    assert (healthy_members.code, healthy_members.findings) == (0, [])


@pytest.mark.parametrize(
    "group", MEMBER_GROUPS, ids=lambda group: f"{group[0][0].name} to {group[-1][0].name}"
)
def test_faults_of_members_alarm_for_no_other(
    look: Look, healthy_members: Report, verdicts: dict[str, Verdict], group: tuple[MemberFault, ...]
) -> None:
    chosen = [
        (replace(fault, nodes=(node,)), spoil) for node, (fault, spoil) in zip(VICTIMS, group, strict=False)
    ]

    def spoil_all(cluster: Cluster) -> None:
        join(cluster)
        for expected, spoil in chosen:
            spoil(cluster[expected.nodes[0]])

    report = look(spoil_all)
    for expected, _ in chosen:
        verdicts[expected.name] = judge(expected, report, healthy_members)
    assert false_alarms(report, healthy_members, [expected for expected, _ in chosen]) == []


def test_all_but_a_known_few_are_named_and_no_near_miss_is(verdicts: dict[str, Verdict]) -> None:
    for each in verdicts.values():
        print(f"{'+' if each.is_right else '-'} {each.expected.name}: {each.line()}")
    wrong = {name for name, verdict in verdicts.items() if not verdict.is_right}
    assert wrong == NOT_YET & verdicts.keys()
