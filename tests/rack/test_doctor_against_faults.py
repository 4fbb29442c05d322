"""`rpicluster doctor` against faults on real nodes of a rack, before `up` and in a running cluster.

Written by somebody who has not read how doctor finds things. The results stand in
docs/reference/doctor-faults.md; RPICLUSTER_REGENERATE=1 writes the rows of the faults that ran.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rack_tools import RackUnderTest

sys.path.insert(0, str(Path(__file__).parent / "faults"))  # --import-mode=importlib adds no folder by itself

from bench import RACK, Bench, benches
from fresh_faults import BEFORE
from judging import Report, Verdict, false_alarms, judge, keep
from making import RackFault
from running_faults import RUNNING

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

ORDER = [fault.expected for batch in (*BEFORE, *RUNNING) for fault in batch]
# "28 of 30"
MISSED_AT_MOST = 2 / 30
BACK_S, BACK_RUNNING_S, UP_S = 45.0, 90.0, 900.0
Verdicts = dict[str, Verdict]


def name(batch: tuple[RackFault, ...]) -> str:
    return ", ".join(fault.expected.name for fault in batch)


@dataclass
class Both:
    """A cluster that comes up, and fresh nodes beside it."""

    cluster: Bench
    fresh: Bench
    up: "subprocess.Popen[bytes] | None"
    log: Path
    begun: float


@pytest.fixture(scope="module")
def both(
    request: pytest.FixtureRequest,
    make_rack: Callable[[str], RackUnderTest],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Both]:
    cluster, fresh = benches(make_rack(RACK))
    log = tmp_path_factory.mktemp("up") / "up.log"
    wanted = any("running" in getattr(item, "fixturenames", ()) for item in request.session.items)
    up = cluster.start_up(log) if wanted else None
    yield Both(cluster, fresh, up, log, time.monotonic())
    if up and up.poll() is None:
        up.send_signal(signal.SIGINT)
        up.wait(60)


@pytest.fixture(scope="module")
def before_up(both: Both) -> Report:
    return both.fresh.doctor()


@pytest.fixture(scope="module")
def running(both: Both) -> Report:
    """Wait for the cluster; return what doctor says of it."""
    assert both.up and both.up.wait(UP_S) == 0, both.log.read_text()
    print(f"up: at most {time.monotonic() - both.begun:.0f} s")
    return both.cluster.doctor()


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    return {}


def check(
    bench: Bench, batch: tuple[RackFault, ...], before: Report, verdicts: Verdicts, back_s: float
) -> None:
    """Make faults, let doctor look, undo them, and let it look again."""
    expected = [fault.expected for fault in batch]
    made: list[RackFault] = []
    begun = time.monotonic()
    try:
        for fault in batch:
            bench.close_connections()
            made.append(fault)
            fault.inject(bench)
        bench.close_connections()
        time.sleep(max(fault.settle_s for fault in batch))
        report = bench.doctor()
    finally:
        for fault in reversed(made):
            fault.undo(bench)
        bench.close_connections()
    for each in expected:
        verdicts[each.name] = verdict = judge(each, report, before)
        print(f"{'+' if verdict.is_right else '-'} {each.name}: {verdict.line()}")
    looked = time.monotonic()
    after = bench.settled(before, back_s)
    print(f"  {looked - begun:.0f} s, back after {time.monotonic() - looked:.0f} s")
    keep("rack", verdicts, ORDER, "rack")
    assert false_alarms(report, before, expected) == []
    assert sorted(map(str, after.keys() - before.keys())) == []
    assert sorted(map(str, before.keys() - after.keys())) == []


def test_of_fresh_nodes_nothing_is_said(before_up: Report) -> None:
    assert (before_up.code, before_up.findings) == (0, [])


@pytest.mark.parametrize("batch", BEFORE, ids=name)
def test_before_an_up_faults_alarm_for_no_other_node_and_leave_nothing(
    both: Both, before_up: Report, verdicts: Verdicts, batch: tuple[RackFault, ...]
) -> None:
    check(both.fresh, batch, before_up, verdicts, BACK_S)


def test_of_a_healthy_cluster_nothing_is_said(running: Report) -> None:
    assert (running.code, running.findings) == (0, [])


@pytest.mark.parametrize("batch", RUNNING, ids=name)
def test_in_a_running_cluster_faults_alarm_for_no_other_node_and_leave_nothing(
    both: Both, running: Report, verdicts: Verdicts, batch: tuple[RackFault, ...]
) -> None:
    check(both.cluster, batch, running, verdicts, BACK_RUNNING_S)


def test_nearly_all_of_them_are_named_and_no_near_miss_is(verdicts: Verdicts) -> None:
    real = [each for each in verdicts.values() if not each.expected.is_near_miss]
    wrong = [f"{each.expected.name}: {each.line()}" for each in verdicts.values() if not each.is_right]
    print(f"{len(real)} faults, not right: {wrong}")
    assert [text for text in wrong if text.startswith("near miss")] == []
    assert len(wrong) <= MISSED_AT_MOST * len(real), wrong
