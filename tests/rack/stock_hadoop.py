"""Hadoop and Spark as they come, on one machine beside the rack: what strangers can do when nobody cared.

Every setting is Hadoop's and Spark's own but those without which nothing runs on one small machine:
`fs.defaultFS`, the queue of Hadoop's own capacity-scheduler.xml with room for two applications, Spark's
jars where they stand. It runs as `nobody` in a namespace whose /tmp, /etc/hosts and runtime are its own.
"""

import json
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neighbours import Neighbour
from rack_tools import wait_for

from rpicluster.design.session_files import MODULE_FLAGS

USER = "nobody"
KEEP = """
from pathlib import Path
from rpicluster.services.connect.session import ConnectSession
session = ConnectSession(port=15002, token=None, proto_path=Path({proto!r}), user={user!r}, namespace=None)
session.sql("CACHE TABLE kept AS SELECT id FROM range(1000)").rows()
"""
CONTENT = "what nobody else should read"
PRIVATE, DOOMED, DOOMED_BY_RPC = "/private/secret", "/private/doomed", "/private/doomed-by-rpc"
RUNTIME = "/mnt"
LOG4J = """\
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %p %c{1}: %m%n
"""
CLASSES = {
    "namenode": "org.apache.hadoop.hdfs.server.namenode.NameNode",
    "datanode": "org.apache.hadoop.hdfs.server.datanode.DataNode",
    "resourcemanager": "org.apache.hadoop.yarn.server.resourcemanager.ResourceManager",
    "nodemanager": "org.apache.hadoop.yarn.server.nodemanager.NodeManager",
}


def site_xml(settings: dict[str, str]) -> str:
    properties = (f"<property><name>{k}</name><value>{v}</value></property>" for k, v in settings.items())
    return f"<configuration>{''.join(properties)}</configuration>\n"


@dataclass
class JavaBeside:
    """Java programs of the runtime on a neighbour: as `nobody`, with a /tmp and a host name of their own."""

    neighbour: Neighbour
    folder: Path  # becomes /tmp in there
    runtime: Path
    java: str
    hosts: str
    conf: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        (self.folder / "conf").mkdir(parents=True)
        (self.folder / "home").mkdir()
        (self.folder / "hosts").write_text(self.hosts)
        for name, text in {"log4j2.properties": LOG4J, **self.conf}.items():
            (self.folder / "conf" / name).write_text(text)
        for path in (self.folder, *self.folder.rglob("*")):
            path.chmod(0o777)

    def command(self, main: str, *arguments: str, heap_mib: int = 256, jars: str = "hadoop") -> list[str]:
        """Return the command of a program; mounts and the name are the process's own and go with it."""
        mounts = (
            'mount --bind "$1/hosts" /etc/hosts && mount --bind "$2" /mnt && mount --bind "$1" /tmp && '
            'hostname "$3" && shift 3 && exec setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"'
        )
        flags = [
            f"-Xmx{heap_mib}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dyarn.log.dir=/tmp/logs",
        ]
        modules = MODULE_FLAGS if jars == "jars" else ()
        return [
            *("unshare", "--mount", "--uts", "sh", "-c", mounts, "sh"),
            *(str(self.folder), str(self.runtime), self.neighbour.name),
            *(f"{self.java}/bin/java", *flags, *modules, "-cp", f"/tmp/conf:{RUNTIME}/{jars}/*", main),
            *arguments,
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "JAVA_HOME": self.java,
            "HADOOP_CONF_DIR": "/tmp/conf",
            "SPARK_HOME": RUNTIME,
            "HOME": "/tmp/home",
            "USER": USER,
        }

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.out"

    def start(self, name: str, main: str, *arguments: str, **options: Any) -> None:
        command = self.command(main, *arguments, **options)
        self.neighbour.start(command, self.log(name), self.environment)

    def run(self, main: str, *arguments: str) -> str:
        done = self.neighbour.run(*self.command(main, *arguments), environment=self.environment)
        assert done.returncode == 0, f"{main}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


@dataclass
class Stock:
    """A stock NameNode, DataNode, ResourceManager, NodeManager, and a Spark Connect server on them."""

    there: JavaBeside
    application: str = ""

    @property
    def address(self) -> str:
        return self.there.neighbour.v4

    def get(self, port: int, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
        """Ask one of its daemons, as its owner would."""
        url = path if path.startswith("http:") else f"http://{self.address}:{port}{path}"
        url = url.replace(f"//{self.there.neighbour.name}:", f"//{self.address}:")
        request = urllib.request.Request(url, body, method=method)
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=20) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 307:
                return self.get(port, error.headers["Location"], method, body)
            raise

    def answers(self, port: int, path: str, right: Callable[[Any], bool]) -> bool:
        try:
            return right(json.loads(self.get(port, path)))
        except (OSError, ValueError, LookupError):
            return False

    def start(self) -> None:
        """Start everything and wait until it answers."""
        there = self.there
        there.prepare()
        there.run(CLASSES["namenode"], "-format", "-nonInteractive")
        for name, main in CLASSES.items():
            there.start(name, main)
        self._wait(
            "a DataNode", 9870, "/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState", _one_datanode
        )
        self._wait("a NodeManager", 8088, "/ws/v1/cluster/metrics", _one_nodemanager)
        for path in (PRIVATE, DOOMED, DOOMED_BY_RPC):
            where = f"/webhdfs/v1{path}?op=CREATE&user.name={USER}&permission=600"
            self.get(9870, where, "PUT", CONTENT.encode())
        (there.folder / "served.txt").write_text(CONTENT)
        (there.folder / "served.txt").chmod(0o644)
        there.start(
            "spark",
            "org.apache.spark.deploy.SparkSubmit",
            *(
                "--master",
                "yarn",
                "--num-executors",
                "1",
                "--conf",
                f"spark.yarn.jars=local:{RUNTIME}/jars/*",
            ),
            *("--conf", "spark.files=/tmp/served.txt", "--conf", "spark.driver.memory=512m"),
            *("--conf", "spark.executor.memory=512m"),
            *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
            heap_mib=512,
            jars="jars",
        )
        self._wait(
            "Spark's application", 8088, "/ws/v1/cluster/apps?states=RUNNING", lambda found: found["apps"]
        )
        running = json.loads(self.get(8088, "/ws/v1/cluster/apps?states=RUNNING"))["apps"]["app"]
        self.application = running[0]["id"]
        self._wait("an executor", 8088, f"{self.about}/executors", _one_executor)
        wait_for("Spark Connect", lambda: _listens(self.address, 15002), 120)

    @property
    def about(self) -> str:
        """The driver's own REST pages, through YARN's proxy."""
        return f"/proxy/{self.application}/api/v1/applications/{self.application}"

    def _wait(self, what: str, port: int, path: str, right: Callable[[Any], bool]) -> None:
        try:
            wait_for(what, lambda: self.answers(port, path, right), 180)
        except AssertionError as error:
            logs = "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in self.there.folder.glob("*.out"))
            raise AssertionError(f"{error}\n{logs}") from None

    def target(self) -> dict[str, Any]:
        """Return what the probes need to know; a stranger learns it from the pages themselves."""
        self.keep_a_block()
        settings = dict(json.loads(self.get(8088, f"{self.about}/environment"))["sparkProperties"])
        fsck = f"/fsck?ugi={USER}&path={PRIVATE}&files=1&blocks=1"
        return {
            "hosts": dict.fromkeys(("nn", "dn", "rm", "nm", "driver", "executor"), self.address),
            "superuser": USER,
            "yarn_user": USER,
            "private": PRIVATE,
            "doomed": DOOMED,
            "doomed_by_rpc": DOOMED_BY_RPC,
            "content": CONTENT,
            "block": block_of(self.get(9870, fsck).decode()),
            "command": "touch /tmp/stranger-was-here",
            "connect": 15002,
            "ui": 4040,
            "driver": int(settings["spark.driver.port"]),
            "driver_file": "/files/served.txt",
            **cached_block(lambda path: json.loads(self.get(8088, self.about + path))),
        }

    def keep_a_block(self) -> None:
        """Have an executor keep a table in memory; our own client asks for it, from beside the server."""
        proto = self.there.runtime / "connect"
        script = f"import sys; sys.path[:0] = {sys.path!r}\n" + KEEP.format(proto=str(proto), user=USER)
        done = self.there.neighbour.run(sys.executable, "-c", script)
        assert done.returncode == 0, done.stderr


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 2).close()
    except OSError:
        return False
    return True


def _one_datanode(found: Any) -> bool:
    return bool(found["beans"][0]["NumLiveDataNodes"] == 1)


def _one_nodemanager(found: Any) -> bool:
    return bool(found["clusterMetrics"]["activeNodes"] == 1)


def _one_executor(found: Any) -> bool:
    return any(each["id"] != "driver" for each in found)


def cached_block(about: Callable[[str], Any]) -> dict[str, Any]:
    """Return a block that an executor keeps, with its address, from the driver's own REST pages."""
    deadline = time.monotonic() + 60
    while True:
        executors = {each["id"]: each["hostPort"] for each in about("/executors")}
        for kept in about("/storage/rdd"):
            for part in about(f"/storage/rdd/{kept['id']}")["partitions"]:
                for holder in part["executors"]:
                    if holder in executors and holder != "driver":
                        return {
                            "cached": part["blockName"],
                            "executor": int(executors[holder].rpartition(":")[2]),
                            "executor_host": executors[holder].rpartition(":")[0],
                        }
        assert time.monotonic() < deadline, "no executor keeps a block"
        time.sleep(0.5)


def block_of(fsck: str) -> dict[str, Any]:
    """Return a file's first block from what `fsck` prints."""
    found = re.search(r"(BP-[\w.:-]+):blk_(\d+)_(\d+) len=(\d+)", fsck)
    assert found, fsck
    pool, number, generation, count = found.groups()
    return {"pool": pool, "id": int(number), "generation": int(generation), "bytes": int(count)}


def stock_beside(bridge: str, folder: Path, runtime: Path, java: str, number: int, stranger: str) -> Stock:
    """Make a neighbour for stock daemons; `stranger` is known there by name, as in a network with DNS."""
    neighbour = Neighbour.beside(bridge, "hpstock", number)
    hosts = f"127.0.0.1 localhost\n{neighbour.v4} {neighbour.name}\n{stranger} stranger\n"
    queue = "yarn.scheduler.capacity"
    conf = {
        "core-site.xml": site_xml({"fs.defaultFS": f"hdfs://{neighbour.name}:8020"}),
        "capacity-scheduler.xml": site_xml(
            {
                f"{queue}.root.queues": "default",
                f"{queue}.root.default.capacity": "100",
                f"{queue}.maximum-am-resource-percent": "0.5",
            }
        ),
    }
    return Stock(JavaBeside(neighbour, folder, runtime, java, hosts, conf))
