"""Whether the sessions of a cluster have sparklyr's gateway, and with whose jar."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rpicluster.design.sizing import size
from rpicluster.errors import SizingRefused, SparklyrMissing, SparklyrUnusable
from rpicluster.model.facts import ClusterFacts
from rpicluster.model.spec import ClusterSpec, Gateway
from rpicluster.runtime.sparklyr_jar import SparklyrJar


@dataclass(frozen=True)
class Record:
    """What is remembered of a cluster's gateway, on this machine and in the manager's manifest."""

    first_port: int
    version: str
    sha256: str

    @classmethod
    def of(cls, document: Any) -> "Record | None":
        """Return what `as_document` wrote; None for anything else, such as nothing."""
        try:
            return cls(int(document["first_port"]), str(document["version"]), str(document["sha256"]))
        except (KeyError, TypeError, ValueError):
            return None

    def as_document(self) -> Mapping[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class GatewayChoice:
    """The gateway's program, None for sessions without a gateway, and what to tell of that."""

    jar: SparklyrJar | None
    notes: tuple[str, ...] = ()

    @property
    def setting(self) -> Gateway:
        """What `auto` comes to."""
        return Gateway.OFF if self.jar is None else Gateway.ON


def choose(
    wanted: Gateway,
    last: Record | None,
    *,
    find: Callable[[], SparklyrJar],
    bring: Callable[[Record], SparklyrJar | None],
    fetch: Callable[[], SparklyrJar] | None = None,
) -> GatewayChoice:
    """Return the gateway of nodes behind SSH; `last` is what they have, which `bring` gets back.

    A machine without sparklyr does not take the gateway away from those that have it. Where cluster.yml says
    `on`, and names a repository of R packages, it gets the first one from there by `fetch`; then it raises
    SparklyrMissing, SparklyrUnusable and RPackageError.
    """
    if wanted is Gateway.OFF:
        return GatewayChoice(None)
    try:
        try:
            return GatewayChoice(find())
        except SparklyrMissing as error:
            there = bring(last) if last is not None else None
            if there is not None:
                note = f"{error.message}: the sessions keep the gateway of sparklyr {there.version}"
                return GatewayChoice(there, (note,))
            if fetch is None or wanted is not Gateway.ON:
                raise
            there = fetch()
            source = f"sparklyr {there.version} in `r: repository:`"
            return GatewayChoice(there, (f"{error.message}: the sessions get the gateway of {source}",))
    except (SparklyrMissing, SparklyrUnusable) as error:
        if wanted is Gateway.ON:
            raise
        return GatewayChoice(None, (f"{error.message}: R comes in by Spark Connect alone",))


def where_it_fits(choice: GatewayChoice, spec: ClusterSpec, facts: ClusterFacts) -> GatewayChoice:
    """Return `choice`, or no gateway where the manager cannot hold its larger drivers and nobody insists.

    `spec` is that of those that take part; without `users:` it has one.
    """
    if choice.jar is None or spec.sessions.sparklyr is Gateway.ON:
        return choice
    sessions = spec.sessions.model_copy(update={"sparklyr": Gateway.ON})
    wanted = max(1, len(spec.users))
    try:
        held = size(spec.model_copy(update={"sessions": sessions}), facts).sessions_max
        why = (
            f"{spec.manager.name} holds {held} sessions with it, and {wanted} are wanted"
            if held < wanted
            else ""
        )
    except SizingRefused as error:
        why = error.message
    if not why:
        return choice
    return GatewayChoice(None, (f"no gateway for sparklyr: {why}; R comes in by Spark Connect alone",))


def risk(login: str, port: int) -> str:
    """Return what whoever writes `on` for this machine must know."""
    return (
        f"sessions.sparklyr is on: the gateway at 127.0.0.1:{port} asks nobody for a password, so any user "
        f"of this machine can run code as {login} through it"
    )
