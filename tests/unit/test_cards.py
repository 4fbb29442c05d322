"""What goes on a card; the files are held against our own schema and, where it is installed, cloud-init's."""

import base64
import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from rpicluster.cli.main import cli, run
from rpicluster.design.cards import Card, Image, addresses, card_files
from rpicluster.design.first_nodes import cluster_spec
from rpicluster.errors import UsageError
from rpicluster.model.specfile import parse_spec
from rpicluster.model.ssh_key import PublicKey, parse_public_keys
from rpicluster.nodes.ssh.public_keys import public_keys

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBbOalZUmkxemeGhVqsiwN9xcKvP/BNM7TDPXSXvzKVw"
TEXT = {"type": "string", "minLength": 1}
# Written from cloud-init's documentation of its modules; nothing but what a card needs is allowed.
USER_DATA_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["hostname", "users", "ssh_pwauth", "disable_root", "manage_etc_hosts"],
    "properties": {
        "hostname": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
        "manage_etc_hosts": {"const": "localhost"},
        "ssh_pwauth": {"const": False},
        "disable_root": {"const": True},
        "users": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "lock_passwd", "ssh_authorized_keys", "sudo"],
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-z_][a-z0-9_-]{0,31}$"},
                    "groups": TEXT,
                    "shell": {"const": "/bin/bash"},
                    "sudo": TEXT,
                    "lock_passwd": {"const": True},
                    "ssh_authorized_keys": {"type": "array", "minItems": 1, "items": TEXT},
                },
            },
        },
        "packages": {"type": "array", "items": TEXT},
        "runcmd": {"type": "array", "items": {"type": "array", "items": TEXT}},
    },
}
NETWORK_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "ethernets"],
    "properties": {
        "version": {"const": 2},
        "ethernets": {
            "type": "object",
            "additionalProperties": False,
            "required": ["eth0"],
            "properties": {
                "eth0": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["dhcp4"],
                    "properties": {
                        "dhcp4": {"type": "boolean"},
                        "addresses": {"type": "array", "items": TEXT},
                        "routes": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["to", "via"],
                                "additionalProperties": False,
                                "properties": {"to": TEXT, "via": TEXT},
                            },
                        },
                        "nameservers": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"addresses": {"type": "array", "items": TEXT}},
                        },
                    },
                }
            },
        },
    },
}
STATIC = {
    "address": IPv4Interface("192.168.1.11/24"),
    "gateway": IPv4Address("192.168.1.1"),
    "dns": (IPv4Address("9.9.9.9"), IPv4Address("1.1.1.1")),
}


def card(image: Image = Image.UBUNTU, key: str = ED25519, **about: Any) -> Card:
    return Card("pi1", image, "pi", parse_public_keys(key, "k.pub"), **about)


def load(text: str) -> Any:
    return YAML(typ="safe").load(text)


CARDS = [card(image, **how) for image in Image for how in ({}, STATIC)]


@pytest.mark.parametrize("one", CARDS, ids=lambda c: f"{c.image}-{'static' if c.address else 'dhcp'}")
def test_the_files_of_a_card_fit_our_schema(one: Card) -> None:
    files = card_files(one)
    assert set(files) == {"user-data", "network-config", "meta-data"}
    assert files["user-data"].startswith("#cloud-config\n")
    jsonschema.validate(load(files["user-data"]), USER_DATA_SCHEMA)
    jsonschema.validate(load(files["network-config"]), NETWORK_SCHEMA)
    assert set(load(files["meta-data"])) == {"instance-id", "local-hostname", "dsmode"}


@pytest.mark.parametrize("one", CARDS, ids=lambda c: f"{c.image}-{'static' if c.address else 'dhcp'}")
def test_cloud_init_itself_takes_the_files(one: Card, tmp_path: Path) -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("cloud-init is not installed")
    for name, text in card_files(one).items():
        (tmp_path / name).write_text(text)

    def cloud_init(*arguments: str) -> str:
        done = subprocess.run(
            ["cloud-init", *arguments], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Valid" in cloud_init("schema", "--config-file", "user-data")
    convert = ("devel", "net-convert", "--network-data", "network-config", "--kind", "yaml")
    cloud_init(*convert, "--output-kind", "netplan", "-d", "out", "-D", "ubuntu")
    (netplan,) = list((tmp_path / "out").rglob("*.yaml"))
    eth0 = load(netplan.read_text())["network"]["ethernets"]["eth0"]
    assert eth0.get("addresses", []) == ([str(one.address)] if one.address else [])
    assert eth0["dhcp4"] is (one.address is None)


def test_cloud_inits_schema_sees_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("cloud-init is not installed")
    text = card_files(card())["user-data"].replace("lock_passwd", "lock_pass_word")
    (tmp_path / "user-data").write_text(text)
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", "user-data"], cwd=tmp_path, check=False, capture_output=True
    )
    assert done.returncode != 0


def test_ssh_is_switched_on_where_the_image_leaves_it_off_and_mdns_where_it_does_not_answer() -> None:
    ubuntu, raspios = (load(card_files(card(image))["user-data"]) for image in (Image.UBUNTU, Image.RASPIOS))
    assert raspios["runcmd"] == [["systemctl", "enable", "--now", "ssh.service"]] and "runcmd" not in ubuntu
    assert ubuntu["packages"] == ["avahi-daemon"] and "packages" not in raspios
    assert "packages" not in load(card_files(card(**STATIC))["user-data"])


def test_other_files_are_another_instance_so_that_cloud_init_reads_them() -> None:
    def identity(one: Card) -> str:
        return str(load(card_files(one)["meta-data"])["instance-id"])

    assert identity(card()) == identity(card())
    assert identity(card()) != identity(card(**STATIC))


# -- keys ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    st.text(max_size=60).filter(
        lambda text: "PRIVATE KEY" not in text and not set(text) & set("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
    )
)
def test_whatever_the_comment_of_a_key_the_file_says_the_key_and_nothing_else(comment: str) -> None:
    one = card(key=f"{ED25519} {comment}")
    document = load(card_files(one)["user-data"])
    jsonschema.validate(document, USER_DATA_SCHEMA)
    (line,) = document["users"][0]["ssh_authorized_keys"]
    assert line.split(" ")[:2] == ED25519.split(" ")
    assert not set(line) & set("\"'\\$`;\n{}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n", "is a private key"),
        (f'command="rm -rf /" {ED25519}', "is not the type of a key"),
        (ED25519[:40], "cut or damaged"),
        (ED25519.replace("ssh-ed25519", "ssh-rsa"), "cut or damaged"),
        ("ssh-dss AAAAB3NzaC1kc3MAAAA me", "is not the type of a key"),
        ("ssh-ed25519 ÄÖÜ me", "cut or damaged"),
        ("", "holds no public key"),
        ("# only a comment\n", "holds no public key"),
    ],
)
def test_what_is_no_public_key_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_public_keys(text, "k.pub")


def test_a_key_of_every_kind_that_ssh_keygen_makes_is_taken(tmp_path: Path) -> None:
    for kind in ("ed25519", "rsa", "ecdsa"):
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "a b", "-f", str(tmp_path / kind)]
        subprocess.run(argv, check=True, timeout=60)
        path, (key,) = public_keys(tmp_path / f"{kind}.pub")
        assert (path.name, key.comment) == (f"{kind}.pub", "a-b")
        assert isinstance(key, PublicKey) and base64.b64decode(key.blob)


def test_the_first_key_of_the_home_is_found_and_without_one_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no public key in") as refused:
        public_keys(None, tmp_path)
    assert "ssh-keygen" in str(refused.value.hint)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_rsa.pub").write_text("ssh-rsa AAAA broken")
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text(ED25519)
    assert public_keys(None, tmp_path)[0].name == "id_ed25519.pub"


# -- addresses -------------------------------------------------------------------------------------------


def test_addresses_count_on_from_the_first() -> None:
    given = addresses(IPv4Interface("192.168.1.11/24"), 3, IPv4Address("192.168.1.1"))
    assert [str(address) for address in given] == ["192.168.1.11/24", "192.168.1.12/24", "192.168.1.13/24"]


@pytest.mark.parametrize(
    ("first", "gateway", "said"),
    [
        ("192.168.1.253/24", "192.168.1.1", "192.168.1.255 is no host's"),
        ("192.168.1.11/32", "192.168.1.1", "names no network"),
        ("192.168.1.11/24", "192.168.2.1", "not in 192.168.1.0/24"),
        ("192.168.1.11/24", "192.168.1.12", "is the gateway's"),
        ("192.168.1.0/24", "192.168.1.1", "192.168.1.0 is no host's"),
    ],
)
def test_addresses_that_cannot_be_are_refused(first: str, gateway: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        addresses(IPv4Interface(first), 3, IPv4Address(gateway))


# -- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k.pub").write_text(f"{ED25519} me@laptop\n")
    return tmp_path


def init(*arguments: str) -> int:
    return run(["init", "--cloud-init", "cards", "--key", "k.pub", *arguments])


def test_cards_and_a_cluster_yml_that_names_the_nodes_are_written(here: Path) -> None:
    assert init("--name", "lab", "--nodes", "2", "--address", "10.0.0.11/24", "--gateway", "10.0.0.1") == 0
    spec = parse_spec((here / "cluster.yml").read_text())
    assert [(node.name, node.ssh.host) for node in spec.nodes if node.ssh] == [
        ("pi1", "10.0.0.11"),
        ("pi2", "10.0.0.12"),
    ]
    assert load((here / "cards/pi2/network-config").read_text())["ethernets"]["eth0"]["addresses"] == [
        "10.0.0.12/24"
    ]
    assert not list(here.rglob(".*"))


def test_by_dhcp_nodes_are_reached_by_their_names(here: Path) -> None:
    assert init("--nodes", "1") == 0
    assert "pi1.local" in (here / "cluster.yml").read_text()


def test_cards_for_more_nodes_leave_cluster_yml_as_it_is(here: Path) -> None:
    assert init("--nodes", "1") == 0
    before = (here / "cluster.yml").read_text()
    done = CliRunner().invoke(cli, ["init", "--cloud-init", "cards", "--key", "k.pub", "--nodes", "pi4"])
    assert done.exit_code == 0
    assert '{name: "pi4", ssh: {host: "pi4.local"' in done.stdout
    assert (here / "cluster.yml").read_text() == before


def test_cards_are_written_over_only_with_replace(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--nodes", "1") == 0
    mine = here / "cards/pi1/user-data"
    mine.write_text("mine")
    assert init("--nodes", "2") == 2
    assert "there already; nothing was written" in capsys.readouterr().err
    assert mine.read_text() == "mine" and not (here / "cards/pi2").exists()
    assert init("--nodes", "1", "--replace") == 0
    assert mine.read_text().startswith("#cloud-config")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nodes", "pi_1"),
        ("--nodes", "$(reboot)"),
        ("--nodes", "../../etc"),
        ("--nodes", "pi1,pi1"),
        ("--nodes", "0"),
        ("--nodes", "99999"),
        ("--user", "a;b"),
        ("--user", "root\nx"),
        ("--name", "a: b"),
        ("--address", "10.0.0.11"),
        ("--address", "10.0.0.11/24"),
        ("--address", "fe80::1/64", "--gateway", "10.0.0.1"),
        ("--gateway", "10.0.0.1"),
        ("--address", "10.0.0.11/24", "--gateway", "router"),
        ("--address", "10.0.0.11/24", "--gateway", "10.0.0.1", "--dns", "one.one.one.one"),
        ("--workers", "3"),
        ("--key", "none.pub"),
    ],
)
def test_odd_arguments_write_nothing(arguments: tuple[str, ...], here: Path) -> None:
    assert init(*arguments) == 2
    assert sorted(path.name for path in here.iterdir()) == ["k.pub"]


def test_what_is_for_cards_is_refused_for_virtual_nodes(here: Path) -> None:
    assert run(["init", "--gateway", "10.0.0.1"]) == 2
    assert not (here / "cluster.yml").exists()


def test_the_cluster_of_a_card_is_a_valid_spec() -> None:
    assert parse_spec(cluster_spec("lab", [card().entry])).name == "lab"
