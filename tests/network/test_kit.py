"""The Python packages by which R on a manager reaches Spark: fetched by pip, loaded by nothing but them."""

import platform
import subprocess
import sys
import tarfile

import pytest

from rpicluster.errors import UsageError
from rpicluster.runtime.kit import ensure_kit, kit_id

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
LOADS = """
import sys
sys.path.insert(0, sys.argv[1])
import rpicluster.rbridge, rpicluster.services.connect.session, rpicluster.services.connect.staging
import grpc, httpx, pyarrow.parquet
for module in (rpicluster, grpc, httpx, pyarrow):
    assert module.__file__.startswith(sys.argv[1]), module
pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), sys.argv[1] + "/a.parquet")
"""


@pytest.mark.parametrize(("python", "machine"), [("3.9", "aarch64"), ("3.10", "x86_64"), ("3.11", "armv7l")])
def test_a_manager_for_which_there_are_no_wheels_is_refused_by_name(python, machine):
    with pytest.raises(UsageError, match=f"which has Python {python} on {machine}"):
        kit_id(python, machine)


def test_each_python_and_each_processor_has_a_kit_of_its_own():
    kits = {kit_id(python, machine) for python in ("3.11", "3.13") for machine in ("x86_64", "aarch64")}
    assert len(kits) == 4
    assert kit_id("3.11", "aarch64") in kits, "the same every time"


@pytest.mark.network
@pytest.mark.timeout(900)
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no wheels for this processor")
def test_a_kit_has_all_that_r_needs_and_is_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said: list[str] = []
    path = ensure_kit(HERE, platform.machine(), report=said.append)
    assert len(said) == 1
    assert ensure_kit(HERE, platform.machine(), report=said.append) == path
    assert len(said) == 1
    with tarfile.open(path) as archive:
        assert all(member.isreg() for member in archive.getmembers()), "what the manager unpacks"
        # Python 3.11 has it from its fourth patch on.
        archive.extractall(
            tmp_path / "kit", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", LOADS, str(tmp_path / "kit")],
        check=True,
        timeout=120,
        cwd=tmp_path,
    )
