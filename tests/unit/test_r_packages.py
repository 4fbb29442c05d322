"""What nodes get of R, decided on the control machine: answers of apt and a repository in, work out."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from rpicluster.cluster import Cluster
from rpicluster.design import layout
from rpicluster.design.plan import Action, Plan
from rpicluster.errors import RemoteCommandFailed, RPackageError, RpiclusterError
from rpicluster.model.machine import MachineFacts, RInstallation, RPackage
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.remote.commands import Nodes
from rpicluster.nodes.remote.place import Look
from rpicluster.nodes.remote.r_work import RWork, is_r
from rpicluster.sites.r_packages import RPackages, r_request

# What rpicluster's own package needs, as Debian 12 has it, and one more.
DEBIAN = {
    "r-base-core": "4.2.2.20221110-2",
    "r-cran-bit64": "4.0.5-1+b2",
    "r-cran-blob": "1.2.3-1",
    "r-cran-dbi": "1.1.3-1",
    "r-cran-jsonlite": "1.8.4+dfsg-1",
    "r-cran-reticulate": "1.28+dfsg-1",
    "r-cran-digest": "0.6.31-1+b1",
}


@dataclass
class FakeNodes:
    """Nodes whose apt answers as it is told; None is a node where it fails."""

    answers: Mapping[str, Mapping[str, str] | None]

    def each(
        self, do: Callable[[str], Any], names: Iterable[str]
    ) -> tuple[dict[str, Any], dict[str, RpiclusterError]]:
        done, failed = {}, {}
        for name in names:
            try:
                done[name] = do(name)
            except RpiclusterError as error:
                failed[name] = error
        return done, failed

    def python(self, node: str, _script: str, _stdin: bytes, *, deadline_s: float) -> bytes:
        assert deadline_s > 300, "apt on a Pi"
        answer = self.answers[node]
        if answer is None:
            raise RemoteCommandFailed(f"{node}: apt-get update: no network", node=node, status=1)
        return json.dumps(answer).encode()


@dataclass
class Repository:
    """A repository by hand: what is in its packages does not matter here."""

    folder: Path
    listed: list[str] = field(default_factory=list)

    def add(self, name: str, version: str, needs: str = "", *, archived: bool = False) -> str:
        contrib = self.folder / "src" / "contrib"
        contrib.mkdir(parents=True, exist_ok=True)
        content = f"{name} {version}".encode()
        if archived:
            (contrib / "Archive" / name).mkdir(parents=True)
            (contrib / "Archive" / name / f"{name}_{version}.tar.gz").write_bytes(content)
        else:
            (contrib / f"{name}_{version}.tar.gz").write_bytes(content)
            md5 = hashlib.md5(content).hexdigest()
            self.listed.append(
                f"Package: {name}\nVersion: {version}\n{needs}NeedsCompilation: no\nMD5sum: {md5}\n"
            )
        (contrib / "PACKAGES").write_text("\n".join(self.listed))
        return hashlib.sha256(content).hexdigest()

    @property
    def url(self) -> str:
        return f"file://{self.folder}"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("RPICLUSTER_CACHE_DIR", str(tmp_path / "cache"))
    return Repository(tmp_path / "cran")


def work(
    names: tuple[str, ...],
    repository: str | None,
    answers: Mapping[str, Mapping[str, str] | None],
    machines: Mapping[str, MachineFacts] | None = None,
) -> tuple[dict[str, RWork], dict[str, RpiclusterError]]:
    spec = ClusterSpec.model_validate(
        {
            "name": "lab",
            "nodes": [{"name": name, "ssh": {"host": f"{name}.lan"}} for name in ("pi1", "pi2")],
            "r": {"packages": names, "repository": repository},
        }
    )
    seen = dict.fromkeys(answers, MachineFacts()) | dict(machines or {})
    nodes = cast(Nodes, FakeNodes(answers))
    return RPackages(nodes, seen, r_request(spec)).work(list(answers), report=lambda *_: None)


def sources(found: RWork) -> dict[str, str]:
    assert found.order is not None
    return {source["name"]: source["version"] for source in found.order["sources"]}


def test_where_debian_has_all_the_repository_is_not_even_read() -> None:
    found, failed = work(("digest",), "file:///nowhere", {"pi1": DEBIAN, "pi2": DEBIAN})
    assert failed == {} and sources(found["pi2"]) == {"rpicluster": "0.1.0"}
    assert found["pi1"].debian[0] == "r-base-core" and "r-cran-digest" in found["pi1"].debian
    assert "r-base-dev" not in found["pi1"].debian, "our own package is R alone"


def test_scripts_in_r_find_the_systems_python_as_a_library() -> None:
    machines = {
        "pi1": MachineFacts(python="/usr/bin/python3.13"),
        "pi2": MachineFacts(python="/usr/local/bin/python3.13"),  # no package of Debian's
    }
    found, _ = work((), None, {"pi1": DEBIAN, "pi2": DEBIAN}, machines)
    assert found["pi1"].debian == ("r-base-core", "libpython3.13", *found["pi2"].debian[1:])


def test_a_node_whose_apt_fails_is_left_out_and_the_others_go_on() -> None:
    found, failed = work(("digest",), None, {"pi1": DEBIAN, "pi2": None})
    assert set(found) == {"pi1"} and "no network" in failed["pi2"].message


def test_each_node_gets_what_its_own_system_lacks(repository: Repository) -> None:
    repository.add("digest", "0.6.37")
    older = {name: version for name, version in DEBIAN.items() if name != "r-cran-digest"}
    found, _ = work(("digest",), repository.url, {"pi1": DEBIAN, "pi2": older})
    assert "digest" not in sources(found["pi1"]) and sources(found["pi2"])["digest"] == "0.6.37"
    assert [name for name, _ in found["pi2"].files] == ["digest_0.6.37.tar.gz", "rpicluster_0.1.0.tar.gz"]


def test_a_package_that_nobody_has_is_refused_with_the_node_before_anything_is_fetched(
    repository: Repository,
) -> None:
    repository.add("rpione", "1.0")
    with pytest.raises(RPackageError, match=r"pi1: R package rpioen: .*nothing was changed") as caught:
        work(("rpioen",), repository.url, {"pi1": DEBIAN})
    assert caught.value.hint == 'did you mean "rpione"?'
    assert not (repository.folder.parent / "cache" / "r").exists()


def test_a_system_without_r_is_named() -> None:
    with pytest.raises(RPackageError, match="pi1: its system offers no R"):
        work((), None, {"pi1": {"r-cran-digest": "0.6.31-1"}})


def test_nodes_whose_r_is_too_different_for_one_version_are_refused(repository: Repository) -> None:
    repository.add("rpione", "1.0")
    repository.add("rpione", "2.0", "Depends: R (>= 4.5)\n")
    newer = {**DEBIAN, "r-base-core": "4.5.0-3"}
    with pytest.raises(RPackageError, match=r"pi2 needs rpione 2\.0 and other nodes 1\.0"):
        work(("rpione",), repository.url, {"pi1": DEBIAN, "pi2": newer})


def test_a_node_that_joins_gets_the_bytes_of_the_others_though_the_repository_has_moved_on(
    repository: Repository,
) -> None:
    sha256 = repository.add("rpione", "1.0")
    first, _ = work(("rpione",), repository.url, {"pi1": DEBIAN})
    assert first["pi1"].order is not None
    done = first["pi1"].order["done"]
    pi1 = MachineFacts(r=RInstallation(version="4.2.2", done=done))
    moved = Repository(repository.folder)
    (repository.folder / "src" / "contrib" / "rpione_1.0.tar.gz").unlink()
    for kept in (repository.folder.parent / "cache" / "r").iterdir():
        kept.unlink()  # as on another laptop
    moved.add("rpione", "2.0")
    moved.add("rpione", "1.0", archived=True)
    found, _ = work(("rpione",), repository.url, {"pi2": DEBIAN}, {"pi1": pi1})
    assert found["pi2"].order is not None
    assert sources(found["pi2"])["rpione"] == "1.0"
    assert found["pi2"].order["done"]["sources"]["rpione"]["sha256"] == sha256
    assert [path.name for name, path in found["pi2"].files if "rpione" in name] == [f"{sha256}.tar.gz"]


def test_what_a_node_is_told_names_our_folder_and_the_login_that_builds() -> None:
    found, _ = work((), None, {"pi1": DEBIAN})
    order = found["pi1"].order
    assert order is not None
    assert (order["folder"], order["user"], order["wanted"]) == (
        layout.R_FOLDER,
        "rpi-build",
        ["rpicluster"],
    )


def test_taking_r_out_removes_our_folder_and_asks_nobody() -> None:
    nodes = cast(Nodes, FakeNodes({}))
    found, failed = RPackages(nodes, {}, None).work(["pi1"], report=lambda *_: None)
    assert (found, failed) == ({"pi1": RWork(remove=(layout.R_FOLDER,))}, {})


# -- the plan ------------------------------------------------------------------------------------------

SPEC = """\
name: lab
nodes:
  - {name: pi1, ssh: {host: 10.9.8.11, user: pi}}
  - {name: pi2, ssh: {host: 10.9.8.12, user: pi}}
users: [pi]
"""
RECORDED = Path(__file__).parents[1] / "cases" / "facts" / "rack-debian-12" / "expected.json"


def seen(number: int, r: RInstallation | None) -> MachineFacts:
    """A node as it was recorded on a rack, with this R."""
    document = json.loads(RECORDED.read_text())
    document["machine_id"] = document["boot_id"] = str(number) * 32
    document["memory"]["total_mib"] = 4096
    address = [{"address": f"10.9.8.1{number}", "prefix": 24}]
    document["interfaces"] = [{"name": "eth0", "up": True, "addresses": address}]
    document.update(manifest=None, deployed={}, units={}, file_system=None, privilege="sudo", daemons=[])
    return MachineFacts.model_validate(document).model_copy(update={"r": r})


def plan_of(folder: Path, text: str, *r: RInstallation | None) -> Plan:
    (folder / "cluster.yml").write_text(text)
    cluster = Cluster.from_file(folder / "cluster.yml")
    machines = {f"pi{number}": seen(number, each) for number, each in enumerate(r, 1)}
    cluster.site.__dict__["look"] = Look(machines, {}, {}, {})
    return cluster.plan()


def test_a_plan_has_a_step_for_r_where_it_differs_and_shows_what_it_changes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    done, _ = work(("digest",), None, {"pi1": DEBIAN})
    assert done["pi1"].order is not None
    has = RInstallation(
        version="4.2.2",
        packages={
            name: RPackage(version="1", built="4.2.2", library="/x") for name in ("digest", "rpicluster")
        },
        done=done["pi1"].order["done"],
    )
    plan = plan_of(tmp_path, SPEC + "r: {packages: [digest]}\n", has, None)
    assert [(step.node, step.reason, step.symbol) for step in plan.steps if is_r(step)] == [
        ("pi2", "install R and digest", "+")
    ]
    assert Plan.from_json(plan.to_json()) == plan
    written = {
        (step.node, step.target): step.content or b"" for step in plan.steps if step.action is Action.WRITE
    }
    assert b"R_LIBS_SITE=/opt/rpicluster/r/library:" in written["pi2", "/etc/profile.d/rpicluster.sh"]
    assert b"spark.executorEnv.R_LIBS_SITE" in written["pi1", "spark/spark-defaults.conf"]
    without = plan_of(tmp_path, SPEC, has, None)
    assert [(step.node, step.reason) for step in without.steps if is_r(step)] == [
        ("pi1", "remove rpicluster's R packages; Debian's stay")
    ]
