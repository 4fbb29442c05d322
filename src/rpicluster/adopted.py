"""A second laptop takes part in a cluster that another one set up."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rpicluster.cluster import SSH_CONFIG_FILE, Cluster
from rpicluster.errors import UsageError
from rpicluster.model.destination import parse_destination
from rpicluster.nodes.local.state import cluster_names, state_root, write_file
from rpicluster.runtime import store
from rpicluster.sites.remote import RemoteSite


@dataclass(frozen=True)
class Adopted:
    """A cluster that another machine set up; `join` makes this one a control machine of it."""

    cluster: Cluster
    text: str  # of its cluster.yml
    cluster_id: str
    users: tuple[str, ...]
    notes: tuple[str, ...]

    def join(self) -> None:
        """Get a key for its tunnel and the sessions' tokens, write its cluster.yml, and remember it."""
        site = self.cluster.site
        if isinstance(site, RemoteSite):
            site.join(cluster_id=self.cluster_id, users=self.users)
        write_file(self.cluster.spec_path.absolute(), self.text.encode(), 0o644)
        self.cluster.remember()
        site.connection(self.cluster.name, store.installed()).save(self.cluster.connection_path)


def adopt(manager: str, path: Path, ask_password: Callable[[str], str]) -> Adopted:
    """Fetch the cluster.yml of a cluster that `manager`, `user@host`, manages; it is to stand in `path`.

    Raises UsageError where there is none, or where this machine knows another cluster of that name.
    """
    from rpicluster.nodes.remote.state import open_remote_state
    from rpicluster.nodes.ssh.openssh import OpenSsh
    from rpicluster.sites import adoption

    if path.exists():
        raise UsageError(f"{path} is there already; it is not overwritten", hint="name another file")
    beside = path.absolute().parent / SSH_CONFIG_FILE
    ssh = OpenSsh(config=beside if beside.is_file() else None)
    target = parse_destination(manager, hint="rpicluster adopt pi@192.168.1.11")
    found = adoption.find(target, ssh, ask_password=ask_password)
    name = found.spec.name
    if name in cluster_names(state_root()):
        known = open_remote_state(name).cluster_id()
        if known != found.cluster_id:
            raise UsageError(
                f"this machine knows another cluster called {name}",
                hint=f"rpicluster destroy --cluster {name}, or use another RPICLUSTER_STATE_DIR",
            )
    cluster = Cluster(found.spec, path, ask_password)
    notes = list(found.notes)
    if found.new_host_key is not None:
        key = found.new_host_key
        notes.append(f"first contact with {manager}: its host key is {key.type} {key.fingerprint}")
    return Adopted(cluster, found.text, found.cluster_id, found.users, tuple(notes))
