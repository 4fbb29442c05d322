"""The system's own systemd-run reads a run's properties; a bus without a systemd behind it takes them."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_batch import FOLDER, order

from rpicluster.design import batch
from rpicluster.model.scripts import Door

OTHER = "nobody"
_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/><allow user="*"/></policy></busconfig>
"""
# systemd-run asks first whether systemd runs here: in a /run of its own it does.
_AS_IF = 'mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec "$@"'
# All was read and sent; only nobody is there to do it.
NOBODY_THERE = "The name org.freedesktop.systemd1 was not provided"


@pytest.fixture
def bus() -> Iterator[str]:
    tools = ("dbus-daemon", "systemd-run", "unshare", "runuser")
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in tools):
        pytest.skip(f"it takes root and {', '.join(tools)}")
    folder = Path(tempfile.mkdtemp(prefix="rpi-bus-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "conf").write_text(_BUS.format(socket=folder / "socket"))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={folder / 'conf'}", "--nofork", "--nopidfile"],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while not (folder / "socket").exists():
        assert daemon.poll() is None
        assert time.monotonic() < deadline, "the bus did not start"
        time.sleep(0.05)
    (folder / "socket").chmod(0o777)
    yield f"unix:path={folder / 'socket'}"
    daemon.terminate()
    daemon.wait(10)
    shutil.rmtree(folder)


def said(bus: str, properties: list[tuple[str, str]]) -> str:
    words = [word for name, value in properties for word in ("--property", f"{name}={value}")]
    command = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--no-ask-password",
        "--unit",
        "rpicluster-run-x.service",
    ]
    as_other = ["runuser", "-u", OTHER, "--", "env", f"DBUS_SYSTEM_BUS_ADDRESS={bus}"]
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            _AS_IF,
            "sh",
            *as_other,
            *command,
            *words,
            "--",
            "/usr/bin/python3",
            "x",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no /run of its own here: {done.stderr.strip()}")
    return done.stderr


def test_systemd_run_reads_every_property_of_a_run(bus):
    assert pwd.getpwnam(OTHER)
    properties = batch.service_properties("pi", order(Door.NONE), FOLDER)
    assert NOBODY_THERE in said(bus, properties)
    assert "Unknown assignment: NoSuchThing=1" in said(bus, [*properties, ("NoSuchThing", "1")])
    assert "Failed to parse OOMScoreAdjust=x" in said(bus, [*properties, ("OOMScoreAdjust", "x")])
