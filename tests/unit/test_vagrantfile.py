"""`vm init`: a Vagrantfile that Ruby and Vagrant take, and a cluster.yml that `plan` can count with."""

import os
import shutil
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from rpicluster.cli.main import run
from rpicluster.design.vagrantfile import BOX, machines, vagrantfile
from rpicluster.errors import UsageError
from rpicluster.model.specfile import parse_spec
from rpicluster.model.ssh_key import parse_public_keys

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBbOalZUmkxemeGhVqsiwN9xcKvP/BNM7TDPXSXvzKVw"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "k.pub").write_text(f'{ED25519} it\'s "me" #{{`id`}}\n')
    return tmp_path


def vm_init(*arguments: str) -> int:
    return run(["vm", "init", "lab", "--key", "k.pub", *arguments])


def vagrant(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not installed")
    environment = {**os.environ, "VAGRANT_HOME": str(folder / ".home"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    return subprocess.run(
        ["vagrant", *arguments],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("nodes", ["1", "3", "4G,4G"])
def test_vagrant_takes_the_file(nodes: str, here: Path) -> None:
    assert vm_init("--nodes", nodes) == 0
    done = vagrant(here / "lab", "validate", "--ignore-provider")
    assert done.returncode == 0, done.stdout + done.stderr


def test_vagrant_sees_a_setting_that_it_does_not_know(here: Path) -> None:
    assert vm_init() == 0
    file = here / "lab" / "Vagrantfile"
    file.write_text(file.read_text().replace("config.vm.box", "config.vm.bux"))
    done = vagrant(here / "lab", "validate", "--ignore-provider")
    assert done.returncode != 0 and "bux" in done.stdout + done.stderr


def test_a_key_is_added_once_however_often_the_vm_is_provisioned(here: Path) -> None:
    """What Vagrant runs in the VM, run here by the same shell with another home."""
    assert vm_init() == 0
    text = (here / "lab" / "Vagrantfile").read_text()
    script = text.partition("<<~'SHELL'\n")[2].partition("  SHELL\n")[0]
    keys = "\n".join(
        line[2:] for line in text.partition("KEYS.freeze\n")[2].partition("KEYS\n")[0].splitlines()
    )
    assert keys == f"{ED25519} it-s-me-id"
    (here / ".ssh").mkdir()
    (here / ".ssh" / "authorized_keys").write_text("ssh-ed25519 AAAAvagrants vagrant\n")
    for _ in range(2):
        subprocess.run(
            ["bash", "-c", script, "bash", keys + "\n"],
            env={**os.environ, "HOME": str(here)},
            check=True,
            timeout=20,
        )
    lines = (here / ".ssh" / "authorized_keys").read_text().splitlines()
    assert lines == ["ssh-ed25519 AAAAvagrants vagrant", keys]


def test_the_cluster_yml_names_the_vms_and_can_be_planned_before_they_boot(here: Path) -> None:
    assert vm_init("--nodes", "3", "--name", "lab") == 0
    spec = parse_spec((here / "lab" / "cluster.yml").read_text())
    assert [(n.name, n.ssh.host, n.ssh.user) for n in spec.nodes if n.ssh] == [
        ("pi1", "192.168.56.11", "vagrant"),
        ("pi2", "192.168.56.12", "vagrant"),
        ("pi3", "192.168.56.13", "vagrant"),
    ]
    assert [n.hardware.memory for n in spec.nodes if n.hardware] == [4096, 2048, 2048]


def test_one_vm_is_large_enough_to_be_manager_and_worker(here: Path) -> None:
    from rpicluster.design.sizing import size
    from rpicluster.nodes.remote.placement import cluster_facts

    assert vm_init() == 0
    spec = parse_spec((here / "lab" / "cluster.yml").read_text())
    size(spec, cluster_facts(spec, {}))


def test_nothing_is_overwritten_without_replace(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vm_init() == 0
    (here / "lab" / "Vagrantfile").write_text("mine")
    assert vm_init("--nodes", "3") == 2
    assert "there already; nothing was written" in capsys.readouterr().err
    assert (here / "lab" / "Vagrantfile").read_text() == "mine"
    assert "pi3" not in (here / "lab" / "cluster.yml").read_text()
    assert vm_init("--nodes", "3", "--replace") == 0
    assert "pi3" in (here / "lab" / "Vagrantfile").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nodes", "0"),
        ("--nodes", "10"),
        ("--nodes", "4G,x"),
        ("--nodes", "256M"),
        ("--box", 'x"; system("id"); "'),
        ("--box", "bookworm"),
        ("--address", "8.8.8.8"),
        ("--address", "192.168.56.253", "--nodes", "3"),
        ("--address", "x"),
        ("--name", "Lab 1"),
        ("--key", "none.pub"),
    ],
)
def test_odd_arguments_write_nothing(arguments: tuple[str, ...], here: Path) -> None:
    assert vm_init(*arguments) == 2
    assert not (here / "lab").exists()


def test_a_box_of_another_owner_is_taken_as_it_is_named() -> None:
    text = vagrantfile(machines("1"), parse_public_keys(ED25519, "k"), box="bento/ubuntu-24.04", cpus=4)
    assert 'config.vm.box = "bento/ubuntu-24.04"' in text and "vm.cpus = 4" in text and BOX not in text
    with pytest.raises(UsageError):
        machines("2", IPv4Address("10.0.0.254"))
