"""Faults of members of a cluster, as far as a node's own answer shows them.

How the same is made on a real one stands in running_faults.
"""

import hashlib
import json
from collections.abc import Callable

from fixture_nodes import Answer
from judging import Expected

MemberFault = tuple[Expected, Callable[[Answer], None]]
RUNTIME = "2a2428feec62c2c5"
CORE, YARN = "/etc/rpicluster/hadoop/core-site.xml", "/etc/rpicluster/hadoop/yarn-site.xml"
PROFILE = "/etc/profile.d/rpicluster.sh"
RULES = "/etc/rpicluster/firewall.nft"
CLASSES = {
    "namenode": "org.apache.hadoop.hdfs.server.namenode.NameNode",
    "datanode": "org.apache.hadoop.hdfs.server.datanode.DataNode",
    "resourcemanager": "org.apache.hadoop.yarn.server.resourcemanager.ResourceManager",
    "nodemanager": "org.apache.hadoop.yarn.server.nodemanager.NodeManager",
}
PORTS = {
    "namenode": (8020, 9870),
    "datanode": (9864, 9866, 9867),
    "resourcemanager": (8030, 8031, 8032, 8033, 8088),
    "nodemanager": (8040, 8042, 45454),
}
USERS = {"namenode": "rpi-hdfs", "datanode": "rpi-hdfs"}


def join(cluster: dict[str, Answer]) -> None:
    """Make members of all nodes, as `up` leaves them: pi1 manages, the others work."""
    lines = "".join(f"{answer.host}\t{name}\n" for name, answer in cluster.items())
    for name, answer in cluster.items():
        manages = name == "pi1"
        kinds = ("namenode", "resourcemanager") if manages else ("datanode", "nodemanager")
        answer["hosts"] = answer["hosts"].rstrip() + f"\n# BEGIN rpicluster\n{lines}# END rpicluster\n"
        answer["firewall"] = "table inet rpicluster\n"
        answer["runtime"] = f"/opt/rpicluster/runtimes/{RUNTIME}\n"
        daemons = ""
        for pid, kind in enumerate(kinds, 1500):
            daemons += (
                f"{pid} {USERS.get(kind, 'rpi-yarn')} -Drpicluster.unit=5eed0000/{name}/{kind} "
                f"{CLASSES[kind]} unit=rpicluster-{kind}.service\n"
            )
            for port in PORTS[kind]:
                answer.add(
                    "listeners",
                    f'LISTEN 0 128 [::ffff:{answer.host}]:{port} *:* users:(("java",pid={pid},fd=300)) '
                    f"uid:990 ino:1{port} sk:5de cgroup:/system.slice/rpicluster-{kind}.service <->",
                )
        answer["daemons"] = daemons
        units = ("firewall", *kinds, *(("session-ubuntu",) if manages else ()))
        answer["units"] = "".join(_unit(unit) for unit in units) + answer["units"]
        _place(answer, name, units)


def _unit(name: str) -> str:
    sub, pid = ("exited", 0) if name == "firewall" else ("running", 1500)
    return (
        f"Id=rpicluster-{name}.service\nLoadState=loaded\nActiveState=active\nSubState={sub}\n"
        f"UnitFileState=enabled\nResult=success\nNRestarts=0\nMainPID={pid}\nExecMainStatus=0\n\n"
    )


def _place(answer: Answer, name: str, units: tuple[str, ...]) -> None:
    files = {path: hashlib.sha256(path.encode()).hexdigest() for path in (CORE, YARN, PROFILE, RULES)}
    manifest = {
        "schema": 1,
        "version": 1,
        "cluster": "fixtures",
        "cluster_id": "5eed0000",
        "node": name,
        "runtime": RUNTIME,
        "units": dict.fromkeys(units, "0" * 64),
        "files": {
            path: {"sha256": digest, "mode": "0644", "owner": "root"} for path, digest in files.items()
        },
    }
    answer["manifest"] = json.dumps(manifest, indent=1) + "\n"
    answer["hashes"] = "".join(f"{digest}  {path}\n" for path, digest in files.items())
    answer["modes"] = "".join(f"644 root {path}\n" for path in files)


# -- what goes wrong in a worker ---------------------------------------------------------------------------


def edited(answer: Answer) -> None:
    answer.sub("hashes", rf"\w+  {YARN}", "d" * 64 + f"  {YARN}")


def removed(answer: Answer) -> None:
    answer.sub("hashes", rf"\w+  {PROFILE}\n", "")
    answer.sub("modes", rf"644 root {PROFILE}\n", "")
    answer.status["hashes"] = answer.status["modes"] = "123"


def writable(answer: Answer) -> None:
    answer.sub("modes", f"644 root {CORE}", f"666 root {CORE}")


def without_firewall(answer: Answer) -> None:
    answer["firewall"] = ""


def with_another_runtime(answer: Answer) -> None:
    answer["runtime"] = "/opt/rpicluster/runtimes/0123456789abcdef\n"


def of_an_older_up(answer: Answer) -> None:
    """Its card was in a drawer when the others got a new version."""
    with_another_runtime(answer)
    answer.sub("manifest", RUNTIME, "0123456789abcdef")


def _change(answer: Answer, unit: str, **state: str) -> None:
    for field, value in state.items():
        answer.sub("units", rf"(Id=rpicluster-{unit}\.service\n(?:\w+=.*\n)*?{field}=).*", rf"\g<1>{value}")


def _not_running(answer: Answer, unit: str) -> None:
    answer.sub("daemons", rf".*unit=rpicluster-{unit}\.service\n", "")
    answer.sub("listeners", rf".*rpicluster-{unit}\.service.*\n", "")


def crashed(answer: Answer) -> None:
    _change(
        answer,
        "datanode",
        ActiveState="failed",
        SubState="failed",
        Result="exit-code",
        NRestarts="30",
        MainPID="0",
    )
    _not_running(answer, "datanode")


def stopped(answer: Answer) -> None:
    _change(answer, "nodemanager", ActiveState="inactive", SubState="dead", MainPID="0")
    _not_running(answer, "nodemanager")


def disabled(answer: Answer) -> None:
    _change(answer, "nodemanager", UnitFileState="disabled")


def starting_over(answer: Answer) -> None:
    _change(
        answer, "nodemanager", ActiveState="activating", SubState="auto-restart", NRestarts="17", MainPID="0"
    )
    _not_running(answer, "nodemanager")


def without_java(answer: Answer) -> None:
    answer["java"] = ""


def with_old_java(answer: Answer) -> None:
    answer.sub("java", "java-17-openjdk", "java-11-openjdk")
    answer.sub("java", r"17\.0\.14", "11.0.24")


def with_a_foreign_datanode(answer: Answer) -> None:
    answer.add("daemons", f"990 hadoop {CLASSES['datanode']} unit=hadoop-old.service")


def open_to_all(answer: Answer) -> None:
    """Somebody set the NodeManager's address to 0.0.0.0."""
    answer.sub("listeners", rf"\[::ffff:{answer.host}\]:8042", "*:8042")


def without_hosts(answer: Answer) -> None:
    answer.sub("hosts", r"# BEGIN rpicluster\n(?:.*\n)*# END rpicluster\n", "")


def with_fail2ban(answer: Answer) -> None:
    answer.add("firewall", "table inet fail2ban")


def of(name: str, story: str, *says: str) -> Expected:
    return Expected(name, story, (), says)


DOWN = r"not run|stopped|dead|down|failed|inactive|start|crash"
MEMBERS: tuple[MemberFault, ...] = (
    (of("member: file edited", "yarn-site.xml differs", r"yarn-site\.xml"), edited),
    (of("member: file removed", "/etc/profile.d/rpicluster.sh is gone", r"rpicluster\.sh"), removed),
    (of("member: file writable", "core-site.xml has mode 666", r"core-site\.xml"), writable),
    (of("member: no firewall", "our table is gone", r"firewall|nft|rules|stranger|table"), without_firewall),
    (of("member: another runtime", "the link points elsewhere", r"runtime|software"), with_another_runtime),
    (of("member: DataNode failed", "30 starts in vain", r"datanode", DOWN), crashed),
    (of("member: NodeManager stopped", "systemctl stop", r"nodemanager", DOWN), stopped),
    (
        of(
            "member: unit disabled",
            "it runs, and will not after a boot",
            r"nodemanager",
            r"disabled|enabled|boot",
        ),
        disabled,
    ),
    (
        of("member: starts again and again", "17 times", r"nodemanager", DOWN + r"|again|restart"),
        starting_over,
    ),
    (of("member: Java gone", "daemons run on", r"java"), without_java),
    (of("member: Java 11", "instead of 17", r"java", r"\b11\b"), with_old_java),
    (
        of("member: foreign DataNode", "of an older cluster", r"datanode|hadoop", r"else|foreign|not|other"),
        with_a_foreign_datanode,
    ),
    (
        of(
            "member: open port",
            "the NodeManager listens on all addresses",
            r"8042",
            r"all|any|every|0\.0\.0\.0|\*",
        ),
        open_to_all,
    ),
    (of("near miss: fail2ban", "a table of its own beside ours"), with_fail2ban),
    (of("member: hosts lines gone", "an upgrade wrote /etc/hosts anew", r"hosts"), without_hosts),
    # Of several nodes: last, so that what is said of it is taken for no other.
    (
        of("member: older runtime", "link and manifest are of an older version", r"runtime|software"),
        of_an_older_up,
    ),
)
