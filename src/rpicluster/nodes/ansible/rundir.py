"""The folder that one run of Ansible reads: configuration, inventory, and a file for each node. Mode 0700."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.openssh import OpenSsh

REMOTE_TMP = "/run/rpicluster-ansible"  # modules work there; gone with the next boot, and with `destroy`
_FORKS_MAX = 50
_CONFIG = """\
[defaults]
inventory = {folder}/inventory
roles_path = {playbooks}/roles
callback_plugins = {playbooks}/callback_plugins
stdout_callback = rpicluster_events
forks = {forks}
gathering = explicit
host_key_checking = true
retry_files_enabled = false
deprecation_warnings = false
local_tmp = {folder}/tmp
remote_tmp = {remote_tmp}
timeout = 60
nocolor = true

[ssh_connection]
pipelining = true
"""


@dataclass(frozen=True)
class Host:
    """One node of a run: how it is reached, and what the roles are told; no secret, for it goes to a file."""

    target: SshTarget
    variables: Mapping[str, Any]
    python: str = "/usr/bin/python3"


def playbooks() -> Path:
    """Return the folder of the playbooks and roles that this rpicluster brings."""
    return Path(str(files("rpicluster"))) / "ansible"


def write_run(folder: Path, hosts: Mapping[str, Host], ssh: OpenSsh) -> None:
    """Write everything that a run reads into the new folder `folder`."""
    folder.mkdir(mode=0o700, parents=True)
    inventory = folder / "inventory"
    inventory.mkdir(mode=0o700)
    text = _CONFIG.format(
        folder=folder,
        playbooks=playbooks(),
        forks=min(_FORKS_MAX, max(1, len(hosts))),
        remote_tmp=REMOTE_TMP,
    )
    write_private(folder / "ansible.cfg", text.encode())
    document = {"all": {"hosts": {name: _host(host, ssh) for name, host in hosts.items()}}}
    write_private(inventory / "hosts.json", (json.dumps(document, indent=1) + "\n").encode())


def _host(host: Host, ssh: OpenSsh) -> dict[str, Any]:
    return {
        "ansible_host": host.target.host,
        # The connection, keys and checks of every other command of ours; Ansible's own are left out.
        "ansible_ssh_args": shlex.join(ssh.shared_options(host.target)),
        "ansible_python_interpreter": host.python,
        **host.variables,
    }


def write_private(path: Path, content: bytes) -> None:
    """Write a new file, mode 0600."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
