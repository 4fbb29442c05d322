"""A fresh `up` on a rack, broken off three times at random steps: no step twice, and a clean one's end state.

The seed is printed; RPICLUSTER_TEST_SEED=N repeats a run. `make test-long` tries every step, in hours.
"""

import os
import random
import secrets
from collections.abc import Callable

import pytest
from breaking import Breaking, differences
from rack_tools import RackUnderTest

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

NODES = ("pi1", "pi2", "pi3")
NAME = "broken"
# Journalled steps of a fresh `up` of three nodes.
STEPS = 47
# What is done on a node when its command is killed may be done without a line here: a few steps a break.
STEPS_UNLOGGED = 14
WAYS = ("kill", "kill all", "Ctrl-C")


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> Breaking:
    return Breaking(make_rack(NAME), NAME)


def fresh_nodes(cluster: Breaking) -> None:
    """Boot nodes that nothing was ever installed on, at the same addresses, for the same cluster."""
    if cluster.rack.directory.exists():
        cluster.rack.run("down")
    cluster.rack.run("up", "--nodes", "4G,2G,2G", "--subnet", "10.77.241.0/24")
    cluster.begin("5eed0000")


def test_an_up_that_is_broken_off_three_times_ends_as_a_clean_one_and_repeats_nothing(
    cluster: Breaking,
) -> None:
    fresh_nodes(cluster)
    cluster.run("up", "--yes")
    assert len(cluster.done()) == STEPS
    clean = cluster.end_state(NODES)

    seed = int(os.environ.get("RPICLUSTER_TEST_SEED") or secrets.randbelow(10**6))
    print(f"RPICLUSTER_TEST_SEED={seed}")
    chance = random.Random(seed)
    ways = list(WAYS)
    chance.shuffle(ways)
    fresh_nodes(cluster)
    for done, how in zip(sorted(chance.sample(range(1, STEPS - STEPS_UNLOGGED), 3)), ways, strict=True):
        delay = chance.choice((0.0, 0.0, chance.random()))
        last = cluster.break_off(done, how, delay_s=delay)
        print(f"{how} {delay:.2f} s after step {done}: {last}")
    cluster.run("up", "--yes")
    assert cluster.repeated() == []
    assert cluster.journal()[-1]["what"] == "proven"
    assert differences(clean, cluster.end_state(NODES)) == []
