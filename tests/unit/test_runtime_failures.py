"""Whatever goes wrong: a clear error, nothing installed, nothing left over, and the next try works."""

import os
import resource
import shutil
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rpicluster.errors import RuntimeFetchError
from rpicluster.runtime import pip_fetch, store
from rpicluster.runtime.maven_fetch import fetch_with_jgo
from rpicluster.runtime.store import ensure, installed, verify

sys.path.insert(0, str(Path(__file__).parent))
from runtime_fakes import Shop, everything_in, sdist_bytes, sdist_members

ROOT = os.geteuid() == 0
FULL = {"maven-jar": fetch_with_jgo, "pypi-sdist": pip_fetch.fetch_with_pip}


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path / "shop")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def refused(shop, cache, match, fetchers=None, *, hint):
    """The fetch fails as it should, and leaves nothing behind."""
    with pytest.raises(RuntimeFetchError, match=match) as caught:
        ensure(cache, locked=shop.lock, fetchers=fetchers or shop.fetchers)
    assert caught.value.hint is not None and hint in caught.value.hint
    assert installed(cache, locked=shop.lock) is None
    if cache.is_dir():
        assert everything_in(cache) == []
    return caught.value


def works(shop, cache, fetchers=None):
    assert verify(ensure(cache, locked=shop.lock, fetchers=fetchers or shop.fetchers)) == []


def flip(path, at=20):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# ── A flipped byte, a cut download ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["hadoop-client-api", "pyspark"])
def test_a_flipped_byte_installs_nothing(shop, cache, name):
    good = shop.path(name).read_bytes()
    flip(shop.path(name))
    refused(shop, cache, f"{name}.* was fetched with SHA-256", hint="run the same command again")
    shop.path(name).write_bytes(good)
    works(shop, cache)


@pytest.mark.parametrize("name", ["hadoop-client-minicluster", "pyspark"])
def test_half_a_file_installs_nothing(shop, cache, name):
    good = shop.path(name).read_bytes()
    shop.path(name).write_bytes(good[: len(good) // 2])
    refused(shop, cache, "nothing was installed", hint="run the same command again")
    shop.path(name).write_bytes(good)
    works(shop, cache)


def test_pip_itself_refuses_a_flipped_byte_before_it_unpacks(shop, cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.folder))
    good = shop.path("pyspark").read_bytes()
    trap = cache.parent / "setup-ran"
    bad = sdist_members() | {"setup.py": f"open({str(trap)!r}, 'w')\n".encode()}
    shop.path("pyspark").write_bytes(sdist_bytes(bad))
    refused(shop, cache, "does not have the locked SHA-256", shop.fetchers_with_pip, hint="pip config list")
    assert not trap.exists()
    shop.path("pyspark").write_bytes(good)
    works(shop, cache, shop.fetchers_with_pip)


class Repository:
    """A package index and a Maven repository on loopback, which can cut and spoil what it sends."""

    def __init__(self, shop):
        self.behaviour = "whole"
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[-1]
                file = shop.folder / name
                if self.path == "/simple/pyspark/":
                    page = f"<a href='/files/{shop.path('pyspark').name}'>{shop.path('pyspark').name}</a>"
                    self.answer(page.encode(), "text/html", cached=False)
                elif name and file.is_file():
                    content = file.read_bytes()
                    if repository.behaviour == "flipped":
                        content = content[:50] + bytes([content[50] ^ 1]) + content[51:]
                    self.answer(content, "application/octet-stream", cached=True)
                else:
                    self.send_error(404)

            def answer(self, content, kind, *, cached):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "max-age=3600" if cached else "no-store")
                self.end_headers()
                cut = repository.behaviour == "cut" and kind != "text/html"
                self.wfile.write(content[: len(content) // 2] if cut else content)

            def log_message(self, *args):
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def repository(shop, tmp_path, monkeypatch):
    """pip and jgo, configured by their own means to ask a server of this test."""
    made = Repository(shop)
    config = tmp_path / "jgo.conf"
    config.write_text(f"[repositories]\ncentral = {made.url}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_NO_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", f"{made.url}/simple")
    # Trusted hosts are the only plain-HTTP ones for which pip would use its cache.
    monkeypatch.setenv("PIP_TRUSTED_HOST", f"127.0.0.1:{made.server.server_port}")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_real_pip_and_real_jgo_fetch_it_all_with_bytes_on_the_way(shop, cache, repository, tmp_path):
    said = []
    runtime = ensure(cache, locked=shop.lock, fetchers=FULL, report=said.append)
    assert verify(runtime) == []
    fetched = {p.what: p for p in said if p.phase == "fetch"}
    assert {what: p.done_bytes for what, p in fetched.items()} == {
        str(a): a.size_bytes for a in shop.lock.artifacts
    }
    assert not (tmp_path / "m2").exists(), "the user's Maven repository is not ours to fill"
    assert not (tmp_path / "pip-cache").exists(), "nor is pip's cache"


@pytest.mark.parametrize("kind", ["pypi-sdist", "maven-jar"])
def test_a_cut_connection_installs_nothing(shop, cache, repository, kind):
    fetchers = {**shop.fetchers, kind: FULL[kind]}
    repository.behaviour = "cut"
    refused(shop, cache, "could not be fetched: the network", fetchers, hint="check the network")
    repository.behaviour = "whole"
    works(shop, cache, fetchers)


@pytest.mark.parametrize("kind", ["pypi-sdist", "maven-jar"])
def test_a_spoiled_download_is_not_served_again_from_a_cache(shop, cache, repository, kind):
    fetchers = {**shop.fetchers, kind: FULL[kind]}
    repository.behaviour = "flipped"
    refused(shop, cache, "SHA-256", fetchers, hint="run the same command again")
    repository.behaviour = "whole"
    works(shop, cache, fetchers)


@pytest.mark.parametrize("kind", ["pypi-sdist", "maven-jar"])
def test_without_a_network_the_error_says_so(shop, cache, repository, kind):
    fetchers = {**shop.fetchers, kind: FULL[kind]}
    repository.server.shutdown()
    repository.server.server_close()
    refused(shop, cache, "could not be fetched: the network", fetchers, hint="check the network")
    works(shop, cache)


def test_a_jar_that_no_repository_has_is_named(shop, cache, repository):
    shop.path("hadoop-client-api").unlink()
    error = refused(shop, cache, "in none of the Maven repositories", FULL, hint="jgo.conf")
    assert "hadoop-client-api 3.5.0" in error.message


def in_the_local_repository(shop, tmp_path, name):
    """Put a jar where Maven keeps it, with the companions that Maven writes."""
    artifact = next(a for a in shop.lock.artifacts if a.name == name)
    folder = tmp_path / "m2" / artifact.group.replace(".", "/") / name / artifact.version
    folder.mkdir(parents=True)
    jar = folder / artifact.filename
    shutil.copy(shop.path(name), jar)
    for companion in (f"{jar.name}.sha1", "_remote.repositories", jar.with_suffix(".pom").name):
        (folder / companion).write_text("companion")
    return jar


def test_a_good_jar_of_the_local_repository_is_copied_not_linked(shop, cache, repository, tmp_path):
    jar = in_the_local_repository(shop, tmp_path, "hadoop-client-api")
    shop.path("hadoop-client-api").unlink()
    runtime = ensure(cache, locked=shop.lock, fetchers=FULL)
    flip(jar)
    assert verify(runtime) == []


def test_a_bad_jar_of_the_local_repository_is_reported_and_evicted(shop, cache, repository, tmp_path):
    jar = in_the_local_repository(shop, tmp_path, "hadoop-client-api")
    flip(jar)
    error = refused(shop, cache, "The bad copy was deleted", FULL, hint="run the same command again")
    assert str(jar) in error.message
    assert [p.name for p in jar.parent.iterdir()] == ["hadoop-client-api-3.5.0.pom"]
    works(shop, cache, FULL)


# ── Disks ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_disk_too_small_is_refused_before_anything_is_fetched(shop, cache, monkeypatch):
    sdist = shop.lock.sdist
    needed = (
        2 * sdist.size_bytes
        + sdist.unpacked_bytes
        + sum(a.size_bytes for a in shop.lock.jars)
        + store.RESERVE_BYTES
    )
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage(10**9, 0, needed - 1))
    refused(shop, cache, r"\d+ MiB must be free .* nothing was fetched", hint="RPICLUSTER_CACHE_DIR")
    assert shop.fetched == []
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage(10**9, 0, needed))
    works(shop, cache)


SMALL_DISK = """
    import collections, subprocess, sys
    from pathlib import Path
    here, shop_folder, disk, size, options, fetchers = sys.argv[1:]
    sys.path.insert(0, here)
    from runtime_fakes import Shop, everything_in
    from rpicluster.errors import RuntimeFetchError
    from rpicluster.runtime import store
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},{options}", "tmpfs", disk], check=True)
    usage = collections.namedtuple("usage", "total used free")
    store.shutil.disk_usage = lambda path: usage(10**12, 0, 10**12)  # the disk fills after the check
    shop = Shop(Path(shop_folder))
    fetchers = getattr(shop, fetchers)
    try:
        store.ensure(Path(disk), locked=shop.lock, fetchers=fetchers)
    except RuntimeFetchError as error:
        print(error.message, "|", error.hint)
        print(everything_in(Path(disk)), store.installed(Path(disk), locked=shop.lock))
    subprocess.run(["mount", "-o", "remount,rw,size=64m", disk], check=True)
    print(store.verify(store.ensure(Path(disk), locked=shop.lock, fetchers=fetchers)))
"""


def on_a_small_disk(shop, tmp_path, size, options="rw", fetchers="fetchers"):
    disk = tmp_path / "disk"
    disk.mkdir()
    program = [sys.executable, "-c", textwrap.dedent(SMALL_DISK), str(Path(__file__).parent)]
    run = subprocess.run(
        ["unshare", "--mount", *program, str(shop.folder), str(disk), size, options, fetchers],
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shop.folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.skipif(not ROOT, reason="mounts a file system")
@pytest.mark.parametrize(
    ("size", "fetchers"),
    [("12k", "fetchers"), ("48k", "fetchers"), ("96k", "fetchers"), ("24k", "fetchers_with_pip")],
    ids=["fetching a jar", "unpacking", "storing", "inside pip"],
)
def test_a_disk_that_fills_up_in_the_middle_installs_nothing(shop, tmp_path, size, fetchers):
    said, left, next_try = on_a_small_disk(shop, tmp_path, size, fetchers=fetchers)
    assert f"the disk that holds {tmp_path / 'disk' / 'runtimes'} is full" in said
    assert "free some space" in said
    assert left == "[] None"
    assert next_try == "[]"


@pytest.mark.skipif(not ROOT, reason="mounts a file system")
def test_a_read_only_disk_is_named(shop, tmp_path):
    said, left, next_try = on_a_small_disk(shop, tmp_path, "1m", "ro")
    assert "cannot be written (Read-only file system)" in said and "RPICLUSTER_CACHE_DIR" in said
    assert (left, next_try) == ("[] None", "[]")


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_read_only_folder_is_named(shop, cache):
    cache.mkdir(mode=0o555)
    refused(shop, cache, "cannot be written", hint="RPICLUSTER_CACHE_DIR")
    cache.chmod(0o755)
    works(shop, cache)


def test_a_limit_on_file_size_is_an_error_not_a_half_file(shop, cache):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        refused(shop, cache, "limit for the size of a file", hint="ulimit -f")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    works(shop, cache)


def test_a_cache_path_that_is_a_file_is_named(shop, cache):
    cache.write_text("not a folder")
    refused(shop, cache, "cache", hint="RPICLUSTER_CACHE_DIR")
    cache.unlink()
    works(shop, cache)


# ── Archives with the right hash that are still not to be trusted ───────────────────────────────────


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("pyspark-9.9.9/deps/jars/../../../../../evil", size=4),
        member("/tmp/rpicluster-evil", size=4),
        member("pyspark-9.9.9/deps/jars/x.jar", tarfile.SYMTYPE, "/etc/passwd"),
        member("pyspark-9.9.9/deps/jars/x.jar", tarfile.SYMTYPE, "../../../../evil"),
        member("pyspark-9.9.9/deps/jars/x.jar", tarfile.LNKTYPE, "/etc/passwd"),
        member("pyspark-9.9.9/deps/jars/x.jar", tarfile.CHRTYPE),
        member("pyspark-9.9.9/deps/jars/x.jar", tarfile.FIFOTYPE),
        member("pyspark-9.9.9/deps/jars\\..\\x.jar", size=4),
    ],
    ids=["dotdot", "absolute", "symlink", "relative symlink", "hard link", "device", "fifo", "backslash"],
)
def test_an_archive_that_leads_out_of_the_tree_is_refused(tmp_path, cache, evil):
    shop = Shop(tmp_path / "evil shop", sdist_bytes(sdist_members(), [evil]))
    refused(shop, cache, "leads out of the archive|is a link or a device", hint="report it")
    assert not list(tmp_path.rglob("evil")) and not Path("/tmp/rpicluster-evil").exists()


def test_a_file_that_comes_twice_is_refused(tmp_path, cache):
    twice = member("pyspark-9.9.9/deps/jars/spark-core_2.13-9.9.9.jar", size=4)
    shop = Shop(tmp_path / "evil shop", sdist_bytes(sdist_members(), [twice]))
    refused(shop, cache, "File exists", hint="cache")


def test_an_archive_that_cannot_be_read_is_refused(tmp_path, cache):
    shop = Shop(tmp_path / "evil shop", sdist_bytes(sdist_members())[:-300])
    refused(shop, cache, "archive with the right hash cannot be read", hint="report it")


def test_an_sdist_without_the_daemons_logging_jars_is_refused(tmp_path, cache):
    fewer = {path: content for path, content in sdist_members().items() if "log4j-core" not in path}
    shop = Shop(tmp_path / "evil shop", sdist_bytes(fewer))
    refused(shop, cache, "5 of the 6 logging jars", hint="report it")


# ── pip itself ──────────────────────────────────────────────────────────────────────────────────────


def test_a_silent_pip_is_ended_after_its_deadline(shop, cache, monkeypatch, tmp_path):
    members = sdist_members() | {"setup.py": b"import time\ntime.sleep(600)\n"}
    slow = Shop(tmp_path / "slow-shop", sdist_bytes(members))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(slow.folder))
    monkeypatch.setattr(pip_fetch, "STALL_TIMEOUT_S", 4.0)
    refused(
        slow, cache, "pip said nothing for 4 s", slow.fetchers_with_pip, hint="run the same command again"
    )
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(cache) not in left, "the setup.py that pip ran was ended with it"


def test_a_pip_that_breaks_shows_its_own_words(shop, cache, monkeypatch, tmp_path):
    members = sdist_members() | {"setup.py": b"raise SystemExit('the metadata step broke')\n"}
    broken = Shop(tmp_path / "broken-shop", sdist_bytes(members))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(broken.folder))
    error = refused(broken, cache, "pip ended with 1", broken.fetchers_with_pip, hint="setuptools")
    assert "pip says" in error.message


FETCH = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from runtime_fakes import Shop, sdist_bytes, sdist_members
    from rpicluster.runtime.store import ensure
    members = sdist_members() | {"setup.py": sys.argv[4].encode()}
    shop = Shop(Path(sys.argv[2]), sdist_bytes(members))
    ensure(Path(sys.argv[3]), locked=shop.lock, fetchers=shop.fetchers_with_pip)
"""
BUSY_SETUP = """
import os, sys, time
from setuptools import setup
if not os.path.exists({flag!r}):
    open({flag!r}, "w").close()
    while True:
        os.makedirs(os.environ["TMPDIR"] + "/busy", exist_ok=True)
        time.sleep(0.01)
setup(name="pyspark", version="9.9.9", packages=[])
"""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="orphans are found through /proc")
def test_the_pip_of_a_killed_fetch_is_ended_by_the_next(cache, monkeypatch, tmp_path):
    flag = tmp_path / "setup-runs"
    setup = BUSY_SETUP.format(flag=str(flag))
    shop = Shop(tmp_path / "shop", sdist_bytes(sdist_members() | {"setup.py": setup.encode()}))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.folder))
    words = [str(Path(__file__).parent), str(shop.folder), str(cache), setup]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(FETCH), *words]) as child:
        deadline = time.monotonic() + 60
        while not flag.exists():
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
        child.kill()
    works(shop, cache, shop.fetchers_with_pip)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(cache) not in running
    assert not list((cache / "runtimes").glob(".new-*"))
