"""The store: a runtime is there whole or not at all."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from rpicluster.errors import LockHeld, RuntimeFetchError
from rpicluster.runtime import layout, locking, store
from rpicluster.runtime.lock import load_lock, parse_lock
from rpicluster.runtime.store import ensure, installed, locked_hash, remove, verify

sys.path.insert(0, str(Path(__file__).parent))
from runtime_fakes import Shop, everything_in


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path / "shop")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def install(shop, cache, **more):
    return ensure(cache, locked=shop.lock, fetchers=shop.fetchers, **more)


def test_the_first_ensure_installs_and_the_second_fetches_nothing(shop, cache):
    runtime = install(shop, cache)
    assert shop.fetched == ["hadoop-client-api", "hadoop-client-minicluster", "pyspark"]
    assert install(shop, cache) == runtime == installed(cache, locked=shop.lock)
    assert len(shop.fetched) == 3


def test_the_layout_is_a_spark_home_with_the_daemons_beside_it(shop, cache):
    path = install(shop, cache).path
    assert (path / "RELEASE").read_text() == "Spark 9.9.9 built for Hadoop 3.5.0\n"
    assert sorted(p.name for p in (path / "hadoop").iterdir()) == [
        "hadoop-client-api-3.5.0.jar",
        "hadoop-client-minicluster-3.5.0.jar",
        "jcl-over-slf4j-2.0.17.jar",
        "log4j-1.2-api-2.24.3.jar",
        "log4j-api-2.24.3.jar",
        "log4j-core-2.24.3.jar",
        "log4j-slf4j2-impl-2.24.3.jar",
        "slf4j-api-2.0.17.jar",
    ]
    jars = {p.name for p in (path / "jars").iterdir()}
    assert "hadoop-client-api-3.5.0.jar" in jars and "hadoop-client-api-3.4.2.jar" not in jars
    assert "hadoop-client-minicluster-3.5.0.jar" not in jars
    for shared in ("slf4j-api-2.0.17.jar", "hadoop-client-api-3.5.0.jar"):
        assert (path / "jars" / shared).samefile(path / "hadoop" / shared)
    assert os.access(path / "bin/spark-submit", os.X_OK)
    assert not (path / "bin/spark-submit.cmd").exists() and not (path / "examples").exists()
    assert (path / "LICENSE").read_text() == "licence" and (path / "licenses/LICENSE-x.txt").exists()
    assert (path / "python/lib/py4j-0.10-src.zip").exists()


def test_files_can_be_read_by_others_whatever_the_umask(shop, cache):
    old = os.umask(0o077)
    try:
        path = install(shop, cache).path
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o755
    assert (path / "jars").stat().st_mode & 0o777 == 0o755
    assert (path / "hadoop/hadoop-client-minicluster-3.5.0.jar").stat().st_mode & 0o777 == 0o644
    assert (path / "jars/spark-core_2.13-9.9.9.jar").stat().st_mode & 0o777 == 0o644


def test_the_protobuf_classes_import_without_pyspark_itself(shop, cache):
    path = install(shop, cache).path
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import pyspark.sql.connect.proto as p; print(p.ANSWER)"
    )
    run = subprocess.run(
        [sys.executable, "-B", "-c", code, str(path / "connect")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.strip() == "42"


def test_sizes_count_linked_files_once_and_say_what_was_pruned(shop, cache):
    runtime = install(shop, cache)
    on_disk = {p.stat().st_ino: p.stat().st_size for p in runtime.path.rglob("*") if p.is_file()}
    assert runtime.size_bytes == sum(on_disk.values()) - (runtime.path / store.MANIFEST).stat().st_size
    fetched = sum(map(len, shop.members.values())) + sum(a.size_bytes for a in shop.lock.jars)
    assert runtime.pruned_bytes == fetched - runtime.size_bytes > 7000


def test_the_hash_is_known_before_fetching_and_follows_lock_and_rules(shop, cache, monkeypatch):
    before = locked_hash(shop.lock)
    assert install(shop, cache).content_hash == before
    other = dataclasses.replace(shop.lock.artifacts[0], version="3.5.1")
    assert locked_hash(dataclasses.replace(shop.lock, artifacts=(other, *shop.lock.artifacts[1:]))) != before
    monkeypatch.setattr(layout, "LAYOUT_VERSION", 2)
    assert locked_hash(shop.lock) != before
    assert installed(cache, locked=shop.lock) is None


def test_verify_names_changed_missing_and_added_files(shop, cache):
    runtime = install(shop, cache)
    assert verify(runtime) == []
    jar = runtime.path / "jars/spark-core_2.13-9.9.9.jar"
    flipped = bytearray(jar.read_bytes())
    flipped[100] ^= 1
    jar.write_bytes(flipped)
    (runtime.path / "LICENSE").unlink()
    (runtime.path / "jars/evil.jar").write_bytes(b"evil")
    (runtime.path / "bin/spark-submit").chmod(0o644)
    (runtime.path / "connect/pyspark/__pycache__").mkdir()
    (runtime.path / "connect/pyspark/__pycache__/x.pyc").write_bytes(b"python makes these")
    assert verify(runtime) == [
        "LICENSE",
        "bin/spark-submit",
        "jars/evil.jar",
        "jars/spark-core_2.13-9.9.9.jar",
    ]


@pytest.mark.parametrize("damage", ["missing jar", "short jar", "no manifest", "broken manifest"])
def test_a_damaged_runtime_is_replaced_by_a_whole_one(shop, cache, damage):
    path = install(shop, cache).path
    jar = path / "jars/spark-core_2.13-9.9.9.jar"
    if damage == "missing jar":
        jar.unlink()
    elif damage == "short jar":
        jar.write_bytes(b"short")
    elif damage == "no manifest":
        (path / store.MANIFEST).unlink()
    else:
        (path / store.MANIFEST).write_text("{")
    assert verify(install(shop, cache)) == []
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", path.name]


def test_progress_says_every_phase_with_bytes(shop, cache):
    said = []
    install(shop, cache, report=said.append)
    assert {p.phase for p in said} == {"fetch", "verify", "unpack", "store"}
    assert all(0 <= p.done_bytes <= p.total_bytes for p in said)
    last = {p.phase: p for p in said}
    assert last["fetch"].done_bytes == last["fetch"].total_bytes == shop.lock.sdist.size_bytes


def test_remove_deletes_all_versions_and_leftovers_and_says_how_much(shop, cache):
    runtime = install(shop, cache)
    root = runtime.path.parent
    (root / "0123456789abcdef").mkdir()
    (root / "0123456789abcdef/old.jar").write_bytes(b"o" * 5000)
    (root / ".new-dead").mkdir()
    (root / ".new-dead/half.tar.gz").write_bytes(b"h" * 700)
    assert remove(cache) >= runtime.size_bytes + 5700
    assert not root.exists() and installed(cache, locked=shop.lock) is None
    assert remove(cache) == 0
    assert verify(install(shop, cache)) == []


def test_the_cache_dir_comes_from_the_environment_when_not_given(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("RPICLUSTER_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert install(shop, None).path.is_relative_to(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["with space", "Ünï cødé", "100%25 %s"])
def test_any_cache_path_works_with_the_real_pip(shop, tmp_path, name, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.folder))
    runtime = ensure(tmp_path / name, locked=shop.lock, fetchers=shop.fetchers_with_pip)
    assert verify(runtime) == []
    assert installed(tmp_path / name, locked=shop.lock) == runtime


# ── Several at once, and the killed ─────────────────────────────────────────────────────────────────

CHILD = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from runtime_fakes import Shop
    from rpicluster.runtime.store import ensure
    shop = Shop(Path(sys.argv[2]))
    def slowly(artifact, into, report):
        (into / "half").write_bytes(b"half a file")
        print("fetching", artifact.name, flush=True)
        time.sleep(float(sys.argv[4]))
        return shop.hand_out(artifact, into, report)
    ensure(Path(sys.argv[3]), locked=shop.lock, fetchers={"maven-jar": shop.hand_out, "pypi-sdist": slowly})
    print("done", flush=True)
"""


def start_child(shop, cache, seconds):
    here = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), here, str(shop.folder), str(cache), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_at_once_fetch_once_and_the_second_says_whom_it_waits_for(shop, cache):
    with start_child(shop, cache, 1.5) as child:
        assert child.stdout.readline() == "fetching pyspark\n"
        said = []
        runtime = install(shop, cache, report=said.append)
        assert shop.fetched == []
        assert verify(runtime) == []
        assert said and said[0].what == f"waiting for process {child.pid}, which fetches the runtime"
        assert child.wait(30) == 0


def test_waiting_ends_with_the_holders_name(shop, cache, monkeypatch):
    monkeypatch.setattr(locking.alone.__wrapped__, "__kwdefaults__", {"timeout_s": 0.5})
    with start_child(shop, cache, 30) as child:
        assert child.stdout.readline() == "fetching pyspark\n"
        try:
            with pytest.raises(LockHeld, match=f"process {child.pid}"):
                install(shop, cache)
        finally:
            child.kill()


def test_after_sigkill_in_the_middle_the_next_ensure_works_and_cleans_up(shop, cache):
    with start_child(shop, cache, 30) as child:
        assert child.stdout.readline() == "fetching pyspark\n"
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    assert any("half" in path for path in everything_in(cache))
    runtime = install(shop, cache)
    assert verify(runtime) == []
    assert not any("half" in path for path in everything_in(cache))
    assert sorted(p.name for p in runtime.path.parent.iterdir()) == [".lock", runtime.path.name]


def test_ctrl_c_in_the_middle_leaves_nothing(shop, cache):
    with start_child(shop, cache, 30) as child:
        assert child.stdout.readline() == "fetching pyspark\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(30) != 0
    assert everything_in(cache) == []


def test_remove_during_a_fetch_fails_the_fetch_with_a_clear_error(shop, cache):
    fetching, removed = threading.Event(), threading.Event()

    def slowly(artifact, into, report):
        fetching.set()
        assert removed.wait(20)
        return shop.hand_out(artifact, into, report)

    def remove_meanwhile():
        assert fetching.wait(20)
        remove(cache)
        removed.set()

    other = threading.Thread(target=remove_meanwhile)
    other.start()
    with pytest.raises(RuntimeFetchError, match="nothing was installed"):
        ensure(cache, locked=shop.lock, fetchers={**shop.fetchers, "pypi-sdist": slowly})
    other.join(20)
    assert installed(cache, locked=shop.lock) is None
    assert verify(install(shop, cache)) == []


# ── The lock ────────────────────────────────────────────────────────────────────────────────────────


def test_the_shipped_lock_names_what_the_design_says():
    assert {(a.name, a.version) for a in load_lock().artifacts} == {
        ("pyspark", "4.1.4"),
        ("hadoop-client-api", "3.5.0"),
        ("hadoop-client-runtime", "3.5.0"),
        ("hadoop-client-minicluster", "3.5.0"),
        ("bcprov-jdk18on", "1.82"),
        ("bcpkix-jdk18on", "1.82"),
        ("bcutil-jdk18on", "1.82"),
        ("iceberg-spark-runtime-4.1_2.13", "1.11.0"),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(schema=2), "schema 2"),
        (lambda d: d["artifacts"].pop(), "exactly one sdist"),
        (lambda d: d["artifacts"][0].update(sha256="abc"), "needs a SHA-256"),
        (lambda d: d["artifacts"][0].update(filename="../../etc/passwd"), "not a plain file name"),
        (lambda d: d["artifacts"][0].pop("version"), "version"),
    ],
)
def test_a_broken_lock_is_refused(change, said):
    from importlib.resources import files

    document = json.loads(files("rpicluster.runtime").joinpath("lock.json").read_text())
    change(document)
    with pytest.raises(RuntimeFetchError, match=said):
        parse_lock(json.dumps(document))
