"""A cluster on a rack, as its owner, as other logins of its nodes, and as its tunnel user."""

import json
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from rack_tools import RackUnderTest

from rpicluster.cluster import Cluster

GUEST = "guest"
XSRF = {"X-XSRF-HEADER": "owner"}


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass
class Owned:
    """A cluster on a rack."""

    rack: RackUnderTest

    def rpicluster(self, *words: str, code: int = 0, timeout_s: float = 600) -> str:
        spec = str(self.rack.directory / "cluster.yml")
        done = subprocess.run(
            [sys.executable, "-m", "rpicluster", *words, "--cluster", spec],
            env=self.rack.environment,
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @cached_property
    def facade(self) -> Cluster:
        os.environ["RPICLUSTER_STATE_DIR"] = self.rack.environment["RPICLUSTER_STATE_DIR"]
        return Cluster.from_file(self.rack.directory / "cluster.yml")

    @cached_property
    def addresses(self) -> dict[str, tuple[str, str]]:
        """IPv4 and IPv6 address of every node."""
        found = {}
        for node in ("pi1", "pi2", "pi3"):
            known = json.loads(self.rack.ssh(node, "ip", "-json", "address", "show", "dev", "host0"))[0]
            by_family = {
                entry["family"]: entry["local"] for entry in known["addr_info"] if entry["scope"] == "global"
            }
            found[node] = (by_family["inet"], by_family["inet6"])
        return found

    def node_at(self, address: str) -> str:
        return next(node for node, known in self.addresses.items() if address in known)

    def get(self, url: str, method: str = "GET", body: bytes | None = None) -> bytes:
        """Ask a daemon through the tunnel, as its owner may; redirects are followed the same way."""
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        local = self.facade.site.tunnel.local_port(parts.hostname, parts.port)  # type: ignore[union-attr]
        here = f"http://127.0.0.1:{local}{parts.path}?{parts.query}"
        request = urllib.request.Request(here, body, XSRF, method=method)
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 307:
                return self.get(error.headers["Location"], method, body)
            raise

    def make_guest(self, name: str = GUEST) -> None:
        """Make an ordinary login with the rack's key on every node: no service, no user of the cluster."""
        key = (self.rack.directory / "id_ed25519.pub").read_text()
        for node in self.addresses:
            script = f"""set -eu
id {name} >/dev/null 2>&1 || useradd -m -s /bin/bash {name}
install -d -m 700 -o {name} -g {name} ~{name}/.ssh
cat >~{name}/.ssh/authorized_keys <<'KEY'
{key}KEY
chown {name}: ~{name}/.ssh/authorized_keys
"""
            self.rack.ssh(node, "sudo", "sh", "-s", stdin=script)

    def as_guest(
        self, node: str, *argv: str, timeout_s: float = 180, options: tuple[str, ...] = ()
    ) -> "subprocess.CompletedProcess[str]":
        command = (shlex.join(argv),) if argv else ()
        return self.rack.ssh_raw(node, *command, options=("-l", GUEST, *options), timeout=timeout_s)
