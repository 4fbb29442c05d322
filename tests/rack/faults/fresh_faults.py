"""Faults of nodes that no cluster was installed on; those of one batch are independent.

What each shall be told as was written before doctor's answer was seen.
"""

from bench import Bench
from making import TOKYO, UNREACHED, RackFault, Step, edited, fault, moved, on, rack, run, spec

HADOOP = "org.apache.hadoop.hdfs.server.namenode.NameNode"
SLEEP = "import time; time.sleep(900)"
RESOLV = "cat /etc/resolv.conf > /root/resolv; {} > /etc/resolv.conf"


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


def stale_hosts_line() -> tuple[Step, Step]:
    def do(bench: Bench) -> None:
        old = bench.addresses["pi3"].rpartition(".")[0] + ".77"
        bench.root("pi2", f"cp -a /etc/hosts /root/hosts && sed -i '1i {old} pi3' /etc/hosts")

    return do, lambda bench: run(bench, "pi2", "cat /root/hosts > /etc/hosts")


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
            "port taken",
            "somebody's web server on 9870 of pi1, the NameNode's page",
            "pi1",
            (r"9870", r"taken|in use|occupied|another program|somebody else"),
            on(
                "pi1",
                "systemd-run --quiet --collect --unit=webs python3 -m http.server 9870",
                "systemctl stop webs",
            ),
            settle_s=1.0,
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
                lambda bench: run(
                    bench,
                    "pi3",
                    "cp -a /etc/machine-id /root/machine-id; "
                    f"echo {bench.root('pi2', 'cat /etc/machine-id')} >/etc/machine-id",
                ),
                lambda bench: run(bench, "pi3", "cat /root/machine-id >/etc/machine-id"),
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
            "near miss: time zone",
            "pi2 lives in Tokyo",
            "pi2",
            (),
            on("pi2", *TOKYO),
        ),
        fault(
            "near miss: a table of one's own",
            "pi1 has an nftables table that counts",
            "pi1",
            (),
            on(
                "pi1",
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
