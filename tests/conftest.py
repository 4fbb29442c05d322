"""One running cluster is shared by all tests that need one; only lifecycle tests start their own."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from rpicluster import rpackage
from rpicluster.cluster import Cluster
from rpicluster.errors import LocalEngineError, RpiclusterError
from rpicluster.nodes.local.facts import find_java
from rpicluster.runtime import sparklyr_jar, store

# How long an example takes depends on what else the machine does; no test is about that.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell ignores SIGINT in what it runs in the background, and programs started by tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

KEEP_VARIABLE = "RPICLUSTER_TEST_KEEP"


# `make test` runs two processes, because most tests wait more than they compute. Files that stay in one
# of them: what adds interfaces, mounts or rules, as a rack's tests compare the whole machine, and what shares
# a cluster. The longest groups come first, so that both processes end at about the same time.
TOGETHER = {
    "machine": (
        "tests/rack/",
        "tests/ansible/test_data_disk.py",
        "tests/ssh/test_lost_network.py",
        "tests/unit/test_firewall.py",
        "tests/unit/test_runtime_failures.py",
    ),
    "cluster": ("tests/local/", "tests/r/test_r_package.py"),
}
OWN_CLUSTERS = ("tests/local/test_lifecycle.py", "tests/local/test_local_engine")


def _group(test: str) -> str:
    path = test.split("::", maxsplit=1)[0]
    found = [group for group, starts in TOGETHER.items() if path.startswith(starts)]
    return found[0] if found and not path.startswith(OWN_CLUSTERS) else path


class Groups(LoadScopeScheduling):
    """Gives each process whole groups of tests, in their order."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = list(TOGETHER)
    items.sort(key=lambda item: [*order, _group(item.nodeid)].index(_group(item.nodeid)))


def silent(*_: object) -> None:
    """Report to nobody."""


def _bring_up(cluster: Cluster) -> dict[str, float]:
    with cluster.changing("up"):
        cluster.ensure_runtime(silent)
        return cluster.apply(cluster.plan(), report=silent)


@pytest.fixture(scope="session")
def bring_up() -> Callable[[Cluster], dict[str, float]]:
    """Bring a cluster up as `rpicluster up --yes` does; returns its timings."""
    return _bring_up


@pytest.fixture(scope="session")
def runtime() -> store.Runtime:
    """The runtime in the user's cache, fetched if it is not there."""
    return store.ensure()


@pytest.fixture(scope="session")
def java_home() -> str:
    """A Java that daemons run on."""
    try:
        return find_java().home
    except LocalEngineError as error:
        pytest.skip(f"no Java: {error.message}")


# Two sessions, because some tests bring a second driver: each has an executor wherever YARN puts the masters.
# Executors that one test no longer needs go back before the next test waits for them.
SHARED = """\
name: shared
nodes:
  - {name: manager, local: {memory: 2560M, cores: 1}}
  - {name: worker1, local: {memory: 2G, cores: 1}}
  - {name: worker2, local: {memory: 2G, cores: 1}}
sessions: {max: 2, idle_timeout_s: 30}
"""


@pytest.fixture(scope="session")
def cluster(
    runtime: store.Runtime, java_home: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A manager and two workers on this machine, up and healthy; destroyed after the last test.

    With RPICLUSTER_TEST_KEEP=FOLDER it lives on in that folder, and the next run finds it there.
    """
    kept = os.environ.get(KEEP_VARIABLE)
    folder = Path(kept) if kept else tmp_path_factory.mktemp("shared-cluster")
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("RPICLUSTER_STATE_DIR")
    os.environ["RPICLUSTER_STATE_DIR"] = str(folder / "state")
    spec = folder / "cluster.yml"
    if not spec.exists():
        spec.write_text(SHARED)
    found = Cluster.from_file(spec)
    try:
        _bring_up(found)
        yield found
    finally:
        if not kept:
            assert found.destroy(report=silent) == []
            shutil.rmtree(folder)
        if before is None:
            del os.environ["RPICLUSTER_STATE_DIR"]
        else:
            os.environ["RPICLUSTER_STATE_DIR"] = before


@pytest.fixture(scope="module")
def cluster_with_gateway(
    cluster: Cluster, bring_up: Callable[[Cluster], object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The shared cluster, its session with sparklyr's gateway while the tests of one module run."""
    try:
        sparklyr_jar.find()
    except RpiclusterError as error:
        pytest.skip(f"no sparklyr to test with: {error.message}")
    text = cluster.spec_path.read_text()
    # A driver with a gateway is larger.
    changed = text.replace("2560M", "2880M").replace("idle_timeout_s: 30", "idle_timeout_s: 30, sparklyr: on")
    assert changed.count("sparklyr: on") == changed.count("2880M") == 1
    spec = tmp_path_factory.mktemp("gateway") / "cluster.yml"
    spec.write_text(changed)
    found = Cluster.from_file(spec)
    try:
        bring_up(found)
        yield found
    finally:
        bring_up(Cluster.from_file(cluster.spec_path))


@pytest.fixture(scope="session")
def r_libraries(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The libraries of an R with this project's package, as R_LIBS says them."""
    folder = tmp_path_factory.mktemp("library")
    try:
        rpackage.install(folder)
    except RpiclusterError as error:
        pytest.skip(error.message)
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("R_LIBS")]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failed test's report how the shared cluster is: the failure may lie there."""
    report = yield
    shared = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(shared, Cluster):
        report.sections.append(("shared cluster", "\n".join(_condition(shared))))
    return report


def _condition(cluster: Cluster) -> Iterator[str]:
    yield json.dumps(cluster.status().document(), indent=1)
    try:
        yield from (str(node) for node in cluster.yarn.nodes())
        for application in cluster.yarn.applications():
            if not application.is_final:
                yield str(application)
                yield from (str(container) for container in cluster.yarn.containers(application.id))
    except RpiclusterError as error:
        yield f"YARN: {error}"
