"""A folder with which Ansible alone makes the cluster: playbooks, inventory, and every byte for the nodes."""

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rpicluster import __version__
from rpicluster.design import layout
from rpicluster.design.accounts import HdfsDirectory
from rpicluster.design.plan import Action, Observed, Plan, Step, make_plan
from rpicluster.design.preview import PATHS
from rpicluster.design.units import RenderedFile
from rpicluster.errors import UsageError
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ansible.rundir import playbooks, write_private
from rpicluster.nodes.fanout.send import Package, write_stream
from rpicluster.nodes.remote.bundle import RUNTIMES, NodeWork, bundle, placing, variables
from rpicluster.nodes.remote.change import BEFORE, Wanted, node_manifest, unit_hashes
from rpicluster.nodes.remote.commands import PYTHON
from rpicluster.nodes.remote.manifest import MODE, PATH, absolute
from rpicluster.nodes.remote.r_archive import archive_name, write_archives
from rpicluster.nodes.remote.r_work import RWork
from rpicluster.nodes.remote.removal import orders
from rpicluster.nodes.ssh.elsewhere import Elsewhere

_STREAM = "/opt/rpicluster/runtime.stream"
_MARK = ".rpicluster-export"
_PROGRAMS = ("remote/on_node/inventory.py", "remote/on_node/let_in.py", "fanout/on_node/receive.py")
_CONFIG = """\
[defaults]
inventory = inventory
roles_path = roles
gathering = explicit
host_key_checking = true
retry_files_enabled = false

[ssh_connection]
pipelining = true
"""


@dataclass(frozen=True)
class Exporting:
    """Everything that an export works from, besides what a change does."""

    wanted: Wanted
    plan: Plan  # what differs now: its stops, removals and restarts are in the export
    machines: Mapping[str, MachineFacts | None]
    targets: Mapping[str, SshTarget]
    ssh_config: Path | None
    manager: str
    workers: int
    users: Sequence[str]
    folders: Sequence[HdfsDirectory]
    superuser: str
    r: Mapping[str, RWork]
    tunnel_key: str  # the public half
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)  # nodes that have another address


def write_export(folder: Path, about: Exporting, *, replace: bool) -> None:
    """Write the folder, mode 0700, as a whole; no secret is in it.

    Raises UsageError where something is there already, and for nodes that were never seen: which packages
    and which Java they need is not known.
    """
    unseen = [name for name, machine in about.machines.items() if machine is None]
    if unseen:
        raise UsageError(
            f"{', '.join(unseen)}: never seen, so what is missing there is not known",
            hint="switch them on, then: rpicluster check",
        )
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  `.` and `..` have no name to write beside
    _refuse(folder, replace=replace)
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700, parents=True)
    try:
        _write(fresh, about)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _refuse(folder: Path, *, replace: bool) -> None:
    if not os.path.lexists(folder):
        return
    if folder.is_dir() and not folder.is_symlink():
        if not any(folder.iterdir()):
            return
        if replace and (folder / _MARK).exists():
            return
    ours = (folder / _MARK).exists()
    raise UsageError(
        f"{folder} is there already" + ("" if ours else " and was not written by `rpicluster export`"),
        hint="add --replace to write it anew" if ours else "name a new folder",
    )


def _write(folder: Path, about: Exporting) -> None:
    source = playbooks()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / "roles", folder / "roles", ignore=ignored)
    shutil.copyfile(source / "apply.yml", folder / "nodes.yml")
    for name in ("before.yml", "sessions.yml", "destroy.yml"):
        shutil.copyfile(source / name, folder / name)
    entry = (source / "export.yml").read_text(encoding="utf-8")
    write_private(
        folder / "apply.yml",
        entry.replace("import_playbook: apply.yml", "import_playbook: nodes.yml").encode(),
    )
    (folder / "files").mkdir()
    for program in _PROGRAMS:
        shutil.copyfile(Path(__file__).parents[1] / program, folder / "files" / Path(program).name)
    shutil.copyfile(source / "roles" / "base" / "files" / "place.py", folder / "files" / "place.py")
    (folder / "bundles").mkdir()
    (folder / "inventory").mkdir()
    write_archives(folder / "bundles", about.r)
    hosts = {node: _host(folder, node, about) for node in about.targets}
    document = {"all": {"hosts": hosts}}
    write_private(folder / "inventory" / "hosts.json", (json.dumps(document, indent=1) + "\n").encode())
    write_private(folder / "ansible.cfg", _CONFIG.encode())
    write_private(folder / "README.md", _readme(about).encode())
    write_private(folder / _MARK, f"{__version__}\n".encode())
    package = Package(about.wanted.runtime, f"{RUNTIMES}/{about.wanted.rendered.runtime_hash}")
    write_stream(package, folder / "runtime.stream")


def _host(folder: Path, node: str, about: Exporting) -> dict[str, Any]:
    """Write the bundles of one node; return its entry in the inventory."""
    wanted, files = about.wanted, about.wanted.rendered.files[node]
    work = _work(node, about)
    # The manifest comes last. Until then the old one stands: a run that broke off leaves units whose hashes
    # differ, and the next one, or `up`, sees to them.
    placed = bundle(wanted.bases[node], files, work)
    hashes = unit_hashes(wanted, node)
    finished = node_manifest(wanted, node, hashes, base_hash=wanted.bases[node].hash)
    done = placing({PATH: RenderedFile(finished, MODE)})
    write_private(folder / "bundles" / f"{node}.json", placed)
    write_private(folder / "bundles" / f"{node}.done.json", done)
    roles = variables(
        wanted.bases[node],
        files,
        work,
        paths=wanted.placement.nodes[node].paths,
        unit_hashes=hashes,
        runtime=wanted.rendered.runtime_hash,
        bundle_path=f"{{{{ playbook_dir }}}}/bundles/{node}.json",
        file_system=wanted.file_system,
        may_reboot=wanted.may_reboot,
        r=about.r.get(node),
        r_archive=f"{{{{ playbook_dir }}}}/bundles/{archive_name(node)}",
    )
    return {
        **_connection(about.targets[node], about.ssh_config, about.elsewhere.get(node)),
        **roles,
        "rpicluster_remove": orders(
            [absolute(path) for path in files], None, wanted.placement.nodes[node].paths.disk
        ),
        "rpicluster_export": {
            "before": BEFORE,
            "stream": _STREAM,
            "done": f"{{{{ playbook_dir }}}}/bundles/{node}.done.json",
            "tunnel_keys": layout.tunnel_keys(PATHS),
            "key": about.tunnel_key,
            **(_of_manager(about) if node == about.manager else _of_worker()),
        },
    }


def _work(node: str, about: Exporting) -> NodeWork:
    """Return everything that a node needs, whatever is there: Ansible leaves alone what is right already."""
    wanted = about.wanted
    fresh = make_plan(
        wanted.cluster,
        wanted.rendered,
        Observed(files={}, units={}, runtime={}, namenode="empty", unreachable={}),
    )
    now = (Action.REMOVE, Action.STOP, Action.RESTART)
    steps = [
        Step(Action.PREPARE, node, "node", "always"),
        *(step for step in fresh.steps if step.node == node),
        *(step for step in about.plan.steps if step.node == node and step.action in now),
    ]
    work = NodeWork.of(steps)
    return replace(work, start=tuple(unit for unit in work.start if unit not in work.restart))


def _connection(target: SshTarget, config: Path | None, place: Elsewhere | None) -> dict[str, Any]:
    chosen = target.config or (str(config) if config else None)
    found: dict[str, Any] = {"ansible_host": target.host, "ansible_python_interpreter": PYTHON}
    if target.user:
        found["ansible_user"] = target.user
    if target.port:
        found["ansible_port"] = target.port
    words = ["-F", str(Path(chosen).expanduser().absolute())] if chosen else []
    words += place.options if place is not None else []
    if words:
        found["ansible_ssh_common_args"] = shlex.join(words)
    return found


def _of_worker() -> dict[str, Any]:
    return {"cluster_metrics": "", "workers": 0, "folders": [], "sessions": []}


def _of_manager(about: Exporting) -> dict[str, Any]:
    placed = about.wanted.placement.nodes[about.manager]
    hdfs = f"http://{placed.address}:{placed.ports['namenode_http']}/webhdfs/v1"
    who = f"user.name={quote(about.superuser)}"
    return {
        "cluster_metrics": f"http://{placed.address}:{placed.ports['rm_http']}/ws/v1/cluster/metrics",
        "workers": about.workers,
        "folders": [
            {
                "path": folder.path,
                "owner": folder.owner,
                "make": f"{hdfs}{quote(folder.path)}?op=MKDIRS&permission={folder.permission}&{who}",
                "give": f"{hdfs}{quote(folder.path)}?op=SETOWNER&owner={quote(folder.owner)}&{who}",
            }
            for folder in about.folders
        ],
        "sessions": [
            {
                "user": user,
                "unit": layout.session_unit(user),
                "token": layout.token_file(PATHS, user),
                "status": layout.status_file(PATHS, user),
            }
            for user in about.users
        ],
    }


def _readme(about: Exporting) -> str:
    names = {"@CLUSTER@": about.wanted.cluster, "@VERSION@": __version__, "@NODES@": ", ".join(about.targets)}
    text = (playbooks() / "EXPORT.md").read_text(encoding="utf-8")
    for mark, value in names.items():
        text = text.replace(mark, value)
    return text
