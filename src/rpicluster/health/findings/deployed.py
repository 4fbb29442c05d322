"""What rpicluster put on nodes, against what stands there now."""

from collections.abc import Iterator

from rpicluster.health.findings.finding import PROBLEM, WARNING, Node, Seen, Trouble, cluster_kind, node_kind
from rpicluster.model.machine import DeployedFile

_SHOWN = 5


@node_kind("file-missing", PROBLEM, "A file that was put there is gone")
def file_missing(node: Node) -> Iterator[Trouble]:
    """The manifest lists it, and it does not stand there."""
    facts = node.facts
    # A login that is not root may see none of them.
    hidden = not facts.deployed and facts.privilege == "none"
    if facts.manifest is None or hidden or node.is_unseen("modes"):
        return
    gone = sorted(set(facts.manifest.files) - set(facts.deployed))
    if gone:
        yield Trouble(
            what=(f"{len(gone)} {'file is' if len(gone) == 1 else 'files are'} gone from {node.name}"),
            cause="somebody removed them, or a disk was put back from an older copy",
            evidence=tuple(f"missing: {path}" for path in gone[:_SHOWN]) + _more(gone),
            fix="put them there again",
            command="rpicluster up",
        )


@node_kind("config-drift", WARNING, "A file is no longer what rpicluster put there")
def config_drift(node: Node) -> Iterator[Trouble]:
    """Its hash, owner or mode differs from the manifest; a file that could not be read is not judged."""
    manifest = node.facts.manifest
    if manifest is None:
        return
    changed = [
        f"{path}: {why}"
        for path, wanted in sorted(manifest.files.items())
        if (stands := node.facts.deployed.get(path)) is not None and (why := _difference(wanted, stands))
    ]
    if changed:
        yield Trouble(
            what=f"{len(changed)} {'file was' if len(changed) == 1 else 'files were'} changed on {node.name}",
            cause="somebody edited them by hand, or another tool manages them too",
            evidence=tuple(changed[:_SHOWN]) + _more(changed),
            fix=(
                "move the change to cluster.yml, then put the files back; see them with `rpicluster plan "
                "--diff`"
            ),
            command="rpicluster up",
        )


def is_wider(wanted: DeployedFile, stands: DeployedFile) -> bool:
    """Whether a file that was meant to be hidden from others shows itself to more people now."""
    return not wanted.mode & 0o007 and bool(stands.mode & 0o077 & ~wanted.mode)


def _difference(wanted: DeployedFile, stands: DeployedFile) -> str:
    parts = []
    if stands.sha256 and wanted.sha256 and stands.sha256 != wanted.sha256:
        parts.append(f"content {stands.sha256[:12]}, put there as {wanted.sha256[:12]}")
    if stands.mode != wanted.mode and not is_wider(wanted, stands):
        parts.append(f"mode {stands.mode:04o}, put there as {wanted.mode:04o}")
    if wanted.owner and stands.owner and stands.owner != wanted.owner:
        parts.append(f"owner {stands.owner}, put there as {wanted.owner}")
    return "; ".join(parts)


def _more(items: list[str]) -> tuple[str, ...]:
    return (f"and {len(items) - _SHOWN} more",) if len(items) > _SHOWN else ()


@cluster_kind("runtime-mismatch", PROBLEM, "Nodes run different software")
def runtime_mismatch(seen: Seen) -> Iterator[Trouble]:
    """Their manifests name different runtimes, or different versions of rpicluster."""
    for what, value in (
        ("runtime", lambda node: _extra(node, "runtime")),
        ("manifest version", lambda node: node.facts.manifest.version if node.facts.manifest else None),
    ):
        groups = seen.groups(value)
        if len(groups) > 1:
            yield Trouble(
                what=f"nodes differ in their {what}",
                cause="the last `up` did not reach all of them",
                evidence=tuple(f"{v}: {', '.join(n.name for n in nodes)}" for v, nodes in groups.items()),
                fix="bring all to the same",
                command="rpicluster up",
            )


@node_kind("runtime-damaged", PROBLEM, "Files of a node's software are missing or cut short")
def runtime_damaged(node: Node) -> Iterator[Trouble]:
    """They have another size than the software's own list says. Daemons that run may not have noticed yet:
    Java reads jars when it needs them.
    """
    damaged, name = node.facts.runtime_damage, node.facts.runtime
    if damaged and name:
        number = f"{len(damaged)} files" if len(damaged) > 1 else "a file"
        yield Trouble(
            what=f"the software of {node.name} is damaged: {number} of its runtime",
            cause="a power cut while it was written, a failing card, or somebody changed it",
            evidence=tuple(f"{path} is missing or has another size" for path in damaged),
            fix="take it away; the next `rpicluster up` brings it again",
            command=node.run(f"sudo rm -rf /opt/rpicluster/runtime /opt/rpicluster/runtimes/{name}"),
        )


@node_kind("runtime-other", PROBLEM, "A node runs other software than was put there")
def runtime_other(node: Node) -> Iterator[Trouble]:
    """The link /opt/rpicluster/runtime leads to another runtime than the manifest names."""
    wanted, stands = _extra(node, "runtime"), node.facts.runtime
    if wanted and stands and wanted != stands:
        yield Trouble(
            what=f"{node.name} runs another runtime than was put there",
            cause="somebody set the link /opt/rpicluster/runtime to another folder",
            evidence=(f"the link leads to {stands}, the manifest names {wanted}",),
            fix="set it back; daemons that have started since then have to be restarted",
            command="rpicluster up",
        )


@cluster_kind("cluster-mixed", PROBLEM, "Nodes belong to different clusters")
def cluster_mixed(seen: Seen) -> Iterator[Trouble]:
    """Their manifests name different clusters."""
    groups = seen.groups(lambda node: _extra(node, "cluster"))
    if len(groups) > 1:
        yield Trouble(
            what="nodes were set up for different clusters",
            cause="a node was moved here from another cluster and not cleaned",
            evidence=tuple(f"{v}: {', '.join(n.name for n in nodes)}" for v, nodes in groups.items()),
            fix="remove the node from the other cluster first",
            command="rpicluster plan",
        )


def _extra(node: Node, key: str) -> str | None:
    value = node.facts.manifest.extra.get(key) if node.facts.manifest else None
    return value if isinstance(value, str) and value else None


@cluster_kind("node-not-set-up", WARNING, "A node was not set up with the others")
def node_not_set_up(seen: Seen) -> Iterator[Trouble]:
    """Other nodes carry rpicluster's manifest, this one does not."""
    if not seen.is_deployed:
        return
    for node in seen.nodes:
        if node.facts.manifest is None and not node.is_unseen("manifest") and node.facts.privilege != "none":
            yield Trouble(
                what=f"{node.name} was not set up with the others",
                cause="it was added to cluster.yml since, was unreachable then, or has a fresh card",
                evidence=("no /var/lib/rpicluster/manifest.json; other nodes have one",),
                fix="the next `up` adds it",
                command="rpicluster up",
                node=node.name,
            )
