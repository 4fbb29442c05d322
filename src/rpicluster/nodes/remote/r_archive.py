"""The sources that nodes lack, each node's in one tar file: one copy by Ansible instead of one a package."""

import tarfile
from collections.abc import Mapping
from pathlib import Path

from rpicluster.nodes.ansible.rundir import write_private
from rpicluster.nodes.remote.r_work import RWork


def archive_name(node: str) -> str:
    """Return the name of a node's archive."""
    return f"{node}.r.tar"


def write_archives(folder: Path, work: Mapping[str, RWork]) -> None:
    """Write the archive of every node that lacks a source, mode 0600."""
    for node, each in work.items():
        if not each.files:
            continue
        path = folder / archive_name(node)
        write_private(path, b"")
        with tarfile.open(path, "w") as archive:
            for name, source in each.files:
                archive.add(source, arcname=name, recursive=False)
