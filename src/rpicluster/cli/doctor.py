"""`doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rpicluster.cli.console import console, human_bytes, styled
from rpicluster.cli.options import cluster_option, examples, find_cluster, json_option
from rpicluster.errors import RpiclusterError, UsageError

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster
    from rpicluster.health.doctor import Examination
    from rpicluster.health.findings.finding import Finding

NODE_UNREACHABLE = 4
PROBLEMS_FOUND = 6
_COLOURS = {"problem": "red", "warning": "yellow", "note": "cyan"}


@click.command(
    epilog=examples(
        "rpicluster doctor", "rpicluster doctor --json", "rpicluster doctor --bundle report.tar.gz"
    )
)
@cluster_option
@json_option
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.tar.gz",
    help="Also write all that was seen, redacted, for a bug report.",
)
def doctor(which: str | None, as_json: bool, bundle: Path | None) -> int:
    """Look at every node and daemon and say what is wrong: cause, evidence, fix. Changes nothing.

    Works before the first `up` as well. Exit code 4 if a node could not be looked at, else 6 if a problem
    was found, else 0: warnings and notes alone are no failure.
    """
    cluster = find_cluster(which)
    if bundle is not None and bundle.exists():
        raise UsageError(
            f"{bundle} is there already; it is not overwritten", hint="give --bundle another name"
        )
    found = cluster.doctor()
    for note in cluster.address_notes:
        console.warn(note)
    if as_json:
        console.document(found.document())
    else:
        show(found)
    if bundle is not None:
        size = _write_bundle(cluster, found, bundle)
        console.say(f"wrote {bundle}, {human_bytes(size)}: look through it before you send it")
    if found.unreachable:
        return NODE_UNREACHABLE
    return PROBLEMS_FOUND if any(f.severity == "problem" for f in found.findings) else 0


def show(found: "Examination") -> None:
    """Print findings by node, those with the worst first, then one line that counts."""
    groups: dict[str | None, list[Finding]] = {}
    for finding in found.findings:
        groups.setdefault(finding.node, []).append(finding)
    for node, findings in groups.items():
        console.data(styled(node or "the cluster", bold=True))
        for finding in findings:
            severity = styled(finding.severity.value, fg=_COLOURS[finding.severity.value], bold=True)
            console.data(f"  {severity}: {finding.what}  [{finding.id}]")
            console.data(f"    cause: {finding.cause}")
            for line in finding.evidence:
                console.data(f"    seen:  {line}")
            console.data(f"    fix:   {finding.fix}")
            console.data(f"           {styled(finding.command, fg='cyan')}")
        console.data("")
    console.data(summary(found))


def summary(found: "Examination") -> str:
    """Return the line that counts."""
    from rpicluster.health.findings.finding import Severity

    counts = ", ".join(
        f"{number} {severity.value}{'' if number == 1 else 's'}"
        for severity in Severity
        if (number := found.count(severity)) or severity is not Severity.NOTE
    )
    gone = f"; not looked at: {', '.join(found.unreachable)}" if found.unreachable else ""
    where = f"{len(found.nodes)} {'machine' if len(found.nodes) == 1 else 'nodes'}"
    return f"{found.cluster}: {counts} on {where}{gone}, {found.took_s:.1f} s"


def _write_bundle(cluster: "Cluster", found: "Examination", path: Path) -> int:
    """Gather what the report shall hold; what cannot be made is told in its place."""
    from rpicluster.design.layout import token_file
    from rpicluster.health.bundle import documents, local_logs, node_logs, redactor, write_bundle
    from rpicluster.nodes.ssh.openssh import OpenSsh

    rendered, secrets, logs = None, [], {}
    try:
        plan = cluster.plan()
        rendered = cluster.rendered
        lines = [f"{s.symbol} {s.node}: {s.action.value} {s.target} ({s.reason})" for s in plan.steps]
        text = "\n".join([*plan.warnings, *plan.refusals, *lines, plan.summary(), ""])
    except RpiclusterError as error:
        text = f"no plan: {error.message}\n"
    if cluster.spec.is_local:
        folder = cluster.site.directory
        logs = local_logs(folder / "logs")
        for node in cluster.placement.nodes.values() if (folder / "cluster.yml").exists() else ():
            token = Path(token_file(node.paths, cluster.login))
            secrets += [token.read_text(encoding="utf-8").strip()] if token.exists() else []
    else:
        logs = node_logs(cluster.spec, found, OpenSsh())
    files = documents(
        found,
        spec_text=cluster.spec_path.read_text(encoding="utf-8"),
        plan=text,
        rendered=rendered,
        logs=logs,
    )
    return write_bundle(path, files, redactor(cluster.spec, found, files, secrets))
