"""What stands on a real node besides Hadoop's and Spark's own files."""

from collections.abc import Iterable

from rpicluster.design import environment_files, firewall, layout, mount_unit, sshd_files, systemd_units
from rpicluster.design.inputs import Inputs
from rpicluster.design.units import RenderedFile, Unit


def machine_files(inputs: Inputs, name: str, units: Iterable[Unit]) -> dict[str, RenderedFile]:
    """Return the files of node `name` that the system, not Hadoop, reads; `units` are its own.

    Keys that begin with `/` are absolute. All belong to root. Raises ValueError for a path that systemd or a
    shell would read as something else.
    """
    files = {
        layout.FIREWALL: RenderedFile(firewall.rules(inputs, name)),
        **environment_files.environment_files(inputs, name),
        **systemd_units.systemd_files(inputs, name, units),
        **mount_unit.mount_files(inputs.paths(name)),
    }
    if name == inputs.manager:
        files[sshd_files.SSHD] = RenderedFile(sshd_files.sshd_rules(inputs))
    return files
