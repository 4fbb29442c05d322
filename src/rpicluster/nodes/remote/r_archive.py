"""The sources that nodes lack, each node's in one tar: sent by us, or by Ansible's `copy` in an export."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from rpicluster.nodes.ansible.rundir import write_private
from rpicluster.nodes.remote.r_work import RWork


def archive_name(node: str) -> str:
    """Return the name of a node's archive."""
    return f"{node}.r.tar"


def archive_of(work: RWork) -> bytes:
    """Return a tar of the sources that a node lacks."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, source in work.files:
            archive.add(source, arcname=name, recursive=False)
    return packed.getvalue()


def write_archives(folder: Path, work: Mapping[str, RWork]) -> None:
    """Write the archive of every node that lacks a source, mode 0600."""
    for node, each in work.items():
        if each.files:
            write_private(folder / archive_name(node), archive_of(each))
