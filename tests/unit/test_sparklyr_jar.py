"""Where the gateway's jar comes from: this machine's own sparklyr, asked once, kept by its content."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from rpicluster.errors import RPackageError, SparklyrMissing, SparklyrUnusable
from rpicluster.model.spec import Gateway
from rpicluster.nodes.gateway_ports import free_block
from rpicluster.runtime import sparklyr_jar
from rpicluster.sites.gateway import Record, choose


class Machine:
    """A machine with an Rscript that says where sparklyr is, and counts how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "library" / "sparklyr"
        self.cache = folder / "cache"
        self.bin = folder / "bin"
        self.asked = folder / "asked"
        self.bin.mkdir()
        self.says(f'printf "a profile prints this\\n\\nfound:%s\\n" "{self.package}"')

    def says(self, line: str) -> None:
        script = self.bin / "Rscript"
        script.write_text(f'#!/bin/sh\necho once >>"{self.asked}"\n{line}\n')
        script.chmod(0o755)

    def install(self, version: str, *jars: str, content: str = "sparklyr/Shell.class") -> None:
        (self.package / "java").mkdir(parents=True, exist_ok=True)
        (self.package / "DESCRIPTION").write_text(
            f"Package: sparklyr\nVersion: {version}\nDepends: R (>= 3.2)\n"
        )
        for jar in jars:
            with zipfile.ZipFile(self.package / "java" / jar, "w") as archive:
                archive.writestr(content, f"{jar} of {version}")

    def find(self) -> sparklyr_jar.SparklyrJar:
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin"}
        return sparklyr_jar.find(environment=environment, cache_dir=self.cache)

    @property
    def times_asked(self) -> int:
        return len(self.asked.read_text().split()) if self.asked.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


MASTER = "sparklyr-master-2.13.jar"


def test_the_newest_jar_for_scala_2_13_is_taken_and_kept_by_its_content(machine: Machine) -> None:
    machine.install("1.9.5", "sparklyr-3.5-2.12.jar", "sparklyr-4.0-2.13.jar", MASTER)
    found = machine.find()
    assert found.version == "1.9.5"
    assert found.content == (machine.package / "java" / MASTER).read_bytes()
    assert found.sha256 == hashlib.sha256(found.content).hexdigest()
    assert sparklyr_jar.kept("1.9.5", found.sha256, cache_dir=machine.cache) == found


def test_without_a_master_the_jar_of_the_newest_spark_is_taken(machine: Machine) -> None:
    machine.install("1.9.7", "sparklyr-4.0-2.13.jar", "sparklyr-4.10-2.13.jar", "sparklyr-4.9-2.13.jar")
    assert machine.find().content == (machine.package / "java" / "sparklyr-4.10-2.13.jar").read_bytes()


def test_r_is_asked_once_and_again_after_an_upgrade(machine: Machine) -> None:
    machine.install("1.9.4", MASTER)
    first = machine.find()
    assert machine.find() == first
    assert machine.times_asked == 1
    machine.install("1.9.5", MASTER)
    assert machine.find().version == "1.9.5"
    assert machine.times_asked == 2


def test_another_library_path_is_another_question(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install("1.9.5", MASTER)
    machine.find()
    environment = {"PATH": f"{machine.bin}:/usr/bin:/bin", "R_LIBS": "/elsewhere"}
    sparklyr_jar.find(environment=environment, cache_dir=machine.cache)
    assert machine.times_asked == 2


def test_a_machine_without_r_or_without_sparklyr_is_told_so(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(SparklyrMissing, match="R is not installed"):
        sparklyr_jar.find(environment={"PATH": str(tmp_path / "nothing")}, cache_dir=machine.cache)
    machine.says('printf "\\nfound:\\n"')
    with pytest.raises(SparklyrMissing, match="has no sparklyr") as caught:
        machine.find()
    assert caught.value.hint == """Rscript -e 'install.packages("sparklyr")'"""


@pytest.mark.parametrize(
    ("version", "jars", "words"),
    [
        ("1.8.6", (MASTER,), r"sparklyr 1\.8\.6 .* is too old: Spark 4 needs 1\.9\.1 or newer"),
        ("1.9.5", ("sparklyr-3.5-2.12.jar",), r"has no jar for Scala 2\.13"),
    ],
)
def test_a_sparklyr_that_does_not_fit_is_named_with_what_is_needed(
    machine: Machine, version: str, jars: tuple[str, ...], words: str
) -> None:
    machine.install(version, *jars)
    with pytest.raises(SparklyrUnusable, match=words):
        machine.find()


def test_a_damaged_jar_is_not_put_on_a_cluster(machine: Machine) -> None:
    machine.install("1.9.5", MASTER)
    path = machine.package / "java" / MASTER
    whole = path.read_bytes()
    for broken in (whole[:-30], whole.replace(b"Shell", b"Shall"), b""):
        path.write_bytes(broken)
        with pytest.raises(SparklyrUnusable):
            machine.find()
    path.write_bytes(whole)
    assert machine.find().content == whole


def test_an_r_that_fails_or_hangs_is_an_error_and_no_traceback(machine: Machine, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    machine.says('echo "Error: cannot open libR.so" >&2; exit 1')
    with pytest.raises(SparklyrUnusable, match=r"cannot open libR\.so"):
        machine.find()
    monkeypatch.setattr(sparklyr_jar, "_ASK_TIMEOUT_S", 0.3)
    machine.says("exec sleep 20")
    with pytest.raises(SparklyrUnusable, match="timed out"):
        machine.find()


def test_a_flipped_byte_in_a_kept_jar_is_no_jar(machine: Machine) -> None:
    jar = sparklyr_jar.keep("1.9.5", b"a jar", cache_dir=machine.cache)
    path = machine.cache / "sparklyr" / f"{jar.sha256}.jar"
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"a jaR")
    assert sparklyr_jar.kept("1.9.5", jar.sha256, cache_dir=machine.cache) is None
    assert sparklyr_jar.kept("1.9.5", "0" * 64, cache_dir=machine.cache) is None


# The jar of a CRAN-like repository, for a cluster whose own laptop has no sparklyr


class Repository:
    """A CRAN-like repository in a folder, which lists what is put into it."""

    def __init__(self, folder: Path) -> None:
        self.contrib = folder / "repository" / "src" / "contrib"
        self.contrib.mkdir(parents=True)
        self.url = (folder / "repository").as_uri()
        self.cache = folder / "cache"

    def put(self, version: str, files: dict[str, bytes], *, name: str = "sparklyr") -> Path:
        path = self.contrib / f"{name}_{version}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for inside, content in files.items():
                entry = tarfile.TarInfo(inside)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        with (self.contrib / "PACKAGES").open("a") as index:
            index.write(f"Package: {name}\nVersion: {version}\nMD5sum: {digest}\n\n")
        return path

    def jar(self) -> sparklyr_jar.SparklyrJar:
        return sparklyr_jar.from_repository(self.url, cache_dir=self.cache)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def a_jar(content: str = "sparklyr/Shell.class") -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr(content, "x")
    return written.getvalue()


def test_the_newest_sparklyr_of_a_repository_gives_its_jar_which_is_kept(repository: Repository) -> None:
    old, new = a_jar("sparklyr/Old.class"), a_jar()
    repository.put("1.9.4", {"sparklyr/inst/java/sparklyr-master-2.13.jar": old})
    archive = repository.put(
        "1.9.10",
        {
            "sparklyr/DESCRIPTION": b"",
            "sparklyr/inst/java/sparklyr-3.5-2.12.jar": b"another Scala",
            "sparklyr/inst/java/sparklyr-master-2.13.jar": new,
            "other/inst/java/sparklyr-master-2.13.jar": b"not its",
        },
    )
    found = repository.jar()
    assert (found.version, found.content) == ("1.9.10", new)
    assert sparklyr_jar.kept("1.9.10", found.sha256, cache_dir=repository.cache) == found
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    with pytest.raises(RPackageError, match="is not what it should be"):
        repository.jar()


@pytest.mark.parametrize(
    ("version", "files", "words"),
    [
        ("1.8.6", {}, r"has only sparklyr 1\.8\.6, and Spark 4 needs 1\.9\.1 or newer"),
        ("1.9.5", {"sparklyr/inst/java/sparklyr-3.5-2.12.jar": b""}, r"has no jar for Scala 2\.13"),
        ("1.9.5", {f"sparklyr/inst/java/{MASTER}": a_jar("Other.class")}, "no gateway of sparklyr"),
        ("1.9.5", {f"sparklyr/inst/java/{MASTER}": a_jar()[:40]}, "cannot be read"),
    ],
)
def test_a_repository_without_a_sparklyr_that_serves_is_told_so(
    repository: Repository, version: str, files: dict[str, bytes], words: str
) -> None:
    repository.put(version, files)
    with pytest.raises(SparklyrUnusable, match=words):
        repository.jar()


def test_a_repository_without_sparklyr_and_a_source_that_is_no_archive_are_told_so(
    repository: Repository,
) -> None:
    repository.put("2.0", {}, name="dplyr")
    with pytest.raises(SparklyrUnusable, match=r"has no sparklyr, and Spark 4 needs"):
        repository.jar()
    (repository.contrib / "sparklyr_1.9.5.tar.gz").write_bytes(b"no archive")
    (repository.contrib / "PACKAGES").write_text("Package: sparklyr\nVersion: 1.9.5\n")
    with pytest.raises(SparklyrUnusable, match=r"sparklyr_1\.9\.5\.tar\.gz of .* cannot be read"):
        repository.jar()


# What a cluster behind SSH makes of it

JAR = sparklyr_jar.SparklyrJar("1.9.5", "0" * 64, b"jar")
LAST = Record(18880, "1.9.4", "1" * 64)


def missing() -> sparklyr_jar.SparklyrJar:
    raise SparklyrMissing("R on this machine has no sparklyr")


def unusable() -> sparklyr_jar.SparklyrJar:
    raise SparklyrUnusable("sparklyr 1.8.0 is too old")


def nothing(last: Record) -> None:
    return None


def test_auto_is_on_where_this_machine_has_sparklyr_and_off_never_asks() -> None:
    assert choose(Gateway.AUTO, None, find=lambda: JAR, bring=nothing).setting is Gateway.ON
    assert choose(Gateway.OFF, LAST, find=missing, bring=nothing).jar is None


@pytest.mark.parametrize("find", [missing, unusable])
def test_auto_without_a_sparklyr_that_fits_says_so_and_on_is_refused(find) -> None:  # type: ignore[no-untyped-def]
    choice = choose(Gateway.AUTO, None, find=find, bring=nothing)
    assert choice.setting is Gateway.OFF
    assert len(choice.notes) == 1 and choice.notes[0].endswith("R comes in by Spark Connect alone")
    with pytest.raises((SparklyrMissing, SparklyrUnusable)):
        choose(Gateway.ON, None, find=find, bring=nothing)


def test_a_laptop_without_sparklyr_does_not_take_the_gateway_away() -> None:
    choice = choose(Gateway.AUTO, LAST, find=missing, bring=lambda last: JAR)
    assert choice.jar == JAR
    assert "keep the gateway of sparklyr 1.9.5" in choice.notes[0]
    assert choose(Gateway.AUTO, LAST, find=missing, bring=lambda last: None).jar is None


def refused() -> sparklyr_jar.SparklyrJar:
    raise RPackageError("the repository does not answer")


def test_the_repository_is_asked_for_the_first_gateway_of_a_cluster_that_wants_one() -> None:
    choice = choose(Gateway.ON, None, find=missing, bring=nothing, fetch=lambda: JAR)
    assert choice.jar == JAR
    assert "the gateway of sparklyr 1.9.5 in `r: repository:`" in choice.notes[0]
    assert choose(Gateway.ON, LAST, find=missing, bring=lambda last: JAR, fetch=refused).jar == JAR
    assert choose(Gateway.ON, None, find=lambda: JAR, bring=nothing, fetch=refused).notes == ()
    assert choose(Gateway.AUTO, None, find=missing, bring=nothing, fetch=refused).jar is None, "not asked"
    with pytest.raises(RPackageError):
        choose(Gateway.ON, None, find=missing, bring=nothing, fetch=refused)


@pytest.mark.parametrize("document", [None, {}, {"first_port": "x"}, [], "text"])
def test_what_is_no_record_of_a_gateway_is_none(document: object) -> None:
    assert Record.of(document) is None
    assert Record.of(LAST.as_document()) == LAST


def test_clusters_of_one_laptop_get_ranges_of_their_own(tmp_path: Path) -> None:
    assert free_block(tmp_path / "nothing", "a", users=4) == 18880
    files = {
        "remote/cluster.json": '{"sparklyr": {"first_port": 18880}, "users": ["a", "b", "c", "d", "e"]}',
        "local/placement.json": '{"nodes": {"m": {"ports": {"sparklyr": 18980, "connect": 19000}}}}',
        "damaged/cluster.json": "{",
        "mine/cluster.json": '{"sparklyr": {"first_port": 19020}}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_block(tmp_path, "mine", users=4) == 19020, "19000 is another's door, its own numbers are free"
    assert free_block(tmp_path, "mine", users=1, is_free=lambda port: port >= 19050) == 19060
