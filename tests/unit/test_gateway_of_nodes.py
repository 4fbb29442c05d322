"""What a site behind SSH makes of `sessions.sparklyr` and of this machine's sparklyr; nobody is asked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rpicluster.design.inputs import Inputs
from rpicluster.design.sizing import size
from rpicluster.errors import SparklyrMissing
from rpicluster.model.spec import Gateway
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.remote.place import Look
from rpicluster.runtime import sparklyr_jar
from rpicluster.sites.remote import RemoteSite

SPEC = """\
name: {name}
nodes:
  - {{name: pi1, ssh: {{host: 192.168.1.31, user: pi}}, hardware: {{memory: 8G, cores: 4}}}}
  - {{name: pi2, ssh: {{host: 192.168.1.32, user: pi}}, hardware: {{memory: 4G, cores: 4}}}}
users: [ana, bob]
"""
JAR = sparklyr_jar.SparklyrJar("1.9.5", "a" * 64, b"jar")


def there() -> sparklyr_jar.SparklyrJar:
    return JAR


def missing() -> sparklyr_jar.SparklyrJar:
    raise SparklyrMissing("R on this machine has no sparklyr")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RemoteSite]:
    """Return a site of nodes that were never seen, on a machine whose sparklyr is found by `find`."""
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("RPICLUSTER_CACHE_DIR", str(tmp_path / "cache"))

    def made(
        find: Callable[[], sparklyr_jar.SparklyrJar],
        name: str = "shelf",
        setting: str = "",
        *,
        looked: bool = True,
        text: str = SPEC,
    ) -> RemoteSite:
        monkeypatch.setattr(sparklyr_jar, "find", find)
        site = RemoteSite(parse_spec(text.format(name=name) + setting))
        if looked:
            nobody = dict.fromkeys(("pi1", "pi2"))
            site.__dict__["look"] = Look(machines=dict(nobody), unreachable={}, errors={}, new_host_keys={})
        return site

    return made


def test_with_sparklyr_on_this_machine_the_gateway_is_on_and_has_its_ports(
    make: Callable[..., RemoteSite],
) -> None:
    site = make(there)
    assert site.spec.sessions.sparklyr is Gateway.ON
    inputs = Inputs.checked(site.spec, size(site.spec, site.facts), site.placement)
    assert inputs.sparklyr_ports("ana") == range(18880, 18900)
    assert inputs.sparklyr_ports("bob") == range(18900, 18920)
    assert site.gateway.jar == JAR and site.gateway.notes == ()


def test_without_sparklyr_the_session_is_connect_alone_and_the_plan_says_so(
    make: Callable[..., RemoteSite],
) -> None:
    site = make(missing)
    assert site.spec.sessions.sparklyr is Gateway.OFF
    assert "sparklyr" not in site.placement.nodes["pi1"].ports
    assert site.gateway.notes == ("R on this machine has no sparklyr: R comes in by Spark Connect alone",)
    with pytest.raises(SparklyrMissing):
        _ = make(missing, setting="sessions: {sparklyr: on}\n").spec
    assert make(there, setting="sessions: {sparklyr: off}\n").gateway.jar is None


def test_without_sparklyr_here_the_jar_comes_from_the_repository_of_r_packages(
    make: Callable[..., RemoteSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetched(repository: str) -> sparklyr_jar.SparklyrJar:
        asked.append(repository)
        return JAR

    monkeypatch.setattr(sparklyr_jar, "from_repository", fetched)
    setting = "r: {packages: [], repository: 'https://cran.example.org'}\n"
    assert make(missing, setting=setting).gateway.jar is None and asked == []
    site = make(missing, setting=setting + "sessions: {sparklyr: on}\n")
    assert site.gateway.jar == JAR
    assert asked == ["https://cran.example.org"]


@pytest.mark.parametrize(
    ("memory", "users", "fits"),
    [
        ("1849M", "[ana]", True),
        ("1849M", "[ana, bob]", False),
        ("1760M", "[ana]", False),
        ("1500M", "[ana]", False),
    ],
)
def test_auto_is_off_where_the_manager_cannot_hold_its_drivers(
    make: Callable[..., RemoteSite], memory: str, users: str, fits: bool
) -> None:
    small = SPEC.replace("memory: 8G", f"memory: {memory}").replace("[ana, bob]", users)
    site = make(there, text=small)
    assert (site.gateway.jar is not None) is fits
    if not fits:
        assert site.gateway.notes[0].startswith("no gateway for sparklyr: pi1 ")
    insisting = make(there, text=small, setting="sessions: {sparklyr: on}\n")
    assert insisting.gateway.jar == JAR, "sizing refuses it, with the arithmetic"


def test_another_cluster_of_this_laptop_gets_another_range(make: Callable[..., RemoteSite]) -> None:
    first = make(there)
    first.state.remember(sparklyr=first._gateway_document, users=["ana", "bob"])
    assert make(there, "second").placement.nodes["pi1"].ports["sparklyr"] == 18960
    assert make(there).placement.nodes["pi1"].ports["sparklyr"] == 18880, "what was chosen stays"


def test_a_question_to_a_running_cluster_neither_looks_nor_asks_r(make: Callable[..., RemoteSite]) -> None:
    before = make(missing, looked=False)
    assert before.spec.sessions.sparklyr is Gateway.OFF
    up = make(there)
    up.state.remember(sparklyr=up._gateway_document, placement=json.loads(up.placement.model_dump_json()))

    def never() -> sparklyr_jar.SparklyrJar:
        raise AssertionError("R was asked")

    later = make(never, looked=False)
    later.state.remember(left_out=["pi1", "pi2"])  # so that no facts are needed
    assert later._gateway_setting is Gateway.ON
    assert "look" not in later.__dict__


def test_a_laptop_that_lost_sparklyr_keeps_the_gateway_of_the_cluster(
    make: Callable[..., RemoteSite],
) -> None:
    jar = sparklyr_jar.keep("1.9.5", b"the jar that runs")
    up = make(lambda: jar)
    up.state.remember(sparklyr=up._gateway_document)
    later = make(missing)
    assert later.gateway.jar == jar
    assert "keep the gateway of sparklyr 1.9.5" in later.gateway.notes[0]
