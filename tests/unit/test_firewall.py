"""Which ports the firewall guards, and what the kernel makes of its rules."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from rpicluster.design import firewall, firewall_scripts, layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.rendering import render
from rpicluster.model.facts import NodePaths
from rpicluster.model.ports import SESSION_PORTS

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import JAR, KEEPER, NAMES, load

REAL = [case for case in NAMES if not load(case).spec.is_local]
every_case = pytest.mark.parametrize("case", REAL)
NFT = Path(firewall.NFT)
PROBE = Path(__file__).parent / "firewall_probe.py"
GATEWAY_PROBE = Path(__file__).parent / "gateway_probe.py"


def numbers(intervals: tuple[firewall.Interval, ...]) -> set[int]:
    return {port for first, last in intervals for port in range(first, last + 1)}


def in_a_network_of_its_own(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command that sees no interface, rule or connection of this machine."""
    if not NFT.exists() or not shutil.which("unshare"):
        pytest.skip("nft or unshare is not on this machine")
    namespaces = ["-n"] if os.geteuid() == 0 else ["-r", "-n"]
    if subprocess.run(["unshare", *namespaces, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives us no network namespace")
    return subprocess.run(
        ["unshare", *namespaces, *command],
        capture_output=True,
        text=True,
        timeout=180,  # dozens of Python programs, one after the other
        check=False,
        **options,  # type: ignore[call-overload]
    )


def without_users(rules: bytes) -> str:
    """Return the rules with logins of this machine in place of a node's."""
    return re.sub(r"skuid( !=)? \{[^}]*\}", r'skuid\1 { "root" }', rules.decode())


def listening_ports(inputs: Inputs, node: str) -> tuple[set[int], set[int]]:
    """Return what configuration says node `node` listens on: on its address, and on loopback."""
    files, address = rendered_files(inputs)[node], inputs.node(node).address
    own, loopback = set(), set()
    for path, content in files.items():
        if path.endswith(".xml"):
            for prop in ElementTree.fromstring(content).iter("property"):
                value = prop.findtext("value", "")
                if prop.findtext("name") == "dfs.datanode.http.internal-proxy.port":
                    loopback.add(int(value))
                # The one-shot checkpoint is told a port of 0 and does not listen.
                if (match := re.fullmatch(re.escape(address) + r":(\d+)", value)) and match[1] != "0":
                    own.add(int(match[1]))
        elif re.fullmatch(r"session/keeper-\w+\.json", path):
            document = json.loads(content)
            loopback |= {door["port"] for door in document["doors"] if door["kind"] == "connect"}
            settings = (
                part.split("=", 1) for part in document["java"] if re.match(r"spark\.[\w.]*port=", part)
            )
            own |= {int(value) for _, value in settings} - loopback
    defaults = rendered_files(inputs)[inputs.manager][layout.SPARK_DEFAULTS].decode()
    more = int(re.search(r"^spark\.port\.maxRetries (\d+)$", defaults, re.MULTILINE)[1])  # type: ignore[index]
    sessions = {inputs.session_port(user, key) for user in inputs.users for key in SESSION_PORTS}
    own |= {port + i for port in own & sessions for i in range(more + 1)}
    if node in inputs.workers:
        first = int(re.search(r"^spark\.blockManager\.port (\d+)$", defaults, re.MULTILINE)[1])  # type: ignore[index]
        own |= set(range(first, first + more + 1))
    return own, loopback


def rendered_files(inputs: Inputs) -> dict[str, dict[str, bytes]]:
    result = render(inputs.spec, inputs.sizes, inputs.placement, "r", keeper_sources=KEEPER, sparklyr_jar=JAR)
    return {node: {path: f.content for path, f in files.items()} for node, files in result.files.items()}


@every_case
def test_the_firewall_guards_the_ports_of_the_configuration_all_of_them_and_no_other(case: str) -> None:
    inputs = load(case)
    everywhere: set[int] = set()
    for node in inputs.spec.nodes:
        own, loopback = listening_ports(inputs, node.name)
        if node.name in inputs.workers and node.name != inputs.manager:
            # Clients of the manager name its ports in the same files; those are not this node's.
            own -= set(inputs.node(inputs.manager).ports.values()) - set(
                inputs.node(node.name).ports.values()
            )
        assert numbers(firewall.guarded_ports(inputs, node.name)) == own
        assert numbers(firewall.doors(inputs, node.name)) == loopback
        everywhere |= own
    assert numbers(firewall.cluster_ports(inputs)) == everywhere
    assert firewall.SSH_PORT not in everywhere


@every_case
def test_executors_of_all_users_find_a_port_that_is_nobody_elses(case: str) -> None:
    inputs = load(case)
    taken = {port for node in inputs.spec.nodes for port in inputs.node(node.name).ports.values()}
    assert not taken.intersection(inputs.executor_ports)
    for name in inputs.workers:
        most = inputs.node_sizes(name).yarn_memory_mib // inputs.sizes.executor.memory_mib
        assert len(inputs.executor_ports) >= 2 * most


@every_case
def test_only_members_and_only_the_clusters_own_users_are_let_through(case: str) -> None:
    inputs = load(case)
    for node in inputs.spec.nodes:
        text = firewall.rules(inputs, node.name).decode()
        members = re.search(r"set members4 \{[^{]*elements = \{ ([^}]*) \}", text)
        assert members and members[1].split(", ") == sorted(
            (inputs.node(other.name).address for other in inputs.spec.nodes),
            key=lambda address: [int(part) for part in address.split(".")],
        )
        people = set(inputs.users) | {"rpi-tunnel"} if node.name == inputs.manager else set()
        assert set(firewall.clients(inputs, node.name)) == {"root", "rpi-hdfs", "rpi-yarn"} | people
        assert "flush ruleset" not in text


@every_case
def test_nft_takes_the_rules_of_every_node_twice_in_a_row(case: str, tmp_path: Path) -> None:
    inputs = load(case)
    for node in inputs.spec.nodes[:2]:
        file = tmp_path / "rules.nft"
        file.write_text(without_users(firewall.rules(inputs, node.name)))
        answer = in_a_network_of_its_own("sh", "-ec", f"{NFT} -c -f {file}; {NFT} -f {file}; {NFT} -f {file}")
        assert answer.returncode == 0, answer.stderr


def test_a_node_whose_address_is_not_known_is_no_member_and_does_not_stop_the_plan() -> None:
    inputs = load("pi4-3x4g")
    nodes = dict(inputs.placement.nodes)
    nodes["pi2"] = nodes["pi2"].model_copy(update={"address": "pi2.local"})
    nodes["pi3"] = nodes["pi3"].model_copy(update={"address": "fd00::13"})
    placement = inputs.placement.model_copy(update={"nodes": nodes})
    text = firewall.rules(Inputs.checked(inputs.spec, inputs.sizes, placement), "pi1").decode()
    assert "pi2.local" not in text and "# pi2 is no member yet" in text
    assert "elements = { 192.168.1.11 }" in text and "elements = { fd00::13 }" in text


def test_a_stranger_finds_ssh_only_and_another_local_user_finds_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nsenter"):
        pytest.skip("needs root, ip and nsenter")
    inputs = load("pi4-3x4g")
    nodes = dict(inputs.placement.nodes)
    text = without_users(firewall.rules(inputs, "pi1"))
    # The member has both kinds of address.
    text = text.replace("type ipv6_addr;", "type ipv6_addr; elements = { fd00::11, fd00::12 }")
    rules = tmp_path / "rules.nft"
    rules.write_text(text)
    guarded, door = nodes["pi1"].ports["rm_http"], nodes["pi1"].ports["connect"]
    posed = nodes["pi1"].ports["rm_client"]  # somebody else listens there
    words = map(str, (guarded, door, 9000, posed))
    answer = in_a_network_of_its_own(sys.executable, str(PROBE), str(rules), *words, stdin=subprocess.DEVNULL)
    assert answer.returncode == 0, answer.stderr
    found = {tuple(line.split(" ", 5)[:5]): line.split(" ", 5)[5] for line in answer.stdout.splitlines()}
    assert len(found) == 2 * 28
    # A probe counts only if it succeeded before.
    assert {answer for key, answer in found.items() if key[0] == "stock"} == {"answered"}
    for (when, who, _, port, uid), got in found.items():
        if when == "stock":
            continue
        wanted = "answered"
        if port in (str(guarded), str(door)) and uid != "0":
            wanted = "refused"
        elif port == str(posed) or (port == str(guarded) and who == "stranger"):
            wanted = "silence"
        assert got == wanted, f"{who} (user {uid}) at port {port}: {got}"


def test_the_firewall_knows_the_gateway_of_every_user_and_all_ports_of_its_clients() -> None:
    inputs = load("pi5-sparklyr")
    gateways = firewall.gateways(inputs, "pi1")
    for user in ("ana", "bob"):
        document = json.loads(rendered_files(inputs)["pi1"][layout.keeper_settings(user)])
        (gateway,) = (door["port"] for door in document["doors"] if door["kind"] == "sparklyr")
        assert gateways[user][0] == gateway
        assert document["java"][-3:] == [str(gateway), "42", "--service"], "never --remote"
    assert gateways["ana"][1] + 1 == gateways["bob"][0]
    # sparklyr looks up to 99 numbers above the gateway's for one that is free.
    assert gateways["bob"][1] == gateways["bob"][0] + 99
    assert firewall.gateways(inputs, "pi2") == {}
    assert firewall.gateways(load("pi4-3x4g"), "pi1") == {}


def test_nobody_but_its_user_root_and_the_tunnel_reaches_a_gateway(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root and ip")
    inputs = load("pi5-sparklyr")
    logins = {"ana": "daemon", "bob": "bin", "rpi-tunnel": "sys", "rpi-yarn": "games", "rpi-hdfs": "man"}
    text = firewall.rules(inputs, "pi1").decode()
    for ours, here in logins.items():
        text = text.replace(f'"{ours}"', f'"{here}"')
    rules = tmp_path / "rules.nft"
    rules.write_text(text)
    first, last = firewall.gateways(inputs, "pi1")["ana"]
    knocking = ["nobody", "root", *logins.values()]
    words = map(str, (rules, logins["ana"], first, first + 1, last, *knocking))
    answer = in_a_network_of_its_own(sys.executable, str(GATEWAY_PROBE), *words, stdin=subprocess.DEVNULL)
    assert answer.returncode == 0, answer.stderr
    found = {tuple(line.split()[:3]): line.split()[3] for line in answer.stdout.splitlines()}
    assert len(found) == 2 * 3 * len(knocking) + 1
    assert found.pop(("poser", "root", str(first))) == "silence", "nobody answers in its user's place"
    let_in = {"root", logins["ana"], logins["rpi-tunnel"]}
    for (when, login, port), got in found.items():
        # A probe counts only if it succeeded before.
        wanted = "answered" if when == "stock" or login in let_in else "refused"
        assert got == wanted, f"{when}: {login} at port {port}: {got}"


@pytest.fixture
def node(tmp_path: Path) -> NodePaths:
    return NodePaths(
        conf=f"{tmp_path}/etc",
        data=f"{tmp_path}/data",
        logs=f"{tmp_path}/log",
        run=f"{tmp_path}/run",
        runtime="/r",
        per_unit=True,
    )


def scripted(tmp_path: Path, *steps: str) -> str:
    """Run steps as a node's root would; systemd is a recorder, as there is none in a network namespace."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tmp_path / "etc").mkdir(exist_ok=True)
    # The last argument of systemd-run is what runs when the time is over.
    (tools / "systemd-run").write_text(
        f'#!/bin/sh\nfor last; do :; done\nprintf "%s\\n" "$last" >{tmp_path}/armed\n'
    )
    (tools / "systemctl").write_text(
        f'#!/bin/sh\necho "systemctl $*" >>{tmp_path}/calls\n[ "$1" = stop ] && rm -f {tmp_path}/armed\n'
        '[ "$1" != is-active ]\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    answer = in_a_network_of_its_own(
        "sh", "-ec", "\n".join(steps), env={"PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def piped(script: str) -> str:
    return f"sh -s <<'SCRIPT'\n{script}SCRIPT"


def both_rules() -> tuple[bytes, bytes]:
    first = without_users(firewall.rules(load("pi4-3x4g"), "pi1"))
    return first.encode(), first.replace("192.168.1.12", "192.168.1.77").encode()


def test_rules_that_nobody_confirms_are_taken_back_to_what_was_there(tmp_path: Path, node: NodePaths) -> None:
    first, second = both_rules()
    fire = f"sh {tmp_path}/armed"
    show = f"{NFT} list table inet rpicluster 2>/dev/null | grep -o '192.168.1.[17][27]' || echo none"
    said = scripted(
        tmp_path,
        *(piped(firewall_scripts.apply_script(node, first)), show, fire, show),
        *(piped(firewall_scripts.apply_script(node, first)), piped(firewall_scripts.confirm_script(node))),
        *(piped(firewall_scripts.apply_script(node, second)), show),
        # A second try before the first one's time is over: what counts as before is still the confirmed one.
        *(piped(firewall_scripts.apply_script(node, second)), fire, show),
    )
    assert said.split() == ["192.168.1.12", "none", "192.168.1.77", "192.168.1.12"]
    assert Path(f"{node.conf}/firewall.nft").read_bytes() == first, "a reboot loads what was confirmed"


def test_rules_that_are_confirmed_stay_and_come_back_at_boot(tmp_path: Path, node: NodePaths) -> None:
    first, second = both_rules()
    said = scripted(
        tmp_path,
        *(piped(firewall_scripts.apply_script(node, first)), piped(firewall_scripts.confirm_script(node))),
        *(piped(firewall_scripts.apply_script(node, second)), piped(firewall_scripts.confirm_script(node))),
        f"test ! -e {tmp_path}/armed",
        f"{NFT} list table inet rpicluster | grep -o '192.168.1.77'",
    )
    assert said.strip() == "192.168.1.77"
    assert Path(f"{node.conf}/firewall.nft").read_bytes() == second
    assert "systemctl enable --quiet rpicluster-firewall.service" in (tmp_path / "calls").read_text()


def test_a_confirmation_that_comes_too_late_says_so(tmp_path: Path, node: NodePaths) -> None:
    first, _ = both_rules()
    late = piped(firewall_scripts.confirm_script(node)).replace("sh -s", "! sh -s 2>&1", 1)
    said = scripted(tmp_path, piped(firewall_scripts.apply_script(node, first)), f"sh {tmp_path}/armed", late)
    assert "taken back before it was confirmed" in said
    assert not Path(f"{node.conf}/firewall.nft").exists()


def test_rules_that_do_not_load_change_nothing_and_arm_nothing(tmp_path: Path, node: NodePaths) -> None:
    broken = piped(firewall_scripts.apply_script(node, b"table inet rpicluster { nonsense }\n"))
    scripted(
        tmp_path, broken.replace("sh -s", "! sh -s 2>/dev/null", 1), f"! {NFT} list table inet rpicluster"
    )
    assert not (tmp_path / "armed").exists()


def test_rules_cannot_end_the_script_that_carries_them(node: NodePaths) -> None:
    with pytest.raises(ValueError, match="wrote"):
        firewall_scripts.apply_script(node, b"a\nEND-OF-RULES\nrm -rf /\n")
