"""Nodes of a rack get other addresses, as a DHCP server would give them."""

import subprocess
from dataclasses import dataclass, field

from rack_tools import RackUnderTest, wait_for

_UNIT = "/etc/systemd/network/10-host0.network"


@dataclass
class Addresses:
    """The IPv4 addresses that the nodes of a rack have now; `now` knows those that were changed."""

    rack: RackUnderTest
    now: dict[str, str] = field(default_factory=dict)

    def of(self, node: str) -> str:
        if node not in self.now:
            self.now[node] = str(self.rack.status()[node]["address"])
        return self.now[node]

    def on(self, node: str, command: str, *, timeout_s: float = 60) -> str:
        """Return what a command printed on a node, wherever the node is; it must succeed."""
        done = self._ssh(node, command, timeout_s)
        assert done.returncode == 0, f"{node}: {command}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout.strip()

    def _ssh(self, node: str, command: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        there = ("-o", f"HostName={self.of(node)}", "-o", f"HostKeyAlias={node}")
        return self.rack.ssh_raw(node, command, options=there, timeout=timeout_s)

    def change(self, **wanted: str) -> None:
        """Give nodes other addresses, all at the same time, and wait until they answer there."""
        for node, address in wanted.items():
            was = self.of(node).replace(".", r"\.")
            self.on(
                node,
                f"sudo sed -i 's/^Address={was}\\//Address={address}\\//' {_UNIT} && "
                "sudo systemd-run --quiet --on-active=2 --timer-property=AccuracySec=100ms sh -c "
                "'ip address flush dev host0 scope global; systemctl restart systemd-networkd'",
            )
        self.now.update(wanted)
        for node in wanted:
            wait_for(
                f"{node} at {self.of(node)}",
                lambda node=node: self._ssh(node, "hostname", 30).stdout.strip() == node,  # type: ignore[misc]
                90,
            )
