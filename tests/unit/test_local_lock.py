"""The lock that names its holder."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rpicluster.errors import LocalEngineError, LockHeld
from rpicluster.nodes.lock import LOCK_FILE, cluster_lock

HOLD = """
import sys
from pathlib import Path
from rpicluster.nodes.lock import cluster_lock
with cluster_lock(Path(sys.argv[1]), cluster="demo", command="rpicluster up"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_the_second_is_told_who_holds_the_lock(tmp_path, holder):
    expected = (
        rf"`rpicluster up` \(pid {holder.pid}, user .+, since \d\d:\d\d:\d\d\) is changing cluster demo"
    )
    with (
        pytest.raises(LockHeld, match=expected) as caught,
        cluster_lock(tmp_path, cluster="demo", command="rpicluster stop"),
    ):
        pass
    assert f"kill {holder.pid}" in (caught.value.hint or "")


def test_a_killed_holder_frees_the_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    with cluster_lock(tmp_path, cluster="demo", command="rpicluster stop"):
        pass


def test_one_who_waits_gets_the_lock_when_it_is_free(tmp_path, holder):
    threading.Timer(0.3, holder.kill).start()
    with cluster_lock(tmp_path, cluster="demo", command="rpicluster stop", wait_s=20):
        pass


def test_the_lock_is_free_after_an_error_in_the_block(tmp_path):
    with pytest.raises(KeyError), cluster_lock(tmp_path, cluster="demo", command="a"):
        raise KeyError
    with cluster_lock(tmp_path, cluster="demo", command="b"):
        assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o600


def test_a_child_of_the_holder_does_not_keep_the_lock(tmp_path):
    with cluster_lock(tmp_path, cluster="demo", command="a"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    with cluster_lock(tmp_path, cluster="demo", command="b"):
        pass
    child.kill()
    child.wait()


def test_the_lock_of_a_destroyed_cluster_is_worth_nothing(tmp_path, holder):
    (tmp_path / LOCK_FILE).unlink()
    with cluster_lock(tmp_path, cluster="demo", command="rpicluster up"):
        assert (tmp_path / LOCK_FILE).exists()


def test_a_cluster_without_state_has_no_lock(tmp_path):
    with (
        pytest.raises(LocalEngineError, match="has no state"),
        cluster_lock(tmp_path / "none", cluster="demo", command="a"),
    ):
        pass
