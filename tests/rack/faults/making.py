"""How faults are made on nodes of a rack, and undone."""

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
    return (lambda bench: run(bench, node, do)), (lambda bench: run(bench, node, undo))


def run(bench: Bench, node: str, script: str) -> None:
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


def key_mode(bench: Bench, mode: int) -> None:
    (bench.rack.directory / "id_ed25519").chmod(mode)


def spec(**changes: object) -> tuple[Step, Step]:
    return (lambda bench: bench.write(**changes)), (lambda bench: bench.write())


TOKYO = (
    "[ ! -e /etc/localtime ] || cp -a /etc/localtime /root/localtime; "
    "ln -sf /usr/share/zoneinfo/Asia/Tokyo /etc/localtime",
    "rm /etc/localtime; [ ! -e /root/localtime ] || mv /root/localtime /etc/localtime",
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


def shared_token() -> tuple[Step, Step]:
    def at(bench: Bench, mode: int) -> None:
        for path in (bench.spec.parent / "clusters" / "faults").glob("token-*"):
            path.chmod(mode)

    return (lambda bench: at(bench, 0o644)), (lambda bench: at(bench, 0o600))
