"""R packages for nodes from a repository that the test builds: fetched, resolved, built as on a node."""

import grp
import gzip
import json
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # --import-mode=importlib adds no folder by itself

import cran_repository as cran

from rpicluster.design import layout
from rpicluster.design.cran import Offer, SourcePackage, resolve
from rpicluster.errors import RPackageError
from rpicluster.model.machine import RInstallation, RPackage
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.remote.commands import role_script
from rpicluster.nodes.remote.r_archive import archive_name, write_archives
from rpicluster.nodes.remote.r_work import RRequest, RWork, work_of
from rpicluster.runtime.cran import fetch_index, fetch_source
from rpicluster.sites.r_packages import kept_own, r_request

pytestmark = [pytest.mark.r, pytest.mark.timeout(600)]

BUILDER = (
    ("nobody", "nogroup")
    if os.geteuid() == 0
    else (pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name)
)
# What Debian offers in the tests, whatever this machine's apt knows.
OFFERS = {
    name.lower(): Offer(f"r-cran-{name.lower()}", version)
    for name, version in {"jsonlite": "1.8.4", "DBI": "1.1.3", "bit64": "4.0.5", "blob": "1.2.3"}.items()
} | {"reticulate": Offer("r-cran-reticulate", "1.28")}
SPEC = {
    "name": "lab",
    "nodes": [{"name": name, "ssh": {"host": f"{name}.lan"}} for name in ("pi1", "pi2")],
}


def require_r() -> None:
    asked = (
        'cat(all(c("jsonlite", "DBI", "bit64", "blob", "reticulate") %in% rownames(installed.packages())))'
    )
    try:
        said = subprocess.run(
            ["Rscript", "-e", asked], capture_output=True, text=True, check=False, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("R is not installed: sudo apt-get install r-base-core r-base-dev")
    if shutil.which("gcc") is None or shutil.which("make") is None:
        pytest.skip("packages are compiled here: sudo apt-get install r-base-dev")
    if said.stdout != "TRUE":
        pytest.skip(
            "sudo apt-get install r-cran-jsonlite r-cran-dbi r-cran-bit64 r-cran-blob r-cran-reticulate"
        )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_r()
    folder = tmp_path_factory.mktemp("cran")
    packages = [
        *cran.tiny_packages(folder / "sources"),
        cran.write_package(folder / "sources", "rpibroken", "1.0", code="x <- stop('it is Tuesday')\n"),
        cran.write_package(
            folder / "sources",
            "rpicantload",
            "1.0",
            code=".onLoad <- function(libname, pkgname) stop('no moon tonight')\n",
        ),
        cran.write_package(
            folder / "sources",
            "rpibadc",
            "1.0",
            fields="NeedsCompilation: yes\n",
            exports="useDynLib(rpibadc)\n",
            c="#include <no_such_header.h>\n",
        ),
    ]
    return cran.build_repository(folder / "repository", packages)


@pytest.fixture
def url(repository: Path) -> Iterator[str]:
    with cran.served(repository) as address:
        yield address


@pytest.fixture(scope="module")
def own(repository: Path) -> tuple[SourcePackage, Path]:
    """What stands for our own package, which takes long: a small one that the repository does not list."""
    source = cran.write_package(repository.parent / "sources", "rpiown", "0.1")
    path = (
        cran.build_repository(repository.parent / "own", [source]) / "src" / "contrib" / "rpiown_0.1.tar.gz"
    )
    return SourcePackage("rpiown", "0.1", compiles=False, sha256=cran.sha256(path)), path


@dataclass
class Node:
    """A node's R folder in a temporary place, and its programs run as Ansible would."""

    folder: Path
    cache: Path
    repository: str
    own: SourcePackage
    own_path: Path

    def request(self, *packages: str) -> RRequest:
        return RRequest(packages, self.repository, self.own)

    def work(self, request: RRequest, there: RInstallation | None = None) -> RWork:
        """What the control machine decides and fetches for this node."""
        index = fetch_index(self.repository)
        resolution = resolve(request.packages, index, offers=OFFERS, r="4.2.2", own=request.own)
        sources = {self.own.name: (self.own_path, self.own.sha256)}
        for package in resolution.sources:
            if package.name == "rpicluster":
                sources[package.name] = kept_own(request)
            elif package.name not in sources:
                sources[package.name] = fetch_source(package, self.repository, cache_dir=self.cache)
        return work_of(request, resolution, sources, there)

    def install(self, *packages: str, there: RInstallation | None = None) -> list[str]:
        """Install, and return what was changed."""
        return self.run(self.work(self.request(*packages), there))

    def refused(self, *packages: str, there: RInstallation | None = None) -> str:
        """Return what the node says when it cannot."""
        done = self.started(self.work(self.request(*packages), there))
        assert done.returncode == 1, done.stdout
        return done.stderr

    def run(self, work: RWork) -> list[str]:
        done = self.started(work)
        assert done.returncode == 0, done.stderr
        changed: list[str] = json.loads(done.stdout)["changed"]
        return changed

    def started(self, work: RWork) -> "subprocess.CompletedProcess[str]":
        process = self.popen(work)
        out, errors = process.communicate(timeout=300)
        assert not (self.folder / "r" / "work").exists()
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def popen(self, work: RWork) -> "subprocess.Popen[str]":
        sent = self.folder / "sent"
        sent.mkdir(exist_ok=True)
        (sent / archive_name("pi2")).unlink(missing_ok=True)
        write_archives(sent, {"pi2": work})
        assert work.order is not None
        order = {
            **work.order,
            "folder": str(self.folder / "r"),
            "archive": str(sent / archive_name("pi2")),
            "user": BUILDER[0],
            "group": BUILDER[1],
        }
        process = subprocess.Popen(
            [sys.executable, "-c", role_script("r", "install_r.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        process.stdin = None
        return process

    def rscript(self, expression: str) -> str:
        done = subprocess.run(
            ["Rscript", "-e", expression],
            env={**os.environ, "R_LIBS_SITE": ":".join([str(self.library), *layout.R_LIBRARIES[1:]])},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def library(self) -> Path:
        return self.folder / "r" / "library"

    @property
    def done(self) -> dict[str, Any]:
        return json.loads((self.folder / "r" / "done.json").read_text())  # type: ignore[no-any-return]

    def seen(self) -> RInstallation:
        """What the next look at the node would find."""
        packages = {
            path.name: RPackage(version="1.0", built="4.2.2", library=layout.R_LIBRARY)
            for path in self.library.iterdir()
        }
        return RInstallation(version="4.2.2", packages=packages, done=self.done)


@pytest.fixture
def node(url: str, own: tuple[SourcePackage, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    # Not pytest's own folder: that is closed to the user that builds.
    with tempfile.TemporaryDirectory(prefix="rpi-node-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.setenv("RPICLUSTER_CACHE_DIR", str(folder / "cache"))
        (folder / "node").mkdir()
        yield Node(folder / "node", folder / "cache", url, *own)


def mtimes(library: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in library.iterdir()}


def test_a_package_with_c_code_and_one_that_imports_it_work_beside_our_own(node: Node) -> None:
    spec = {**SPEC, "r": {"packages": ["rpiThrice"], "repository": node.repository}}
    request = r_request(ClusterSpec.model_validate(spec))
    assert request is not None
    work = node.work(request)
    assert {"r-base-core", "r-base-dev", "r-cran-jsonlite", "r-cran-reticulate"} <= set(work.debian)
    changed = node.run(work)
    # A needed package comes before those that need it.
    assert changed.index("rpitwice 1.0") < changed.index("rpiThrice 0.2-1")
    assert {path.name for path in node.library.iterdir()} == {"rpitwice", "rpiThrice", "rpicluster"}
    assert node.rscript("cat(rpiThrice::thrice(14))") == "42"
    assert node.rscript('cat(exists("rpi", asNamespace("rpicluster")))') == "TRUE"
    assert node.done["sources"]["rpitwice"]["version"] == "1.0"


def test_what_is_there_is_not_built_again_and_only_what_was_added_is(node: Node) -> None:
    node.install("rpitwice")
    before = mtimes(node.library)
    assert node.install("rpitwice") == []
    assert node.install("rpitwice", "rpiThrice", there=node.seen()) == ["rpiThrice 0.2-1", "done.json"]
    assert {name: time for name, time in mtimes(node.library).items() if name in before} == before


def test_only_what_a_node_lacks_is_sent_and_only_c_code_asks_for_compilers(node: Node) -> None:
    node.install("rpitwice")
    again = node.work(node.request("rpitwice", "rpiThrice"), node.seen())
    assert [name for name, _ in again.files] == ["rpiThrice_0.2-1.tar.gz"]
    assert "r-base-dev" not in again.debian
    upgraded = node.seen().model_copy(update={"version": "4.5.0"})
    assert len(node.work(node.request("rpitwice"), upgraded).files) == 2, "built for another R"


def test_what_is_no_longer_wanted_goes_with_what_it_needed(node: Node) -> None:
    node.install("rpiThrice")
    assert node.install(there=node.seen()) == ["without rpiThrice", "without rpitwice", "done.json"]
    assert [path.name for path in node.library.iterdir()] == ["rpiown"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_packages_are_built_by_an_ordinary_user_and_belong_to_root(node: Node, tmp_path: Path) -> None:
    code = 'built_by <- system2("id", "-un", stdout = TRUE)\n'
    who = cran.write_package(tmp_path / "s", "rpiwho", "1.0", code=code, exports="export(built_by)\n")
    with cran.served(cran.build_repository(tmp_path / "r", [who])) as node.repository:
        node.install("rpiwho")
    assert node.rscript("cat(rpiwho::built_by)") == "nobody"
    found = {(path.stat().st_uid, path.stat().st_mode & 0o022) for path in node.library.rglob("*")}
    assert found == {(0, 0)}


def test_what_r_says_of_a_package_that_fails_is_told_and_the_library_stays_as_it_was(node: Node) -> None:
    node.install("rpitwice")
    before = mtimes(node.library)
    for package, said in (
        ("rpibroken", "it is Tuesday"),
        ("rpicantload", "no moon tonight"),
        ("rpibadc", "no_such_header.h"),
    ):
        message = node.refused("rpitwice", package, there=None)
        assert said in message and package in message and "Traceback" not in message
        assert mtimes(node.library) == before
        assert node.done["broken_off"], "the next up must see that something lacks"
        assert "rpitwice" in node.done["sources"], "and what the others are to have"
    assert node.rscript("cat(rpitwice::twice(4))") == "8"


def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one_in_place(node: Node, tmp_path: Path) -> None:
    def version(number: str, code: str) -> Path:
        return cran.write_package(
            tmp_path / "s", "rpichanging", number, code=f"f <- function() 1\n{code}", exports="export(f)\n"
        )

    folder = cran.build_repository(tmp_path / "own", [version("1.0", "")])
    with cran.served(folder) as node.repository:
        node.install("rpichanging")
        cran.build_repository(folder, [version("1.1", ".onLoad <- function(l, p) stop('no')\n")])
        assert "rpichanging 1.1" in node.refused("rpichanging")
    assert node.rscript('cat(rpichanging::f(), as.character(packageVersion("rpichanging")))') == "1 1.0"


def test_a_name_that_debian_writes_otherwise_is_refused_after_the_installation(node: Node) -> None:
    request = node.request("Jsonlite")
    resolution = resolve(request.packages, {}, offers=OFFERS, r="4.2.2", own=request.own)
    assert resolution.debian == ("r-cran-jsonlite",), "Debian's names are in lower case: they do not tell"
    said = node.started(
        work_of(request, resolution, {"rpiown": (node.own_path, node.own.sha256)}, None)
    ).stderr
    assert "does not find the package Jsonlite" in said and "is it called jsonlite?" in said


def test_after_a_kill_in_the_middle_the_next_run_waits_for_what_still_builds_and_goes_on(
    node: Node, tmp_path: Path
) -> None:
    slow = cran.write_package(
        tmp_path / "s", "rpislow", "1.0", code="f <- function() 7\n", exports="export(f)\n"
    )
    (slow / "configure").write_text('#!/bin/sh\ntouch "$TMPDIR/begun"\nsleep 5\n')
    (slow / "configure").chmod(0o755)
    with cran.served(cran.build_repository(tmp_path / "own", [slow])) as node.repository:
        work = node.work(node.request("rpislow"))
        first = node.popen(work)
        for _ in range(1200):
            if (node.folder / "r" / "work" / "tmp" / "begun").exists():
                break
            time.sleep(0.1)
        else:
            pytest.fail("the package was never configured")
        first.kill()
        first.communicate()
        begun = time.monotonic()
        assert node.run(work) == ["rpislow 1.0", "done.json"], "what was whole is not built again"
        assert time.monotonic() - begun > 4, "it waited for the sleeping configure of the killed one"
    assert node.rscript("cat(rpislow::f())") == "7"
    assert sorted(path.name for path in node.library.iterdir()) == ["rpiown", "rpislow"]


def test_bytes_that_changed_on_the_way_install_nothing(node: Node) -> None:
    work = node.work(node.request("rpitwice"))
    other = node.folder / "other.tar.gz"
    other.write_bytes(dict(work.files)["rpitwice_1.0.tar.gz"].read_bytes()[:-1] + b"x")
    files = tuple((name, other if "twice" in name else path) for name, path in work.files)
    said = node.started(replace(work, files=files)).stderr
    assert "rpitwice_1.0.tar.gz arrived with another content" in said
    assert not (node.library / "rpitwice").exists()


def test_a_package_that_was_not_sent_is_named(node: Node) -> None:
    said = node.started(replace(node.work(node.request("rpitwice")), files=())).stderr
    assert "was not sent" in said and "Traceback" not in said


# -- fetching ------------------------------------------------------------------------------------------


def change(repository: Path, tmp_path: Path, do: Callable[[Path], None]) -> str:
    """Return a file:// copy of a repository after a change."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(repository), str(copy)], check=True)
    do(copy / "src" / "contrib")
    return f"file://{copy}"


def test_a_package_that_is_not_what_the_list_says_is_refused(repository: Path, tmp_path: Path) -> None:
    def flip(contrib: Path) -> None:
        path = contrib / "rpitwice_1.0.tar.gz"
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    url = change(repository, tmp_path, flip)
    package = fetch_index(url)["rpitwice"][0]
    with pytest.raises(RPackageError, match="is not what it should be: the repository's list says MD5"):
        fetch_source(package, url, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache" / "r").iterdir()) == []


def test_other_bytes_under_a_pinned_version_are_refused_though_the_list_agrees(
    repository: Path, tmp_path: Path
) -> None:
    first = f"file://{repository}"
    package = fetch_index(first)["rpitwice"][0]
    _, pinned = fetch_source(package, first, cache_dir=tmp_path / "cache")

    def rebuild(contrib: Path) -> None:
        path = contrib / "rpitwice_1.0.tar.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=7))
        cran.write_lists(contrib.parents[1])

    url = change(repository, tmp_path, rebuild)
    listed = fetch_index(url)["rpitwice"][0]
    with pytest.raises(RPackageError, match="this cluster's nodes have it with SHA-256"):
        fetch_source(listed, url, pinned_sha256=pinned, cache_dir=tmp_path / "other")
    # Where the bytes are kept, nobody is asked.
    assert (
        fetch_source(package, "file:///nowhere", pinned_sha256=pinned, cache_dir=tmp_path / "cache")[1]
        == pinned
    )


def test_a_pinned_version_that_is_no_longer_the_newest_comes_from_the_archive(
    repository: Path, tmp_path: Path
) -> None:
    package = fetch_index(f"file://{repository}")["rpitwice"][0]

    def archive(contrib: Path) -> None:
        (contrib / "Archive" / "rpitwice").mkdir(parents=True)
        (contrib / "rpitwice_1.0.tar.gz").rename(contrib / "Archive" / "rpitwice" / "rpitwice_1.0.tar.gz")

    url = change(repository, tmp_path, archive)
    path, sha256 = fetch_source(package, url, cache_dir=tmp_path / "cache")
    assert cran.sha256(path) == sha256
    with tarfile.open(path) as found:
        assert "rpitwice/DESCRIPTION" in found.getnames()


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (lambda c: [p.unlink() for p in c.glob("PACKAGES*")], "has no PACKAGES"),
        (lambda c: (c / "PACKAGES.gz").write_bytes(b"hello"), "is not gzip"),
        (lambda c: (c / "PACKAGES.gz").write_bytes((c / "PACKAGES.gz").read_bytes()[:-9]), "breaks off"),
        (lambda c: (c / "PACKAGES.gz").write_bytes(gzip.compress(b"<html>")), "lists no package"),
    ],
)
def test_what_is_no_list_of_packages_is_said_so(
    repository: Path, tmp_path: Path, do: Callable[[Path], None], said: str
) -> None:
    with pytest.raises(RPackageError, match=said):
        fetch_index(change(repository, tmp_path, do))


def test_a_repository_that_does_not_answer_is_named() -> None:
    with pytest.raises(RPackageError, match=r"127\.0\.0\.1:9/src/contrib/PACKAGES\.gz cannot be read"):
        fetch_index("http://127.0.0.1:9")
