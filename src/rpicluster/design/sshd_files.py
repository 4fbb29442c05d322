"""sshd's rules for the login that tunnels come in by: forwards to the listed ports, and nothing else."""

import ipaddress

from rpicluster.design import layout
from rpicluster.design.accounts import NO_LOGIN
from rpicluster.design.firewall import ON_LOOPBACK
from rpicluster.design.hosts_block import is_address
from rpicluster.design.inputs import Inputs
from rpicluster.design.settings import HEADER
from rpicluster.design.systemd_text import plain_path
from rpicluster.model.ports import LOOPBACK, SESSION_PORTS

SSHD = "/etc/ssh/sshd_config.d/rpicluster.conf"
# Pages and REST of the manager and the workers; Hadoop's RPC is for members only.
_PAGES = ("namenode_http", "rm_http", "datanode_http", "nm_http")
_OF_SESSIONS = ("spark_ui", *ON_LOOPBACK)


def tunnel_targets(inputs: Inputs) -> tuple[str, ...]:
    """Return every `address:port` that a laptop may reach through the manager."""
    found = []
    for node in inputs.spec.nodes:
        placed = inputs.node(node.name)
        found += [(placed.address, placed.ports[page]) for page in _PAGES if page in placed.ports]
    manager = inputs.node(inputs.manager).address
    for user in inputs.users:
        for door in (key for key in SESSION_PORTS if key in _OF_SESSIONS):
            address = LOOPBACK if door in ON_LOOPBACK else manager
            found.append((address, inputs.session_port(user, door)))
        if inputs.has_gateway:
            found += [(LOOPBACK, port) for port in inputs.sparklyr_ports(user)]
    return tuple(_target(address, port) for address, port in found)


def _target(address: str, port: int) -> str:
    six = is_address(address) and ipaddress.ip_address(address).version == 6
    return f"[{address}]:{port}" if six else f"{address}:{port}"


def sshd_rules(inputs: Inputs) -> bytes:
    """Return sshd's rules for the tunnel user, for the manager; OpenSSH reads `sshd_config.d` since 8.2."""
    keys = plain_path(layout.tunnel_keys(inputs.paths(inputs.manager)))
    settings = (
        "AuthenticationMethods publickey",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        # Root's file: who tunnels cannot let others in.
        f"AuthorizedKeysFile {keys}",
        "AuthorizedKeysCommand none",
        "AllowTcpForwarding local",
        f"PermitOpen {' '.join(tunnel_targets(inputs))}",
        "PermitListen none",
        "AllowStreamLocalForwarding no",
        "GatewayPorts no",
        "PermitTunnel no",
        "AllowAgentForwarding no",
        "X11Forwarding no",
        "PermitTTY no",
        "PermitUserRC no",
        "MaxSessions 0",  # no shell, no command, no sftp: forwards only
        f"ForceCommand {NO_LOGIN}",
        # A laptop that was shut is forgotten after two minutes; OpenSSH 9.2 takes four.
        "ClientAliveInterval 30",
        "ClientAliveCountMax 3",
    )
    lines = [f"# {HEADER}", f"Match User {layout.TUNNEL_USER}", *(f"  {line}" for line in settings)]
    # What is read after this file is everybody's again.
    return ("\n".join([*lines, "Match all"]) + "\n").encode()
