"""Faults of a cluster that runs; those of one batch are independent.

What each shall be told as was written before doctor's answer was seen.
"""

import re

from bench import Bench, quoted
from making import (
    KILL,
    SIGNAL,
    STOP,
    TOKYO,
    UNREACHED,
    WALL,
    RackFault,
    Step,
    edited,
    fault,
    key_mode,
    moved,
    on,
    rack,
    run,
    shared_token,
    spec,
    unit,
)

RUNTIME = "/opt/rpicluster/runtime"
TOKEN = "/var/lib/rpicluster/session-pi/token"
JAVA = "/usr/lib/jvm/java-17-openjdk-amd64"
_WEBHDFS = """
import json, sys, urllib.error, urllib.request
class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_, **__): return None
def put(url, body=b""):
    request = urllib.request.Request(url, body, method="PUT")
    try:
        return urllib.request.build_opener(Stay).open(request, timeout=20).read()
    except urllib.error.HTTPError as error:
        if error.code == 307:
            return put(error.headers["Location"], body)
        raise
where = "http://{nn}:9870/webhdfs/v1/user/pi/spread?user.name=pi"
if sys.argv[1] == "more":
    put(where + "&op=CREATE&overwrite=true&replication=2", b"x" * 100000)
put(where + "&op=SETREPLICATION&replication=" + {{"more": "3", "less": "2"}}[sys.argv[1]])
"""


def hdfs_admin(*words: str) -> Step:
    """Return a step that asks the NameNode as its superuser."""
    line = (
        "cd / && exec setpriv --reuid=rpi-hdfs --regid=$(id -g rpi-hdfs) --clear-groups "
        f"{JAVA}/bin/java -Xmx64m -cp '/etc/rpicluster/hadoop:{RUNTIME}/hadoop/*' "
        f"org.apache.hadoop.hdfs.tools.DFSAdmin {' '.join(words)}"
    )
    return lambda bench: run(bench, "pi1", line)


def more_copies_than_nodes() -> tuple[Step, Step]:
    def ask(bench: Bench, how: str) -> None:
        script = _WEBHDFS.format(nn=bench.addresses["pi1"])
        bench.root("pi1", f"python3 -c {quoted(script)} {how}")

    return (lambda bench: ask(bench, "more")), (lambda bench: ask(bench, "less"))


def named_address() -> tuple[Step, Step]:
    """A NodeManager then calls itself by that name instead of its address: an `up` waited for it in vain."""

    def do(bench: Bench) -> None:
        line = f"1i {bench.addresses['pi2']} pi2"
        restart = "systemctl restart rpicluster-nodemanager"
        bench.root("pi2", f"cp -a /etc/hosts /root/hosts; sed -i {quoted(line)} /etc/hosts; {restart}")

    def undo(bench: Bench) -> None:
        bench.root("pi2", "cat /root/hosts >/etc/hosts; systemctl restart rpicluster-nodemanager")

    return do, undo


def another_address() -> tuple[Step, Step]:
    """DHCP has given pi3 another address, and its owner has put that into cluster.yml."""
    keep: list[str] = []

    def new(bench: Bench) -> str:
        return bench.addresses["pi3"].rpartition(".")[0] + ".93"

    def do(bench: Bench) -> None:
        _move(bench, bench.addresses["pi3"], new(bench))
        keep.append(bench.know_as("pi3", "pi3", new(bench)))
        config = bench.rack.directory / "ssh_config"
        keep.append(config.read_text())
        config.write_text(re.sub(re.escape(bench.addresses["pi3"]) + r"(?!\d)", new(bench), keep[-1]))
        bench.write(hosts={"pi3": new(bench)})

    def undo(bench: Bench) -> None:
        _move(bench, new(bench), bench.addresses["pi3"])
        (bench.rack.directory / "ssh_config").write_text(keep.pop())
        bench.know(keep.pop())
        bench.write()

    return do, undo


def _move(bench: Bench, old: str, new: str) -> None:
    gateway = old.rpartition(".")[0] + ".1"
    bench.root(
        "pi3",
        f"ip address del {old}/24 dev host0; ip address add {new}/24 dev host0; "
        f"ip route replace default via {gateway} dev host0",
    )


RUNNING: tuple[tuple[RackFault, ...], ...] = (
    (
        fault(
            "a file edited by hand",
            "a line in pi3's yarn-site.xml",
            "pi3",
            (r"yarn-site\.xml",),
            on("pi3", *edited("/etc/rpicluster/hadoop/yarn-site.xml", "1a<!-- by hand -->")),
        ),
        fault(
            "unit disabled",
            "`systemctl disable` of pi2's NodeManager, which runs on",
            "pi2",
            (r"nodemanager", r"disabled|not enabled|boot"),
            unit("pi2", "nodemanager", "systemctl disable {unit}", "systemctl enable {unit}"),
        ),
        fault(
            "token readable by others",
            "chmod o+r of the session's token on pi1, and of its folder",
            "pi1",
            (r"token|secret|session-pi", r"read|mode|permission|open|others"),
            on(
                "pi1",
                f"chmod o+rx $(dirname {TOKEN}); chmod o+r {TOKEN}",
                f"chmod 700 $(dirname {TOKEN}); chmod 600 {TOKEN}",
            ),
        ),
    ),
    (
        fault(
            "firewall gone",
            "`nft delete table inet rpicluster` on pi3",
            "pi3",
            (r"firewall|nft|rules|stranger|ports", r"gone|open|not|no\b|missing|anybody|strangers"),
            on("pi3", "nft delete table inet rpicluster", "systemctl restart rpicluster-firewall"),
        ),
        fault(
            "a file removed",
            "/etc/profile.d/rpicluster.sh is gone from pi2",
            "pi2",
            (r"rpicluster\.sh",),
            on("pi2", *moved("/etc/profile.d/rpicluster.sh")),
        ),
        fault(
            "own token readable by others",
            "chmod 644 of the token on this machine",
            "pi1",
            (r"token|secret", r"read|mode|permission|open|others"),
            shared_token(),
            anywhere=True,
        ),
    ),
    (
        fault(
            "too few copies",
            "a file shall have three copies, and there are two DataNodes",
            "pi1 pi2 pi3",
            (r"under-?replicat|too few|fewer|less|missing|copies|replica", r"block|cop(y|ies)|replica"),
            more_copies_than_nodes(),
            anywhere=True,
            settle_s=8.0,  # the NameNode counts such blocks every 3 s
        ),
    ),
    (
        fault(
            "NodeManager killed",
            "kill -9 on pi3, and systemd may not start it again",
            "pi3",
            (
                r"nodemanager",
                r"not run|stopped|dead|down|failed|inactive|lost|masked|killed|missing|start",
            ),
            unit("pi3", "nodemanager", *KILL),
        ),
        fault(
            "DataNode stopped",
            "`systemctl stop` on pi2",
            "pi2",
            (r"datanode", r"not run|stopped|dead|down|failed|inactive|missing|start"),
            unit("pi2", "datanode", *STOP),
        ),
    ),
    (
        fault(
            "safe mode",
            "`hdfs dfsadmin -safemode enter`, and forgotten",
            "pi1",
            (r"safe ?-?mode",),
            (hdfs_admin("-safemode", "enter"), hdfs_admin("-safemode", "leave")),
            anywhere=True,
        ),
        fault(
            "another runtime",
            "pi3's runtime link points at another version",
            "pi3",
            (r"runtime|version|software",),
            on(
                "pi3",
                f"readlink {RUNTIME} >/root/runtime; ln -sfn runtimes/0123456789abcdef {RUNTIME}",
                f"ln -sfn $(cat /root/runtime) {RUNTIME}",
            ),
        ),
        fault(
            "Java gone",
            "somebody removed Java from pi2, whose daemons still run",
            "pi2",
            (r"java",),
            on("pi2", f"mv {JAVA} /root/java", f"mv /root/java {JAVA}"),
        ),
    ),
    (
        fault(
            "daemon hangs",
            "pi3's NodeManager lives and does nothing: SIGSTOP, 40 s ago",
            "pi3",
            (r"nodemanager", r"lost|answer|silent|hang|heartbeat|heard|dead|stuck"),
            unit("pi3", "nodemanager", *SIGNAL),
            settle_s=40.0,
        ),
        fault(
            "session stopped",
            "`systemctl stop` of pi's session on pi1",
            "pi1",
            (r"session", r"not run|stopped|dead|down|failed|inactive|start|answer"),
            unit("pi1", "session-pi", *STOP),
        ),
        fault(
            "somebody else's wall",
            "a firewall on pi2 that lets only SSH in",
            "pi2",
            (r"firewall|nft|table|drop|reach|refus|block(s|ed)\b|closed",),
            on("pi2", WALL, "nft delete table inet mine"),
        ),
    ),
    (
        fault(
            "Java too old",
            "pi3's Java says that it is 11",
            "pi3",
            (r"java", r"\b11\b"),
            on("pi3", *edited(f"{JAVA}/release", 's/^JAVA_VERSION=.*/JAVA_VERSION="11.0.24"/')),
        ),
        fault(
            "a jar cut short",
            "half of the bytes of a jar of pi2's runtime are gone, as after a power cut",
            "pi2",
            (r"runtime|jar|mllib|software",),
            on(
                "pi2",
                f"cd {RUNTIME}/jars; set -- spark-mllib_*.jar; cp -a $1 /root/; truncate -s 4M $1",
                f"cd {RUNTIME}/jars; set -- spark-mllib_*.jar; cp -a /root/$1 $1; rm /root/$1",
            ),
        ),
        fault(
            "ResourceManager stopped",
            "`systemctl stop` on pi1",
            "pi1",
            (r"resourcemanager", r"not run|stopped|dead|down|failed|inactive|start|answer"),
            unit("pi1", "resourcemanager", *STOP),
            also=("pi2", "pi3"),
        ),
    ),
    (
        fault(
            "a node of the cluster is off",
            "pi3's power",
            "pi3",
            (UNREACHED,),
            rack("cut", "pi3", undo=("boot", "pi3")),
        ),
        fault(
            "settings writable by all",
            "chmod 666 of pi2's core-site.xml",
            "pi2",
            (r"core-site\.xml",),
            on(
                "pi2",
                "chmod 666 /etc/rpicluster/hadoop/core-site.xml",
                "chmod 644 /etc/rpicluster/hadoop/core-site.xml",
            ),
        ),
        fault(
            "hosts lines gone",
            "an upgrade wrote pi1's /etc/hosts anew",
            "pi1",
            (r"hosts",),
            on(
                "pi1",
                "cp -a /etc/hosts /root/hosts; sed -i '/rpicluster/,$d' /etc/hosts",
                "cat /root/hosts >/etc/hosts",
            ),
        ),
    ),
    (
        fault(
            "disk full in work",
            "100 MiB free on pi3",
            "pi3",
            (r"9\d ?%|full|\bfree\b", r"disk|/|card|file system"),
            rack("fill-disk", "pi3", "--leave", "100M", undo=("fill-disk", "pi3", "--undo")),
        ),
        fault(
            "NodeManager unhealthy",
            "it was started on that full disk",
            "pi3",
            (r"nodemanager|YARN", r"unhealthy|local-dirs|no containers|disk"),
            unit("pi3", "nodemanager", "systemctl restart {unit}", "systemctl restart {unit}"),
            settle_s=12.0,
        ),
        fault(
            "tunnel's rules gone",
            "sshd's drop-in for the tunnel is gone from pi1",
            "pi1",
            (r"sshd|sshd_config|tunnel",),
            on("pi1", *moved("/etc/ssh/sshd_config.d/rpicluster.conf")),
        ),
    ),
    (
        fault(
            "NameNode killed",
            "kill -9 on pi1, and systemd may not start it again",
            "pi1",
            (r"namenode", r"not run|stopped|dead|down|failed|inactive|masked|killed|start|answer"),
            unit("pi1", "namenode", *KILL),
            also=("pi2", "pi3"),
        ),
    ),
    (
        fault(
            "near miss: time zone, running",
            "pi2 moves to Tokyo",
            "pi2",
            (),
            on("pi2", *TOKYO),
        ),
        fault(
            "near miss: daemon restarted",
            "pi3's NodeManager was restarted 20 s ago",
            "pi3",
            (),
            unit("pi3", "nodemanager", "systemctl restart {unit}", "true"),
            settle_s=20.0,
        ),
        fault(
            "near miss: a file beside ours",
            "somebody's own file in pi1's /etc/rpicluster",
            "pi1",
            (),
            on("pi1", "echo mine >/etc/rpicluster/notes.txt", "rm /etc/rpicluster/notes.txt"),
        ),
    ),
    (
        fault(
            "near miss: a name for the address",
            "pi2's /etc/hosts, or a router's DNS, gives pi2's address a name; its NodeManager was restarted",
            "pi2",
            (),
            named_address(),
            settle_s=25.0,
        ),
    ),
    (
        fault(
            "address changed",
            "DHCP gave pi3 another address, and cluster.yml was edited",
            "pi3",
            (r"address", r"\.93\b|changed|another|new|other|differ"),
            another_address(),
        ),
    ),
    (
        fault(
            "key file readable by others",
            "chmod 644 of the owner's own SSH key",
            "pi1 pi2",
            (r"\bkey", r"read|permission|open|mode|others"),
            (lambda bench: key_mode(bench, 0o644), lambda bench: key_mode(bench, 0o600)),
            anywhere=True,
        ),
        fault(
            "host name that is none",
            "cluster.yml says pi3.invalid",
            "pi3",
            (r"pi3\.invalid", r"resolv|name|unknown|DNS|found|lead"),
            spec(hosts={"pi3": "pi3.invalid"}),
        ),
    ),
)
