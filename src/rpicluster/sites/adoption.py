"""Taking over a cluster from another control machine: what the manager keeps of it, brought here."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from rpicluster.design.preview import PATHS
from rpicluster.errors import RemoteCommandFailed, UsageError
from rpicluster.model.spec import ClusterSpec, SshTarget
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.remote.commands import Nodes
from rpicluster.nodes.remote.manifest import owner_of
from rpicluster.nodes.ssh.observe import observe_nodes
from rpicluster.nodes.ssh.openssh import HostKey, OpenSsh

# On the manager, root's, 0600: cluster.yml as the last change had it.
SPEC_ON_MANAGER = f"{PATHS.data}/cluster.yml"
_NODE = "the manager"


@dataclass(frozen=True)
class Found:
    """A cluster as its manager knows it; `text` is cluster.yml for this machine."""

    spec: ClusterSpec
    text: str
    cluster_id: str
    users: tuple[str, ...]
    new_host_key: HostKey | None
    notes: tuple[str, ...] = ()


def find(target: SshTarget, ssh: OpenSsh, *, ask_password: Callable[[str], str] | None) -> Found:
    """Look at a manager and return the cluster that it manages; writes nothing there.

    Raises what OpenSSH raises, and UsageError where there is no cluster, or no manager.
    """
    seen = observe_nodes({_NODE: target}, ssh, first_contact=frozenset({_NODE}))[_NODE]
    if seen.facts is None:
        raise seen.error or UsageError(f"{target.host} said nothing")
    manifest, owner = seen.facts.manifest, owner_of(seen.facts)
    passwords = {}
    if seen.facts.privilege == "none" and ask_password is not None:
        passwords[_NODE] = ask_password(target.host)
        seen = observe_nodes({_NODE: target}, ssh, sudo_passwords=passwords)[_NODE]
        if seen.facts is None:
            raise seen.error or UsageError(f"{target.host} said nothing")
        manifest, owner = seen.facts.manifest, owner_of(seen.facts)
    if manifest is None or owner is None:
        raise UsageError(f"{target.host} belongs to no cluster", hint="to make a new one: rpicluster init")
    if "members" not in manifest.extra:
        raise UsageError(
            f"{target.host} is a node of cluster {owner[0]}, and not its manager", hint="name the manager"
        )
    try:
        text = Nodes({_NODE: target}, ssh, passwords).root(_NODE, ["cat", SPEC_ON_MANAGER]).decode()
    except RemoteCommandFailed as error:
        raise UsageError(
            f"{target.host} does not keep the cluster.yml of {owner[0]}: {error.message}",
            hint="run `rpicluster up` once more where the cluster was made; or copy cluster.yml from there",
        ) from error
    mine, notes = rewritten(text, target)
    users = tuple(str(user) for user in manifest.extra.get("users", ()))
    return Found(parse_spec(mine), mine, owner[1], users, seen.new_host_key, notes)


def rewritten(text: str, manager: SshTarget) -> tuple[str, tuple[str, ...]]:
    """Return cluster.yml for another machine, comments kept, with what was left out. Pure.

    The manager is reached as it was typed here. Files of the other machine's OpenSSH configuration mean
    nothing here.
    """
    name = parse_spec(text).manager.name
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    document: Any = yaml.load(text)
    notes = []
    for node in document["nodes"]:
        if node["ssh"].pop("config", None) is not None:
            notes.append(f"{node['name']}: `ssh.config` was a file of the other machine and is left out")
        if node["name"] == name:
            for key in ("user", "port"):
                node["ssh"].pop(key, None)
            node["ssh"].update(manager.model_dump(exclude_none=True))
    out = io.StringIO()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(document, out)
    return out.getvalue(), tuple(notes)
