"""What one node gets in one run: the bundle for `place.py`, and the variables of the roles. Pure."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rpicluster.design import layout
from rpicluster.design.firewall_scripts import apply_script, confirm_script
from rpicluster.design.plan import Action, Step
from rpicluster.design.preview import PATHS
from rpicluster.design.units import RenderedFile
from rpicluster.model.facts import NodePaths
from rpicluster.nodes.remote import manifest, r_work
from rpicluster.nodes.remote.manifest import Base
from rpicluster.nodes.remote.storage import order

RUNTIMES = "/opt/rpicluster/runtimes"
RUNTIME_TIMEOUT_S = 1800
RUNTIME_QUIET_S = 90  # nobody sends: a broken chain is followed by a stream to each node alone
REREAD = f"{PATHS.run}/reread"


@dataclass(frozen=True)
class NodeWork:
    """The steps of a plan that concern one node, by kind."""

    prepare: bool
    runtime: str | None
    write: tuple[str, ...]
    remove: tuple[str, ...]
    stop: tuple[str, ...]
    start: tuple[str, ...]
    restart: tuple[str, ...]
    reload: tuple[str, ...]
    format: Step | None
    format_disk: str = ""  # its name in /dev/disk/by-id

    @classmethod
    def of(cls, steps: list[Step]) -> "NodeWork":
        """Sort the steps of one node."""

        def targets(action: Action) -> tuple[str, ...]:
            return tuple(step.target for step in steps if step.action is action)

        return cls(
            prepare=any(target != r_work.TARGET for target in targets(Action.PREPARE))
            or bool(targets(Action.FORMAT_DISK)),
            runtime=next(iter(targets(Action.INSTALL_RUNTIME)), None),
            write=targets(Action.WRITE),
            remove=targets(Action.REMOVE),
            stop=targets(Action.STOP),
            start=targets(Action.START),
            restart=targets(Action.RESTART),
            reload=targets(Action.RELOAD),
            format=next((step for step in steps if step.action is Action.FORMAT), None),
            format_disk=next(iter(targets(Action.FORMAT_DISK)), ""),
        )


def bundle(base: Base, files: Mapping[str, RenderedFile], work: NodeWork, *manifests: bytes) -> bytes:
    """Return the JSON that `place.py` reads: directories first, then files, the manifest last."""
    document = {
        "directories": list(base.directories) if work.prepare else [],
        "files": [
            # The firewall's own rules are kept by the script that confirms them.
            *(
                file_entry(manifest.absolute(path), files[path])
                for path in work.write
                if path != layout.FIREWALL
            ),
            *(file_entry(manifest.PATH, RenderedFile(text, manifest.MODE)) for text in manifests),
        ],
        "remove": [manifest.absolute(path) for path in work.remove],
        "keep": [PATHS.conf],
        "reread": REREAD,
    }
    return json.dumps(document).encode()


def placing(files: Mapping[str, RenderedFile]) -> bytes:
    """Return what `place.py` reads to write a few files, named by their rendered names or whole paths."""
    entries = [file_entry(manifest.absolute(path), file) for path, file in files.items()]
    document = {"directories": [], "remove": [], "keep": [PATHS.conf], "files": entries, "reread": REREAD}
    return json.dumps(document).encode()


def file_entry(path: str, file: RenderedFile) -> dict[str, str]:
    """Return one file as `place.py` reads it."""
    return {
        "path": path,
        "mode": f"{file.mode:04o}",
        "owner": file.owner,
        "group": file.group,
        "content": base64.b64encode(file.content).decode(),
    }


def variables(
    base: Base,
    files: Mapping[str, RenderedFile],
    work: NodeWork,
    *,
    paths: NodePaths,
    unit_hashes: Mapping[str, str],
    runtime: str,
    bundle_path: str,
    file_system: str,
    may_reboot: bool,
    r: r_work.RWork | None = None,
    r_archive: str = "",
) -> dict[str, Any]:
    """Return what the roles are told of one node; `argument_specs.yml` of each role says what each means."""
    rules = files[layout.FIREWALL].content if layout.FIREWALL in work.write else b""
    return {
        "rpicluster_prepare": work.prepare,
        "rpicluster_packages": list(base.packages),
        **r_work.variables(r, r_archive),
        "rpicluster_group": base.group,
        "rpicluster_users": list(base.users),
        "rpicluster_hosts_block": base.hosts_block.rstrip("\n"),
        "rpicluster_storage": order(paths, format_name=work.format_disk, file_system=file_system)
        if work.prepare
        else {},
        "rpicluster_bundle": bundle_path,
        "rpicluster_boot_file": base.boot_file,
        "rpicluster_reboot": bool(base.boot_file) and may_reboot,
        "rpicluster_firewall": {"apply": apply_script(PATHS, rules), "confirm": confirm_script(PATHS)}
        if rules
        else {},
        "rpicluster_enable": [
            path.rpartition("/")[2]
            for path in files
            if path.startswith(layout.SYSTEMD) and path.endswith((".timer", ".mount"))
        ]
        if work.prepare
        else [],
        "rpicluster_runtime_changes": work.runtime is not None,
        "rpicluster_runtime_folder": f"{RUNTIMES}/{runtime}",
        "rpicluster_runtime_link": PATHS.runtime,
        "rpicluster_runtime_timeout_s": RUNTIME_TIMEOUT_S,
        "rpicluster_runtime_quiet_s": RUNTIME_QUIET_S,
        "rpicluster_stop": list(work.stop),
        "rpicluster_start": list(work.start),
        "rpicluster_restart": list(work.restart),
        "rpicluster_reload": list(work.reload),
        "rpicluster_starts": {
            unit: start_order(unit, unit_hashes[unit], restart=unit in work.restart)
            for unit in work.start + work.restart
        },
        "rpicluster_format": _format(work.format, paths, file_system) if work.format else {},
    }


def start_order(unit: str, unit_hash: str, *, restart: bool) -> dict[str, str]:
    """Return what `start_unit.py` reads."""
    return {
        "unit": unit,
        "service": layout.systemd_unit(unit),
        "do": "restart" if restart else "start",
        "hash": unit_hash,
        "manifest": manifest.PATH,
    }


def _format(step: Step, paths: NodePaths, file_system: str) -> dict[str, Any]:
    unit = step.unit
    if unit is None:
        raise ValueError(f"the plan formats {step.target} on {step.node} and does not say how")
    return {
        "argv": list(unit.argv),
        "environment": dict(unit.environment),
        "user": unit.user,
        "group": layout.GROUP,
        "directory": unit.directory,
        "name_directory": layout.namenode_directory(paths),
        "cluster_id": file_system,
    }
