"""Who gets what from a cluster: a stranger on the same cable, an ordinary login of a node, the tunnel user.

Every probe is first asked of stock daemons on the same cable: a probe that fails there proves nothing here.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
from members import GUEST, Owned
from neighbours import Neighbour
from rack_tools import RackUnderTest, wait_for
from socks import SocksRefused, through_socks
from stock_hadoop import CLASSES, CONTENT, JavaBeside, Stock, block_of, cached_block, site_xml, stock_beside
from strangers_table import write_page

import rpicluster.session.keeper
from rpicluster.design import layout
from rpicluster.nodes.local.facts import find_java
from rpicluster.runtime import store

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

NAME = "foes"
BRIDGE = f"rp-{NAME}"
NODES = ("pi1", "pi2", "pi3")
KEPT = "CACHE TABLE kept AS SELECT id FROM range(1000)"
PRIVATE, DOOMED, DOOMED_BY_RPC = "/private/secret", "/private/doomed", "/private/doomed-by-rpc"
TRIED = "/tmp/stranger-was-here"
# What stock daemons open on IPv6 by themselves: the rest listens on the address that `fs.defaultFS` leads to.
ON_IPV4_ALONE = ("NameNode's RPC", "Driver:", "Executor:", "YARN: refresh")
# The rest of the probes' answers for somebody who is let through to the ports, but is nobody there.
SHUT_BY_SETTINGS = ("YARN: ask for a new application", "YARN: run a command as an application")
Answers = dict[str, list[Any]]


@dataclass
class Scene:
    """A cluster of ours, stock daemons, and a stranger beside them."""

    owned: Owned
    stock: Stock
    stranger: Neighbour
    folder: Path
    program: Path
    target: dict[str, Any]  # of ours: the stranger is told everything
    stock_target: dict[str, Any]
    answers: dict[str, Answers] = field(default_factory=dict)

    def ask(self, target: dict[str, Any]) -> Answers:
        done = self.stranger.run("/usr/bin/python3", str(self.program), "try", json.dumps(target))
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def ask_as(self, login: str, node: str) -> Answers:
        java = self.owned.rack.ssh(node, "bash", "-lc", "'echo $JAVA_HOME'")
        target = {
            **self.target,
            "java": f"{java}/bin/java",
            "classpath": "/etc/rpicluster/hadoop:/opt/rpicluster/runtime/hadoop/*",
        }
        words = ("python3", "/tmp/probes.pyz", "try", json.dumps(target))
        if login == GUEST:
            done = self.owned.as_guest(node, *words)
            assert done.returncode == 0, done.stderr
            return dict(json.loads(done.stdout))
        script = f'sudo -u {login} python3 /tmp/probes.pyz try "$(cat)"'
        return dict(json.loads(self.owned.rack.ssh(node, script, stdin=json.dumps(target), timeout=180)))

    def scan(self, address: str) -> dict[str, list[int]]:
        done = self.stranger.run("/usr/bin/python3", str(self.program), "scan", address)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


def probe_program(path: Path) -> Path:
    """Write the probes as one file that any Python runs; the keeper's HTTP/2 comes along."""
    keeper = Path(rpicluster.session.keeper.__file__).parent
    with zipfile.ZipFile(path, "w") as archive:
        for file in (Path(__file__).parent / "probes").glob("*.py"):
            archive.write(file, file.name)
        for file in keeper.glob("*.py"):
            archive.write(file, f"keeper/{file.name}")
    path.chmod(0o644)
    return path


def our_target(owned: Owned) -> dict[str, Any]:
    """Make what a stranger would like to have, and tell where all of it is."""
    cluster = owned.facade
    cluster.session().sql(KEPT).rows()
    manager = owned.addresses["pi1"][0]
    namenode, page = f"http://{manager}:9870", f"http://{manager}:4040"
    for path in (PRIVATE, DOOMED, DOOMED_BY_RPC):
        where = f"{namenode}/webhdfs/v1{path}?op=CREATE&user.name={layout.HDFS_USER}&permission=600"
        owned.get(where, "PUT", CONTENT.encode())
    fsck = owned.get(f"{namenode}/fsck?ugi={layout.HDFS_USER}&path={PRIVATE}&files=1&blocks=1").decode()
    application = json.loads(owned.get(f"{page}/api/v1/applications"))[0]["id"]
    kept = cached_block(lambda path: json.loads(owned.get(f"{page}/api/v1/applications/{application}{path}")))
    worker = kept["executor_host"]
    manager_ports = cluster.placement.nodes["pi1"].ports
    return {
        "hosts": {
            "nn": manager,
            "rm": manager,
            "driver": manager,
            "dn": worker,
            "nm": worker,
            "executor": worker,
        },
        "superuser": layout.HDFS_USER,
        "yarn_user": layout.YARN_USER,
        "private": PRIVATE,
        "doomed": DOOMED,
        "doomed_by_rpc": DOOMED_BY_RPC,
        "content": CONTENT,
        "block": block_of(fsck),
        "command": f"touch {TRIED}",
        "connect": manager_ports["connect"],
        "ui": manager_ports["spark_ui"],
        "driver": manager_ports["spark_driver"],
        "driver_file": "/files/served.txt",
        **kept,
    }


@pytest.fixture(scope="module")
def scene(
    make_rack: Callable[[str], RackUnderTest],
    runtime: store.Runtime,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    folder = Path("/tmp") / f"strangers-{tmp_path_factory.getbasetemp().name}"  # `nobody` must get into it
    with opened(make_rack(NAME), runtime.path, folder) as scene:
        yield scene


@contextmanager
def opened(rack: RackUnderTest, runtime: Path, folder: Path) -> Iterator[Scene]:
    """Bring up a cluster on a rack, and stock daemons beside it; take all of it away again."""
    java = find_java().home
    rack.run("up", "--nodes", "4G,2G,2G")
    folder.mkdir(mode=0o755)
    stranger = Neighbour.beside(BRIDGE, "hpstranger", 201)
    stock = stock_beside(BRIDGE, folder / "stock", runtime, java, 200, stranger.v4)
    owned = Owned(rack)
    try:
        with ThreadPoolExecutor() as beside:
            started = beside.submit(stock.start)
            owned.rpicluster("up", "--yes")
            started.result()
        owned.make_guest()
        program = probe_program(folder / "probes.pyz")
        for node in NODES:
            line = ["ssh", "-F", str(rack.directory / "ssh_config"), node, "cat >/tmp/probes.pyz"]
            subprocess.run(line, input=program.read_bytes(), check=True, timeout=60)
        (folder / "conf").mkdir()
        (folder / "conf" / "core-site.xml").write_text(site_xml({}))
        words = {"java": f"{java}/bin/java", "classpath": f"{folder}/conf:{runtime}/hadoop/*"}
        ours, theirs = our_target(owned) | words, stock.target() | words
        yield Scene(owned, stock, stranger, folder, program, ours, theirs)
        owned.facade.site.tunnel.close()  # type: ignore[union-attr]
        owned.rpicluster("destroy", "--confirm", NAME)
    finally:
        stock.there.neighbour.end()
        stranger.end()
        shutil.rmtree(folder)


def test_a_stranger_finds_ssh_only_on_every_node_on_ipv4_and_ipv6(scene: Scene) -> None:
    daemons = {"pi1": {8020, 8088, 9870}, "pi2": {8042, 9866}, "pi3": {8042, 9866}}
    there = scene.stock.there.neighbour
    asked = [("stock", there.v4), ("stock", there.v6)]
    for node, known in scene.owned.addresses.items():
        asked += [(node, address) for address in (*known, link_local(scene.owned, node))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: scene.scan(each[1]), asked))
    for (node, address), ports in zip(asked, found, strict=True):
        if node == "stock":
            assert {8088, 9866, 9870, 15002} <= set(ports["open"]), f"{address}: {ports}"
            continue
        assert ports["open"] == [22], f"{node} at {address}: {ports}"
        # On the address where daemons listen they are there, and keep silent.
        assert daemons[node] <= set(ports["silent"])


def link_local(owned: Owned, node: str) -> str:
    """Return the address that every IPv6 machine has, as the stranger writes it."""
    show = ("ip", "-json", "-6", "address", "show", "dev", "host0", "scope", "link")
    known = json.loads(owned.rack.ssh(node, *show))
    return next(a["local"] for each in known for a in each.get("addr_info", ()) if "local" in a) + "%eth0"


def test_nothing_of_the_cluster_listens_on_udp(scene: Scene) -> None:
    for node in NODES:
        listening = scene.owned.rack.ssh(node, "sudo", "ss", "-Hulnp")
        assert "java" not in listening and "python" not in listening, listening


def test_what_a_stranger_gets_from_stock_daemons_is_refused_here(scene: Scene) -> None:
    stock = scene.answers["stock"] = scene.ask(scene.stock_target)
    assert {name: answer for name, (got, answer) in stock.items() if not got} == {}, (
        "a probe that proves nothing"
    )
    assert (scene.folder / "stock" / Path(TRIED).name).exists()
    ours = scene.answers["a stranger"] = scene.ask(scene.target)
    assert set(ours) == set(stock), set(ours) ^ set(stock)
    assert {
        name: answer for name, (got, answer) in ours.items() if got or answer not in ("silence", "refused")
    } == {}


def test_the_same_holds_on_ipv6(scene: Scene) -> None:
    target = dict(scene.stock_target)
    target["hosts"] = dict.fromkeys(target["hosts"], scene.stock.there.neighbour.v6)
    target["doomed"] = "/written-by-a-stranger"
    target["probes"] = [name for name in scene.answers["stock"] if not name.startswith(ON_IPV4_ALONE)]
    stock = scene.answers["stock, IPv6"] = scene.ask(target)
    assert {name: answer for name, (got, answer) in stock.items() if not got} == {}, (
        "a probe that proves nothing"
    )
    six = dict(scene.owned.addresses.values())
    target = {**scene.target, "hosts": {each: six[four] for each, four in scene.target["hosts"].items()}}
    target["probes"] = list(stock)
    ours = scene.answers["a stranger, IPv6"] = scene.ask(target)
    assert {
        name: answer for name, (got, answer) in ours.items() if got or answer not in ("silence", "refused")
    } == {}


@pytest.mark.parametrize("node", ["pi1", "pi2"])
def test_an_ordinary_login_of_a_node_is_refused_the_same(scene: Scene, node: str) -> None:
    got = scene.answers[f"a login of {node}"] = scene.ask_as(GUEST, node)
    assert set(got) == set(scene.answers["stock"])
    assert {name: answer for name, (ok, answer) in got.items() if ok or answer != "refused"} == {}


def test_an_ordinary_login_reaches_no_socket_of_the_cluster_on_its_own_node(scene: Scene) -> None:
    for node in NODES:
        sockets = cluster_sockets(scene.owned, node)
        assert len(sockets) >= 4, sockets
        words = [word for address, port in sockets for word in (address, str(port))]
        as_root = scene.owned.rack.ssh(node, "sudo", "python3", "/tmp/probes.pyz", "reach", *words)
        done = scene.owned.as_guest(node, "python3", "/tmp/probes.pyz", "reach", *words)
        assert set(json.loads(as_root)) == {"open"}, dict(zip(sockets, json.loads(as_root), strict=True))
        reached = dict(zip(sockets, json.loads(done.stdout), strict=True))
        assert set(reached.values()) == {"refused"}, f"{node}: {reached}"


def cluster_sockets(owned: Owned, node: str) -> list[tuple[str, int]]:
    """Return where daemons, sessions and containers listen on a node, from the kernel's own list."""
    found = []
    for line in owned.rack.ssh(node, "sudo", "ss", "-Htlnp").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if "sshd" in line or "systemd" in line:
            continue
        plain = address.strip("[]").removeprefix("::ffff:").partition("%")[0]
        found.append((owned.addresses[node][0] if plain in ("*", "0.0.0.0", "::") else plain, int(port)))
    return sorted(set(found))


def test_forwards_of_an_ordinary_login_end_nowhere(scene: Scene) -> None:
    manager, worker = scene.owned.addresses["pi1"][0], scene.owned.addresses["pi2"][0]
    wanted = [(manager, 9870), (manager, 8088), (worker, 9864), (worker, 8042), ("127.0.0.1", 15002)]
    for node in ("pi1", "pi2"):
        with forwarding(scene, node, login=GUEST) as port:
            # The way works: it leads to a machine that guards nothing.
            assert b"200" in through_socks(port, scene.stock.address, 8088, "/ws/v1/cluster/info")[:20]
            for host, number in wanted:
                if (node, host) == ("pi2", "127.0.0.1"):
                    continue
                with pytest.raises(SocksRefused):
                    through_socks(port, host, number, "/jmx")
        for host, number in wanted[:2]:
            with forwarding(scene, node, login=GUEST, to=(host, number)) as port, pytest.raises(OSError):
                answer_of(port)


@contextmanager
def forwarding(
    scene: Scene, node: str, *, login: str, to: tuple[str, int] | None = None, key: Path | None = None
) -> Iterator[int]:
    """Open ssh -D, or ssh -L to a place, and give its local port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    way = ["-L", f"127.0.0.1:{port}:{to[0]}:{to[1]}"] if to else ["-D", f"127.0.0.1:{port}"]
    identity = ["-i", str(key), "-o", "IdentitiesOnly=yes"] if key else []
    line = ["ssh", "-F", str(scene.owned.rack.directory / "ssh_config"), "-o", "BatchMode=yes", *identity]
    process = subprocess.Popen(
        [*line, "-o", "ExitOnForwardFailure=yes", "-N", *way, "-l", login, node],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for("the forward", lambda: process.poll() is not None or listens(port), 30)
        assert process.poll() is None, f"ssh ended with {process.returncode}"
        yield port
    finally:
        process.kill()
        process.wait(20)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def answer_of(port: int) -> bytes:
    """Return what a forward answers to a request; raises OSError when it is closed without an answer."""
    with socket.create_connection(("127.0.0.1", port), 10) as wire:
        wire.sendall(b"GET /jmx HTTP/1.0\r\n\r\n")
        said = wire.recv(100)
        if not said:
            raise ConnectionResetError("closed")
        return said


def test_the_tunnel_user_has_a_key_listed_ports_and_nothing_else(scene: Scene) -> None:
    key = scene.owned.facade.site.state.tunnel_key  # type: ignore[union-attr]
    tunnel, manager = layout.TUNNEL_USER, scene.owned.addresses["pi1"][0]

    def tried(*words: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        identity = ("-i", str(key), "-o", "IdentitiesOnly=yes", "-l", tunnel, *options)
        config = str(scene.owned.rack.directory / "ssh_config")
        return subprocess.run(
            ["ssh", "-F", config, "-o", "BatchMode=yes", *identity, "pi1", *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    for words, options in (
        (("id",), ()),
        ((), ("-tt",)),
        (("sftp",), ("-s",)),
        (("id",), ("-o", "PubkeyAuthentication=no")),
    ):
        done = tried(*words, options=options)
        assert done.returncode != 0 and "uid=" not in done.stdout, (words, options, done.stdout)
    no_key = tried("id", options=("-o", "PubkeyAuthentication=no", "-o", "PasswordAuthentication=yes"))
    assert "Permission denied (publickey)" in no_key.stderr
    backwards = tried(options=("-N", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:7777:127.0.0.1:22"))
    assert backwards.returncode != 0 and "remote port forwarding failed" in backwards.stderr
    refused = [(manager, 8020), (manager, 8032), (manager, 22), ("127.0.0.1", 22), ("127.0.0.1", 9863)]
    refused += [(scene.owned.addresses["pi2"][0], port) for port in (22, 9866, 45454)]
    refused += [(scene.stock.address, 8088)]
    with forwarding(scene, "pi1", login=tunnel, key=key) as port:
        for host, number in ((manager, 9870), (manager, 8088), (scene.owned.addresses["pi2"][0], 8042)):
            assert b" 200 " in through_socks(port, host, number, "/jmx")[:20]
        for host, number in refused:
            with pytest.raises(SocksRefused):
                through_socks(port, host, number, "/")


def test_spark_connect_wants_the_right_token_where_it_is_reached(scene: Scene) -> None:
    scene.owned.facade.open_door()
    port = scene.target["connect"]
    wanted = [name for name in scene.answers["stock"] if name.startswith("Spark Connect")]
    target = {**scene.target, "hosts": {"driver": "127.0.0.1"}, "probes": wanted, "connect": port}
    done = subprocess.run(
        ["/usr/bin/python3", str(scene.program), "try", json.dumps(target)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    answers = scene.answers["through the tunnel"] = dict(json.loads(done.stdout))
    assert {name: got for name, (got, _) in answers.items()} == dict.fromkeys(wanted, False)
    assert all("oken" in answer for _, answer in answers.values()), answers
    assert scene.owned.facade.check_door()["spark_version"]


def test_daemons_that_are_not_on_the_list_are_turned_away(scene: Scene) -> None:
    """With the firewall out of the stranger's way: the list is a door of its own."""
    manager, address = scene.owned.addresses["pi1"][0], scene.stranger.v4
    element = f"inet rpicluster members4 '{{ {address} }}'"
    scene.owned.rack.ssh("pi1", f"sudo nft add element {element}")
    try:
        for whose, namenode, resourcemanager in (
            ("stock", f"hdfs://{scene.stock.address}:8020", scene.stock.address),
            ("ours", f"hdfs://{manager}:8020", manager),
        ):
            said = rogue_daemons(scene, whose, namenode, resourcemanager)
            joined = {
                "NodeManager": "Registered with ResourceManager" in said["nodemanager"],
                "DataNode": "successfully registered with NN" in said["datanode"],
            }
            for daemon, is_in in joined.items():
                name = f"{daemon} of a stranger: join the cluster"
                refusal = "not on the list (let through the firewall for this)"
                scene.answers.setdefault(whose + " daemons", {})[name] = [
                    is_in,
                    "joined" if is_in else refusal,
                ]
                assert is_in == (whose == "stock"), said
            if whose == "ours":
                assert "Disallowed NodeManager" in said["nodemanager"]
                assert "DisallowedDatanodeException" in said["datanode"] or "denied" in said["datanode"]
    finally:
        scene.owned.rack.ssh("pi1", f"sudo nft delete element {element}")


def rogue_daemons(scene: Scene, whose: str, namenode: str, resourcemanager: str) -> dict[str, str]:
    """Start a NodeManager and a DataNode of the stranger's own, and return what they said of joining."""
    conf = {
        "core-site.xml": site_xml({"fs.defaultFS": namenode, "hadoop.tmp.dir": f"/tmp/{whose}"}),
        "yarn-site.xml": site_xml(
            {"yarn.resourcemanager.hostname": resourcemanager, "yarn.nodemanager.hostname": scene.stranger.v4}
        ),
        "hdfs-site.xml": site_xml({"dfs.datanode.hostname": scene.stranger.v4}),
    }
    hosts = f"127.0.0.1 localhost\n{scene.stranger.v4} hpstranger\n{scene.stock.address} hpstock\n"
    there = scene.stock.there
    own = JavaBeside(scene.stranger, scene.folder / f"rogue-{whose}", there.runtime, there.java, hosts, conf)
    own.prepare()
    ends = {
        "nodemanager": r"Registered with ResourceManager|Disallowed NodeManager",
        "datanode": r"successfully registered with NN|DisallowedDatanodeException|denied communication",
    }
    for name in ends:
        own.start(name, CLASSES[name])
    try:
        for name, end in ends.items():
            wait_for(f"an answer to {name}", lambda n=name, e=end: re.search(e, own.log(n).read_text()), 120)
    finally:
        for process in scene.stranger.started:
            process.kill()
            process.wait(20)
    return {name: own.log(name).read_text() for name in ends}


def test_every_page_and_its_links_load_through_the_one_connection(scene: Scene) -> None:
    document = json.loads(scene.owned.rpicluster("connect", "--pages", "--json"))
    port = int(document["proxy"].rpartition(":")[2])
    hosts = {four for four, _ in scene.owned.addresses.values()}

    def load(url: str) -> tuple[int, bytes]:
        return followed(port, url)

    manager = scene.owned.addresses["pi1"][0]
    application = json.loads(load(f"http://{manager}:4040/api/v1/applications")[1])[0]["id"]
    about = f"http://{manager}:4040/api/v1/applications/{application}"
    pages = [
        *document["pages"].values(),
        f"http://{manager}:8088/cluster/nodes",
        f"http://{manager}:8088/cluster/apps",
    ]
    pages += [f"http://{manager}:8088/proxy/{application}/jobs/", f"http://{manager}:9870/jmx"]
    pages += [
        f"http://{manager}:4040/{name}/" for name in ("stages", "storage", "environment", "executors", "SQL")
    ]
    for executor in json.loads(load(f"{about}/executors")[1]):
        pages += executor.get("executorLogs", {}).values()
    live = json.loads(load(f"http://{manager}:9870/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo")[1])
    nodes = json.loads(live["beans"][0]["LiveNodes"]).values()
    assert len(nodes) == 2
    pages += [f"http://{node['infoAddr']}/jmx" for node in nodes]
    workers = json.loads(load(f"http://{manager}:8088/ws/v1/cluster/nodes")[1])["nodes"]["node"]
    assert len(workers) == 2
    pages += [f"http://{node['nodeHTTPAddress']}/node" for node in workers]
    bad, links = {}, set()
    for page in pages:
        status, text = load(page)
        if status != 200 or len(text) < 200:
            bad[page] = status
        links |= links_of(page, text, hosts)
    for link in sorted(links - set(pages)):
        status, _ = load(link)
        # No directory of logs is served: `hadoop.log.dir` is not set.
        if status != (404 if urlsplit(link).path == "/logs" else 200):
            bad[link] = status
    assert not bad, bad
    assert len(links) > 60, links
    print(f"{len(pages)} pages, {len(links)} links of theirs")
    webhdfs = f"http://{manager}:9870/webhdfs/v1{PRIVATE}?op=OPEN&user.name={layout.HDFS_USER}"
    assert followed(port, webhdfs)[1].decode() == CONTENT


def links_of(page: str, text: bytes, hosts: set[str]) -> set[str]:
    """Return the addresses on a page that lead to the cluster."""
    found = set()
    for quoted in re.findall(rb"""(?:href|src)=\\?["']([^"'\\]+)""", text):
        link = urldefrag(urljoin(page, unescape(quoted.decode()))).url
        if urlsplit(link).scheme == "http" and urlsplit(link).hostname in hosts:
            found.add(link)
    return found


def followed(port: int, url: str) -> tuple[int, bytes]:
    """Return status and text of a page through the SOCKS proxy, after its redirects."""
    for _ in range(6):
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "") or "/"
        answer = through_socks(port, str(parts.hostname), parts.port or 80, path)
        head, _, text = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        moved = re.search(rb"(?im)^location: *(\S+)", head)
        if status not in (301, 302, 303, 307) or not moved:
            return status, text
        url = urljoin(url, moved[1].decode())
    return 310, b""


def test_a_web_page_in_the_browser_writes_nothing(scene: Scene) -> None:
    manager = scene.owned.addresses["pi1"][0]
    port = json.loads(scene.owned.rpicluster("connect", "--pages", "--json"))["proxy"].rpartition(":")[2]
    browser = "User-Agent: Mozilla/5.0\r\nOrigin: http://evil.example\r\nContent-Type: text/plain\r\n"
    for number, method, path in (
        (8088, "POST", "/ws/v1/cluster/apps/new-application"),
        (8088, "PUT", "/ws/v1/cluster/apps/application_1_0001/state"),
        (9870, "PUT", f"/webhdfs/v1/from-a-page?op=MKDIRS&user.name={layout.HDFS_USER}"),
        (9870, "DELETE", f"/webhdfs/v1{PRIVATE}?op=DELETE&user.name={layout.HDFS_USER}"),
    ):
        answer = through_socks(int(port), manager, number, path, method=method, headers=browser)
        assert int(answer.split()[1]) in (400, 403), (path, answer[:200])


def test_who_is_let_through_is_still_refused_what_is_shut(scene: Scene) -> None:
    """The probes, last of all, as the DataNode's user on a member: they find what they are told is there."""
    answers = scene.answers["rpi-hdfs of pi2"] = scene.ask_as(layout.HDFS_USER, "pi2")
    got = {name for name, (is_got, _) in answers.items() if is_got}
    assert {"WebHDFS: read a private file as the superuser", "DataNode: read a block"} <= got
    assert "NameNode's RPC: delete a file as the superuser, with Hadoop's client" in got
    for name in SHUT_BY_SETTINGS:
        assert answers[name] == [False, "NotGot: HTTP 403"]
    for name in ("Driver: fetch a file that it serves", "Executor: fetch a cached block"):
        assert not answers[name][0], "spark.authenticate is on"
    write_page(scene.answers, scene.owned)


def test_rules_that_would_lock_everybody_out_are_taken_back(scene: Scene) -> None:
    rack = scene.owned.rack
    before = {node: rack.ssh(node, "sudo", "nft", "list", "table", "inet", "rpicluster") for node in NODES}
    script = """
import sys
from rpicluster.design import firewall
honest = firewall._input
firewall._input = lambda inputs, name: [
    line.replace("iifname", "tcp dport 22 drop; iifname", 1) if 'iifname "lo"' in line else line
    for line in honest(inputs, name)
]
from rpicluster.__main__ import main
sys.argv[1:] = ["up", "--yes", "--cluster", sys.argv[1]]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(rack.directory / "cluster.yml")],
        env=rack.environment,
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode not in (0, 3), done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    wait_for("SSH on all nodes", lambda: all(rack.ssh_raw(n, "true").returncode == 0 for n in NODES), 150)
    after = {node: rack.ssh(node, "sudo", "nft", "list", "table", "inet", "rpicluster") for node in NODES}
    assert [counted(text) for text in after.values()] == [counted(text) for text in before.values()]
    scene.owned.rpicluster("up", "--yes")
    assert scene.owned.rpicluster("plan", "--exit-code", code=0)


def counted(text: str) -> str:
    return re.sub(r"counter packets \d+ bytes \d+", "counter", text)
