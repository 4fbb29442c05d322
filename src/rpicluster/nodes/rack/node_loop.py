"""One node's power supply: mounts its disk, boots it, boots it again when it asks for a reboot.

Runs by path, without site-packages (`python -I -S node_loop.py NODE_FOLDER`), in a mount namespace of its
own: what is mounted here is seen by the node alone, and is gone with the last process, however that ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

REBOOT = 133  # what systemd-nspawn --keep-unit returns when the node asked for a reboot
CABLE_OUT = "cable-out"
_WAIT_S = 10.0
_POLL_S = 0.01
_LOOK_S = 0.25


class NodeLoop:
    """A node from its mounts to its last shutdown; `folder` is where it stands."""

    def __init__(self, folder: Path) -> None:
        """Read the boot order that the command line wrote."""
        self.folder = folder
        self.order = json.loads((folder / "boot.json").read_text())
        self.ended = False

    def run(self) -> int:
        """Boot until the node stays off; return 0, or 1 if it could not be booted."""
        signal.signal(signal.SIGTERM, self._end)
        os.chdir(self.folder)  # paths below are relative: overlay's options have no safe way to quote a name
        self._mount()
        lxcfs = self._start_lxcfs()
        try:
            while self._boot() == REBOOT and not self.ended:
                _say(f"{self.order['node']} asked for a reboot")
        finally:
            lxcfs.kill()  # asked politely it first sleeps out its five seconds between load samples
            lxcfs.wait(_WAIT_S)
            for place in ("root", "base", "apt-cache", "disk"):
                subprocess.run(["umount", place], check=False, stderr=subprocess.DEVNULL)
        return 0

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self.ended = True

    def _mount(self) -> None:
        for place in ("disk", "base", "apt-cache", "root", "lxcfs"):
            Path(place).mkdir(exist_ok=True)
        # A loop device that is freed with the mount; discard gives freed blocks back to the machine.
        _tool("mount", "-o", "loop,discard,noatime", "disk.img", "disk")
        for place in ("disk/upper", "disk/work"):
            Path(place).mkdir(exist_ok=True)
        Path("disk/upper").chmod(0o755)  # it is the node's /, whatever the umask here
        lower = "base"
        _tool("mount", "--bind", self.order["base"], "base")
        if self.order["apt_cache"]:
            _tool("mount", "--bind", self.order["apt_cache"], "apt-cache")
            lower = "apt-cache:base"
        _tool(
            "mount",
            "-t",
            "overlay",
            self.order["node"],
            "-o",
            f"lowerdir={lower},upperdir=disk/upper,workdir=disk/work",
            "root",
        )
        if not Path("disk/seeded").exists():
            _tool("cp", "-a", "seed/.", "root/")
            os.sync()
            Path("disk/seeded").touch()
        resolv = Path("root/etc/resolv.conf")
        resolv.unlink(missing_ok=True)
        resolv.write_text(self.order["resolv_conf"])

    def _start_lxcfs(self) -> "subprocess.Popen[bytes]":
        lxcfs = subprocess.Popen(
            _dies_with_me(
                *("lxcfs", "-f", "--enable-loadavg", "--enable-cfs"),
                *(f"--pidfile={self.folder}/lxcfs.pid", f"{self.folder}/lxcfs"),
            )
        )
        _wait_for(Path("lxcfs/proc/meminfo"), lxcfs)
        return lxcfs

    def _boot(self) -> int:
        with Path("console.log").open("ab") as console:
            node = subprocess.Popen(
                _dies_with_me(*self.order["command"]),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=self._join_cgroups,  # noqa: PLW1509  this process has one thread
            )
        if Path(CABLE_OUT).exists():
            with contextlib.suppress(TimeoutError):  # a node that died before has no cable
                _wait_for(Path("/sys/class/net") / self.order["cable"], node)
                _tool("ip", "link", "set", self.order["cable"], "down")
        told = False
        while True:
            try:
                code = node.wait(timeout=_LOOK_S)
            except subprocess.TimeoutExpired:
                if self.ended and not told:
                    node.terminate()  # nspawn shuts the node down in good order
                    told = True
            else:
                _say(f"{self.order['node']} ended with {code}")
                return code

    def _join_cgroups(self) -> None:
        for procs in self.order["cgroup_procs"]:
            Path(procs).write_text("0")


def _dies_with_me(*command: str) -> list[str]:
    """Return the command as one that the kernel kills when this process dies, however it dies."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *command]


def _wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _WAIT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() >= deadline:
            raise TimeoutError(f"{path} did not appear within {_WAIT_S:.0f} s")
        time.sleep(_POLL_S)


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _tool(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.returncode}")


if __name__ == "__main__":
    try:
        sys.exit(NodeLoop(Path(sys.argv[1])).run())
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
