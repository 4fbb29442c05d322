"""`vm`: virtual machines that Vagrant boots and `up` configures."""

from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

import click

from rpicluster.cli.console import console
from rpicluster.cli.options import examples
from rpicluster.errors import UsageError


@click.group(epilog=examples("rpicluster vm init --nodes 3 ~/lab-vm"))
def vm() -> None:
    """Write a Vagrantfile for virtual machines that `up` configures as it configures Pis."""


@vm.command(
    epilog=examples(
        "rpicluster vm init",
        "rpicluster vm init --nodes 3 ~/lab-vm",
        "rpicluster vm init --nodes 8G,4G --cpus 4",
    )
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.option("--nodes", default="1", show_default=True, help="How many, or the memory of each: 4G,2G,2G.")
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="Cores of each.")
@click.option("--name", default="vm", show_default=True, help="The cluster's name.")
@click.option("--box", help="Vagrant box, for your provider [default: debian/bookworm64].")
@click.option("--address", help="Address of the first VM, the others count on [default: 192.168.56.11].")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Your public SSH key [default: the first of ~/.ssh/id_*.pub].",
)
@click.option("--replace", is_flag=True, help="Write anew what is there.")
def init(
    folder: Path,
    nodes: str,
    cpus: int,
    name: str,
    box: str | None,
    address: str | None,
    key: Path | None,
    replace: bool,
) -> None:
    """Write a Vagrantfile and a cluster.yml to FOLDER: for VirtualBox or libvirt, one VM or several.

    The VMs get your public SSH key; `rpicluster up` does the rest over SSH. No VM was booted by
    rpicluster's own tests.
    """
    from rpicluster.design.vagrantfile import BOX, FIRST_ADDRESS, machines, vagrantfile, vm_cluster
    from rpicluster.model.specfile import parse_spec
    from rpicluster.nodes.ssh.public_keys import public_keys
    from rpicluster.nodes.written import refuse_existing, write_text

    try:
        first = IPv4Address(address) if address else FIRST_ADDRESS
    except AddressValueError as error:
        raise UsageError(f"--address: {error}", hint=f"e.g.: --address {FIRST_ADDRESS}") from error
    wanted = machines(nodes, first)
    key_file, keys = public_keys(key)
    spec, cluster = folder / "cluster.yml", vm_cluster(name, wanted, cpus=cpus)
    parse_spec(cluster, str(spec))
    files = {folder / "Vagrantfile": vagrantfile(wanted, keys, box=box or BOX, cpus=cpus), spec: cluster}
    refuse_existing(files, replace=replace)
    for path, text in files.items():
        write_text(path, text, replace=replace)
        console.say(f"wrote {path}")
    console.say(f"who may log in: vagrant, by the key {key_file}")
    console.next_step(f"cd {folder}", "vagrant up", "rpicluster check", "rpicluster up")
