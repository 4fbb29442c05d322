"""Faults for real nodes, before a cluster is there and in one that runs; those of one batch are independent.

What each shall be told as was written before doctor's answer was seen.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from bench import Bench, quoted
from judging import Expected

Step = Callable[[Bench], None]
UNREACHED = r"unreach|no answer|not answer|could not be (looked|reached)|timed? ?out|no route|refuse"


@dataclass(frozen=True)
class RackFault:
    """A fault with the way to make and to undo it; `settle_s` is how long it takes to show."""

    expected: Expected
    inject: Step
    undo: Step
    settle_s: float = 0.0


def on(node: str, do: str, undo: str) -> tuple[Step, Step]:
    """Return the two steps of a fault that is made by a script as root."""
    return (lambda bench: _run(bench, node, do)), (lambda bench: _run(bench, node, undo))


def _run(bench: Bench, node: str, script: str) -> None:
    bench.root(node, script)


def moved(path: str) -> tuple[str, str]:
    """Return the scripts that take a file away and bring it back."""
    return f"mv {path} {path}.away", f"mv {path}.away {path}"


def edited(path: str, sed: str) -> tuple[str, str]:
    return f"cp -a {path} /root/keep && sed -i {quoted(sed)} {path}", f"cat /root/keep > {path}"


def fault(
    name: str,
    story: str,
    nodes: str,
    says: tuple[str, ...],
    steps: tuple[Step, Step],
    *,
    note: bool = False,
    also: tuple[str, ...] = (),
    anywhere: bool = False,
    settle_s: float = 0.0,
) -> RackFault:
    expected = Expected(name, story, tuple(nodes.split()), says, note, also, anywhere)
    return RackFault(expected, *steps, settle_s)


def rack(*words: str, undo: tuple[str, ...]) -> tuple[Step, Step]:
    """Return steps that are commands of the rack."""

    def run(bench: Bench, command: tuple[str, ...]) -> None:
        bench.of_rack(*command)

    return (lambda bench: run(bench, words)), (lambda bench: run(bench, undo))


def keys_of_pi2_on_pi3() -> tuple[Step, Step]:
    """The card of pi3 is a copy of pi2's, and its owner has accepted its key as it is."""
    keep: list[str] = []

    def do(bench: Bench) -> None:
        key = bench.root("pi2", "tar -C /etc/ssh -c $(cd /etc/ssh && ls ssh_host_*) | base64 -w0")
        bench.root(
            "pi3",
            "mkdir /root/keys && cp -a /etc/ssh/ssh_host_* /root/keys/ && "
            f"echo {key} | base64 -d | tar -C /etc/ssh -x && systemctl reload ssh",
        )
        keep.append(bench.know_as("pi3", "pi2"))

    def undo(bench: Bench) -> None:
        bench.root("pi3", "cp -a /root/keys/* /etc/ssh/ && rm -r /root/keys && systemctl reload ssh")
        bench.know(keep.pop())

    return do, undo


def forgotten_key(node: str) -> tuple[Step, Step]:
    keep: list[str] = []
    return (
        (lambda bench: keep.append(bench.forget_key(node))),
        (lambda bench: _write_known(bench, keep.pop())),
    )


def _write_known(bench: Bench, text: str) -> None:
    bench.know(text)


def _key_mode(bench: Bench, mode: int) -> None:
    (bench.rack.directory / "id_ed25519").chmod(mode)


def spec(**changes: object) -> tuple[Step, Step]:
    return (lambda bench: bench.write(**changes)), (lambda bench: bench.write())


def stale_hosts_line() -> tuple[Step, Step]:
    def do(bench: Bench) -> None:
        old = bench.addresses["pi3"].rpartition(".")[0] + ".77"
        bench.root("pi2", f"cp -a /etc/hosts /root/hosts && sed -i '1i {old} pi3' /etc/hosts")

    return do, lambda bench: _run(bench, "pi2", "cat /root/hosts > /etc/hosts")


def loopback_name() -> tuple[Step, Step]:
    return on(
        "pi2",
        "cp -a /etc/hosts /root/hosts && sed -i 's/^10.*pi2$/127.0.1.1 pi2/' /etc/hosts",
        "cat /root/hosts > /etc/hosts",
    )


def a_while(node: str, do: str, undo: str, seconds: int) -> tuple[Step, Step]:
    """A fault of sshd, whose process is $pid: it ends by itself, whatever becomes of the test."""
    pid = "pid=$(systemctl show -p MainPID --value ssh)"
    script = f'{pid}; systemd-run --quiet --collect --unit=fault sh -c "{do}; sleep {seconds}; {undo}"'
    return on(node, script, f"{pid}; {undo}; systemctl stop fault || true")


HADOOP = "org.apache.hadoop.hdfs.server.namenode.NameNode"
SLEEP = "import time; time.sleep(900)"
RESOLV = "cat /etc/resolv.conf > /root/resolv; {} > /etc/resolv.conf"

TOKYO = (
    "[ ! -e /etc/localtime ] || cp -a /etc/localtime /root/localtime; "
    "ln -sf /usr/share/zoneinfo/Asia/Tokyo /etc/localtime",
    "rm /etc/localtime; [ ! -e /root/localtime ] || mv /root/localtime /etc/localtime",
)

BEFORE: tuple[tuple[RackFault, ...], ...] = (
    (
        fault(
            "one name twice",
            "pi3 is called pi2: the name was not changed after a copy of the card",
            "pi2 pi3",
            (r"name", r"\bpi2\b", r"same|both|twice|duplicate|two|also|called"),
            on(
                "pi3",
                "echo pi2 >/etc/hostname; hostname pi2",
                "echo pi3 >/etc/hostname; hostname pi3",
            ),
        ),
        fault(
            "own name on 127.0.1.1",
            "pi2's /etc/hosts as Debian writes it",
            "pi2",
            (r"127\.0\.1\.1|loopback",),
            loopback_name(),
            note=True,
        ),
        fault(
            "MTU",
            "somebody tried 1400 on pi1, the others have 1500",
            "pi1",
            (r"\bMTU\b|packet", r"1400"),
            on("pi1", "ip link set host0 mtu 1400", "ip link set host0 mtu 1500"),
        ),
    ),
    (
        fault(
            "machine-id of a copied card",
            "pi3 has pi2's /etc/machine-id",
            "pi2 pi3",
            (r"machine-?id", r"same|both|twice|clone|cop(y|ied|ies)"),
            (
                lambda bench: _run(
                    bench,
                    "pi3",
                    "cp -a /etc/machine-id /root/machine-id; "
                    f"echo {bench.root('pi2', 'cat /etc/machine-id')} >/etc/machine-id",
                ),
                lambda bench: _run(bench, "pi3", "cat /root/machine-id >/etc/machine-id"),
            ),
        ),
        fault(
            "name server is a black hole",
            "pi1 asks a router that is gone",
            "pi1",
            (r"DNS|name server|resolv|look-?up|names",),
            on(
                "pi1",
                RESOLV.format("echo nameserver 192.0.2.53"),
                "cat /root/resolv >/etc/resolv.conf",
            ),
        ),
    ),
    (
        fault(
            "host keys of a copied card",
            "pi3 has pi2's SSH host keys, and they were accepted",
            "pi2 pi3",
            (r"host.?key", r"same|both|twice|share|clone|cop(y|ied|ies)"),
            keys_of_pi2_on_pi3(),
        ),
        fault(
            "sudo wants a password",
            "Ubuntu's way: no NOPASSWD for pi on pi1",
            "pi1",
            (r"sudo", r"password"),
            on(
                "pi1",
                "mkdir /root/sudoers; for f in $(grep -rl NOPASSWD /etc/sudoers.d); do "
                "cp -a $f /root/sudoers/; sed -i 's/NOPASSWD: ALL/ALL/' $f; done",
                "cp -a /root/sudoers/* /etc/sudoers.d/; rm -r /root/sudoers",
            ),
        ),
    ),
    (
        fault(
            "host key changed",
            "pi3's card was written anew",
            "pi3",
            (r"host.?key", r"changed|differ|other|another|not the (known|one)|no longer|does not match"),
            on(
                "pi3",
                "mkdir /root/keys; mv /etc/ssh/ssh_host_* /root/keys/; ssh-keygen -A; systemctl reload ssh",
                "rm /etc/ssh/ssh_host_*; mv /root/keys/* /etc/ssh/; rmdir /root/keys; systemctl reload ssh",
            ),
        ),
        fault(
            "host key unknown",
            "this machine has never talked to pi2",
            "pi2",
            (r"host.?key", r"unknown|not known|never|first|no key"),
            forgotten_key("pi2"),
        ),
        fault(
            "somebody else's Hadoop",
            "a NameNode that is not ours runs on pi1",
            "pi1",
            (r"NameNode|Hadoop", r"else|foreign|stranger|not (of|from|by|ours)|another|other"),
            on(
                "pi1",
                f"systemd-run --quiet --collect --unit=strange python3 -c '{SLEEP}' {HADOOP}",
                "systemctl stop strange",
            ),
        ),
    ),
    (
        fault(
            "wrong user",
            "cluster.yml says `ubuntu` for pi3",
            "pi3",
            (r"login|log in|permission denied|refuse|user",),
            spec(users={"pi3": "ubuntu"}),
        ),
        fault(
            "key not accepted",
            "pi2's authorized_keys is gone",
            "pi2",
            (r"login|log in|permission denied|refuse|key",),
            on("pi2", *moved("/home/pi/.ssh/authorized_keys")),
        ),
        fault(
            "disk nearly full",
            "400 MiB free of 6 GiB on pi1",
            "pi1",
            (r"9\d ?%|full|\bfree\b", r"disk|/|card|file system"),
            rack("fill-disk", "pi1", "--leave", "400M", undo=("fill-disk", "pi1", "--undo")),
        ),
    ),
    (
        fault(
            "cable out",
            "pi2's network cable",
            "pi2",
            (UNREACHED,),
            rack("link", "pi2", "down", undo=("link", "pi2", "up")),
        ),
        fault("node off", "pi3's power", "pi3", (UNREACHED,), rack("cut", "pi3", undo=("boot", "pi3"))),
        fault(
            "port taken",
            "somebody's web server on 9870 of pi1, the NameNode's page",
            "pi1",
            (r"9870", r"taken|in use|listen|occupied|port"),
            on(
                "pi1",
                "systemd-run --quiet --collect --unit=webs python3 -m http.server 9870",
                "systemctl stop webs",
            ),
            settle_s=1.0,
        ),
    ),
    (
        fault(
            "half-dead node",
            "pi2 takes connections and says nothing: sshd is stopped by a signal",
            "pi2",
            (r"connect|answer|hang|half|silent|nothing|time",),
            a_while("pi2", "kill -STOP $pid", "kill -CONT $pid", 40),
            settle_s=0.5,
        ),
        fault(
            "no sshd",
            "sshd of pi3 does not run",
            "pi3",
            (r"refused|sshd|ssh server|nobody listens",),
            a_while("pi3", "systemctl stop ssh", "systemctl start ssh", 40),
            settle_s=0.5,
        ),
        fault(
            "read-only disk",
            "/opt of pi1 is mounted read-only",
            "pi1",
            (r"read-?only",),
            on("pi1", "mount --bind /opt /opt && mount -o remount,bind,ro /opt", "umount /opt"),
        ),
    ),
    (
        fault(
            "two entries, one machine",
            "pi3 stands in cluster.yml a second time, as pi9",
            "pi3 pi9",
            (r"same|one machine|twice|both|one and the same", r"\bpi9\b", r"\bpi3\b"),
            spec(nodes=("pi1", "pi2", "pi3", "pi9=pi3")),
        ),
        fault(
            "own name unknown",
            "no line for itself in pi1's /etc/hosts",
            "pi1",
            (r"name", r"resolv|hosts|lead|not found|unknown|no address|look"),
            on("pi1", *edited("/etc/hosts", "/127.0.1.1/d")),
        ),
        fault(
            "no Python",
            "python3 is gone from pi2",
            "pi2",
            (r"python",),
            on("pi2", *moved("/usr/bin/python3")),
        ),
    ),
    (
        fault(
            "too little memory",
            "pi4, which has 300 MiB, shall be a worker",
            "pi4",
            (r"MiB|memory|RAM", r"short|too (little|small)|below|less|at least|needs?\b|not enough"),
            spec(nodes=("pi1", "pi2", "pi3", "pi4")),
        ),
        fault(
            "stale line in hosts",
            "pi2's /etc/hosts sends the name pi3 to an old address",
            "pi2",
            (r"hosts|name", r"\bpi3\b", r"\.77\b|old|wrong|other|another|stale"),
            stale_hosts_line(),
        ),
        fault(
            "no name server",
            "pi1's /etc/resolv.conf is empty",
            "pi1",
            (r"DNS|name server|resolv",),
            on("pi1", RESOLV.format(":"), "cat /root/resolv >/etc/resolv.conf"),
        ),
        fault(
            "apt at work",
            "pi3 upgrades itself, apt's lock is taken",
            "pi3",
            (r"apt|dpkg|package", r"work|run|lock|busy|now"),
            on(
                "pi3",
                "cp /bin/sleep /root/apt-get; systemd-run --quiet --collect --unit=upgrade /root/apt-get 900",
                "systemctl stop upgrade; rm /root/apt-get",
            ),
            note=True,
        ),
    ),
    (
        fault(
            "near miss: disk at 80 %",
            "1.1 GiB free of 6 GiB on pi1",
            "pi1",
            (),
            rack("fill-disk", "pi1", "--leave", "1150M", undo=("fill-disk", "pi1", "--undo")),
        ),
        fault(
            "near miss: time zone",
            "pi2 lives in Tokyo",
            "pi2",
            (),
            on("pi2", *TOKYO),
        ),
        fault(
            "near miss: a table of one's own",
            "pi3 has an nftables table that counts",
            "pi3",
            (),
            on(
                "pi3",
                "nft add table inet mine; nft add chain inet mine c '{ type filter hook input priority 0; }'",
                "nft delete table inet mine",
            ),
        ),
        fault(
            "near miss: a web server",
            "somebody's web server on port 8000 of pi2",
            "pi2",
            (),
            on(
                "pi2",
                "systemd-run --quiet --collect --unit=webs python3 -m http.server 8000",
                "systemctl stop webs",
            ),
        ),
        fault(
            "near miss: just booted",
            "pi3 was rebooted a moment ago",
            "pi3",
            (),
            rack("reboot", "pi3", undo=("status",)),
        ),
    ),
)


# -- in a running cluster --------------------------------------------------------------------------------

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
    return lambda bench: _run(bench, "pi1", line)


def more_copies_than_nodes() -> tuple[Step, Step]:
    def ask(bench: Bench, how: str) -> None:
        script = _WEBHDFS.format(nn=bench.addresses["pi1"])
        bench.root("pi1", f"python3 -c {quoted(script)} {how}")

    return (lambda bench: ask(bench, "more")), (lambda bench: ask(bench, "less"))


def shared_token() -> tuple[Step, Step]:
    def at(bench: Bench, mode: int) -> None:
        for path in (bench.spec.parent / "clusters" / "faults").glob("token-*"):
            path.chmod(mode)

    return (lambda bench: at(bench, 0o644)), (lambda bench: at(bench, 0o600))


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


def unit(node: str, name: str, do: str, undo: str) -> tuple[Step, Step]:
    full = f"rpicluster-{name}.service"
    return on(node, do.format(unit=full), undo.format(unit=full))


STOP = ("systemctl stop {unit}", "systemctl start {unit}")
KILL = (
    "mkdir -p /run/systemd/system/{unit}.d; "
    "printf '[Service]\\nRestart=no\\n' >/run/systemd/system/{unit}.d/no.conf; "
    "systemctl daemon-reload; systemctl kill -s KILL {unit}; sleep 1",
    "rm -r /run/systemd/system/{unit}.d; systemctl daemon-reload; systemctl reset-failed {unit} || true; "
    "systemctl start {unit}",
)
SIGNAL = ("systemctl kill -s STOP {unit}", "systemctl kill -s CONT {unit}")
WALL = """
nft add table inet mine
nft add chain inet mine c '{ type filter hook input priority 5; policy drop; }'
nft add rule inet mine c ct state established,related accept
nft add rule inet mine c iif lo accept
nft add rule inet mine c tcp dport 22 accept
nft add rule inet mine c meta l4proto '{ icmp, ipv6-icmp }' accept
"""

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
            "NodeManager killed",
            "kill -9 on pi3, and systemd may not start it again",
            "pi3",
            (r"nodemanager", r"not run|stopped|dead|down|failed|inactive|lost|masked|killed|missing|start"),
            unit("pi3", "nodemanager", *KILL),
        ),
        fault(
            "DataNode stopped",
            "`systemctl stop` on pi2",
            "pi2",
            (r"datanode", r"not run|stopped|dead|down|failed|inactive|missing|start"),
            unit("pi2", "datanode", *STOP),
        ),
        fault(
            "too few copies",
            "a file shall have three copies, and there are two DataNodes",
            "pi1 pi2 pi3",
            (r"under-?replicat|too few|fewer|less|missing|copies|replica", r"block|cop(y|ies)|replica"),
            more_copies_than_nodes(),
            anywhere=True,
            settle_s=1.0,
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
            (lambda bench: _key_mode(bench, 0o644), lambda bench: _key_mode(bench, 0o600)),
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
