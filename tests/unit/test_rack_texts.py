"""Everything that a rack writes, as text: files of nodes, files of the user, rules, commands."""

from ipaddress import IPv4Network
from pathlib import Path, PurePath

import pytest

from rpicluster.errors import UsageError
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.rack import files
from rpicluster.nodes.rack.addresses import Network, names_of, unique_local_prefix
from rpicluster.nodes.rack.base import archives_in, content_key, own_certificates
from rpicluster.nodes.rack.inventory import mounts_below
from rpicluster.nodes.rack.machine import dashed, nspawn_argv
from rpicluster.nodes.rack.network import forwarding_ruleset, rack_ruleset
from rpicluster.nodes.rack.request import parse_nodes
from rpicluster.nodes.rack.state import RackState, decode, encode

V4 = IPv4Network("10.77.0.0/24")
NETWORK = Network(V4, unique_local_prefix("rack", V4))
FOLDER = Path("/home/ann/my rack")


def rack(nodes: str = "4G,2G,1536M") -> RackState:
    wanted = parse_nodes(nodes, "0.5")
    ids = {node.name: "0123456789abcdef0123456789abcdef" for node in wanted}
    return RackState("rack", FOLDER, "bookworm", NETWORK, wanted, 4096, "/cache/base", ids, whole=True)


def test_a_nodes_network_is_static_on_both_families():
    lines = files.network_unit(NETWORK, 2).splitlines()
    assert "Address=10.77.0.12/24" in lines
    assert f"Address={NETWORK.node6(2)}/64" in lines
    assert "Gateway=10.77.0.1" in lines
    assert "IPv6AcceptRA=no" in lines
    assert not [line for line in lines if line.startswith("Gateway=fd")], "IPv6 has no way out"


def test_a_nodes_own_name_stands_at_127_0_1_1_and_no_other_name_is_known():
    entries = [line.split() for line in files.hosts_file("pi2").splitlines() if line]
    assert ["127.0.1.1", "pi2"] in entries
    assert not [words for words in entries if "pi1" in words]


def test_a_loopback_resolver_is_replaced_by_the_list_behind_it():
    stub = "# made by resolved\nnameserver 127.0.0.53\nsearch lan\n"
    real = "nameserver 192.0.2.7\nnameserver fe80::1%eth0\nsearch lan\n"
    assert files.resolv_conf(real, stub) == "nameserver 192.0.2.7\nsearch lan\n"
    assert files.resolv_conf(stub, real) == "nameserver 192.0.2.7\nsearch lan\n"
    assert files.resolv_conf(stub, "") == ""


def test_the_written_cluster_yml_is_a_valid_spec_for_one_node_and_for_many():
    for nodes, manager, workers in (("4G", "pi1", ["pi1"]), ("4G,2G,1536M", "pi1", ["pi2", "pi3"])):
        made = rack(nodes)
        spec = parse_spec(files.cluster_yml("rack", made.nodes, made.all_addresses, 4, FOLDER))
        assert spec.manager.name == manager
        assert {n.ssh.config for n in spec.nodes if n.ssh} == {str(FOLDER / "ssh_config")}
        assert [node.name for node in spec.workers] == workers
        assert [n.hardware.memory for n in spec.nodes if n.hardware] == [n.memory_mib for n in made.nodes]
        assert {n.hardware.cores for n in spec.nodes if n.hardware} == {1}


def test_ssh_config_uses_the_racks_own_key_and_known_hosts_even_in_a_folder_with_spaces():
    text = files.ssh_config(rack().all_addresses, FOLDER)
    assert '  IdentityFile "/home/ann/my rack/id_ed25519"' in text.splitlines()
    assert '  UserKnownHostsFile "/home/ann/my rack/known_hosts"' in text.splitlines()
    assert text.count("StrictHostKeyChecking yes") == 3
    assert "Host pi2 10.77.0.12 " in text
    assert "/100%%/" in files.ssh_config(rack().all_addresses, PurePath("/100%/x"))


@pytest.mark.parametrize("folder", ['/a"b', "/a$HOME", "/a\\b", "/a\nb"])
def test_a_folder_that_ssh_config_cannot_name_is_refused(folder):
    with pytest.raises(UsageError, match="--dir"):
        files.check_folder(PurePath(folder))


def test_known_hosts_has_a_line_for_each_key_without_its_comment():
    keys = {"pi1": ["ssh-ed25519 AAAA root@pi1", "ecdsa-sha2-nistp256 BBBB root@pi1"]}
    lines = files.known_hosts(rack().all_addresses[:1], keys).splitlines()
    assert lines == [
        f"pi1,10.77.0.11,{NETWORK.node6(1)} {key}" for key in ("ssh-ed25519 AAAA", "ecdsa-sha2-nistp256 BBBB")
    ]


def test_the_rules_let_dns_and_web_out_and_drop_all_else_in_both_directions():
    text = rack_ruleset(names_of("rack"), NETWORK)
    rules = [line.strip() for line in text.splitlines() if "rp-rack" in line]
    assert rules == [
        'iifname "rp-rack" oifname "rp-rack" accept',
        'iifname "rp-rack" meta nfproto ipv6 drop',
        'iifname "rp-rack" udp dport 53 accept',
        'iifname "rp-rack" tcp dport { 53, 80, 443 } accept',
        'iifname "rp-rack" drop',
        'oifname "rp-rack" ct state established,related accept',
        'oifname "rp-rack" drop',
        'ip saddr 10.77.0.0/24 oifname != "rp-rack" masquerade',
    ]


def test_only_interfaces_that_were_there_are_kept_from_being_routed_between():
    text = forwarding_ruleset(["wlan0", "eth0"])
    assert 'iifname { "eth0", "wlan0" } oifname { "eth0", "wlan0" } drop' in text
    assert "drop" not in forwarding_ruleset([])


def test_nspawn_gets_the_nodes_identity_and_a_bind_path_without_a_stray_colon():
    argv = nspawn_argv(
        names=names_of("rack"),
        node="pi1",
        machine_id="0123456789abcdef0123456789abcdef",
        folder=Path("/a:b/nodes/pi1"),
        legacy_cgroups=False,
    )
    assert "--uuid=01234567-89ab-cdef-0123-456789abcdef" in argv
    assert "--hostname=pi1" in argv
    assert "--machine=rack-pi1" in argv
    assert "--network-bridge=rp-rack" in argv
    assert "--bind=/a\\:b/nodes/pi1/lxcfs:/run/host/lxcfs" in argv
    assert "--directory=/a:b/nodes/pi1/root" in argv
    assert argv[-1].startswith("--"), "no word reaches the node's init"


def test_a_newer_systemd_is_told_to_boot_on_the_old_cgroups():
    argv = nspawn_argv(
        names=names_of("r"), node="pi1", machine_id="0" * 32, folder=Path("/n"), legacy_cgroups=True
    )
    assert argv[-1] == "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
    assert dashed("0" * 32) == "00000000-0000-0000-0000-000000000000"


def test_state_survives_being_written_and_read():
    assert decode(encode(rack()), FOLDER) == rack()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": 1}', encode(rack()).replace("10.77", "x")])
def test_a_damaged_state_is_named_with_its_folder(text):
    from rpicluster.errors import RackError

    with pytest.raises(RackError, match=r"my rack/rack\.json"):
        decode(text, FOLDER)


def test_the_machines_own_debian_archives_are_used_and_others_are_not():
    listing = "\n".join(
        (
            "Ubuntu|Ubuntu|http://u.example/ubuntu/",
            "Debian|Debian-Security|http://d.example/security/",
            "Debian|Debian|http://d.example/debian/",
            "Debian|Debian|http://later.example/debian/",
            "Debian|Debian Backports|http://d.example/backports/",
        )
    )
    assert archives_in(listing) == ("http://d.example/debian", "http://d.example/security")
    assert archives_in("Debian|Debian|cdrom:[x]/") == archives_in("") == (None, None)
    assert "security" not in files.apt_sources("bookworm", "http://d.example/debian", None)


def test_the_bases_key_follows_its_content(tmp_path):
    key = content_key("bookworm", "amd64", {})
    assert key == content_key("bookworm", "amd64", {})
    others = {
        content_key("trixie", "amd64", {}),
        content_key("bookworm", "arm64", {}),
        content_key("bookworm", "amd64", {"a.crt": b"1"}),
        content_key("bookworm", "amd64", {"a.crt": b"2"}),
    }
    assert len(others | {key}) == 5
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.crt").write_bytes(b"1")
    (tmp_path / "note.txt").write_bytes(b"2")
    assert own_certificates(tmp_path) == {"sub_a.crt": b"1"}
    assert own_certificates(tmp_path / "none") == {}


def test_mounts_below_a_folder_are_found_although_their_names_are_escaped():
    line = "36 35 98:0 / {} rw,noatime - ext4 /dev/loop0 rw"
    text = "\n".join(line.format(point) for point in ("/home/ann/my\\040rack/x", "/home/ann/my", "/"))
    assert mounts_below(text, FOLDER) == ["/home/ann/my rack/x"]
