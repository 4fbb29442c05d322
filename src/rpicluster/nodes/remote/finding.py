"""A node whose address changed is found again: who answers where, and which of them is it.

Only for nodes that were seen before, when they do not answer or another machine answers in their place. What
is found is kept in the state folder, so that the next command goes there at once.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import TypeVar

from pydantic import ValidationError

from rpicluster.design import whereabouts
from rpicluster.design.whereabouts import Claim, Lost
from rpicluster.errors import HostKeyRefused, LoginRefused, NodeAmbiguous, NodeUnreachable, RpiclusterError
from rpicluster.model.machine import MachineFacts
from rpicluster.model.neighbours import Announced, Neighbour, read_neighbours
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.discovery.neighbours import neighbour_table, own_networks
from rpicluster.nodes.remote import members
from rpicluster.nodes.remote.commands import Nodes
from rpicluster.nodes.remote.state import RemoteState
from rpicluster.nodes.ssh.elsewhere import Elsewhere, Way, door, known_prints, way_to
from rpicluster.nodes.ssh.failures import Cause
from rpicluster.nodes.ssh.observe import Observation, observe_node
from rpicluster.nodes.ssh.openssh import OpenSsh

KEY = "elsewhere"
# The last two: a connection that was left open to the old address is noticed like this.
_GONE = frozenset(
    {Cause.UNRESOLVED, Cause.UNREACHABLE, Cause.REFUSED, Cause.TIMEOUT, Cause.SILENT, Cause.LOST}
)
_LISTEN_S = 1.5
_NEIGHBOURS_S = 4.0
_ASKED_MEMBERS = 8
_LOGIN_S = 10.0
_LOGINS_AT_ONCE = 16
T = TypeVar("T")


@dataclass(frozen=True)
class _Tried:
    """What one login as a lost node gave; without a claim, no machine with its key let us in."""

    node: str
    place: Elsewhere
    observation: Observation
    claim: Claim | None


class Finder:
    """Looks for the nodes of one cluster that are no longer where they were; writes nothing to any node."""

    def __init__(
        self,
        nodes: Nodes,
        state: RemoteState,
        *,
        neighbours: Callable[[], tuple[Neighbour, ...]] = neighbour_table,
        announced: Callable[[float], tuple[Announced, ...]] | None = None,
        networks: Callable[[], tuple[IPv4Network, ...]] = own_networks,
    ) -> None:
        """Look for `nodes`; those that were found before are reached where they were found.

        `neighbours` and `announced` say who is on this network, `networks` which ones these are; default: the
        kernel, and multicast DNS.
        """
        self._nodes, self._state = nodes, state
        self._neighbours, self._announced = neighbours, announced or _announced
        self._own_networks = networks
        self._tried: set[str] = set()
        self._said: list[str] = []
        self._recall()

    # -- what is known ---------------------------------------------------------------------------------

    def _recall(self) -> None:
        """Have ssh go where nodes were last found, as long as cluster.yml says what it said then.

        Also nodes that cluster.yml names no more: they are still to be cleared. Those that left are not.
        """
        doors = {door(target): name for name, target in self._nodes.targets.items()}
        for name, record in self._records().items():
            then = _target_of(record)
            if then is None or self._state.known_facts(name) is None:
                continue
            place = Elsewhere(record["address"], record["known_as"])
            target = self._nodes.targets.get(name)
            if doors.get(door(then), name) == name:
                self._nodes.ssh.elsewhere[door(then)] = place
            # Somebody pasted the new address: known_hosts knows the key by the old name alone.
            if target is not None and target.host == place.address:
                self._nodes.ssh.elsewhere[door(target)] = place

    def _records(self) -> dict[str, dict[str, str]]:
        known = self._state.recall(KEY)
        return {
            str(name): record
            for name, record in (known.items() if isinstance(known, dict) else ())
            if isinstance(record, dict) and {"host", "address", "known_as"} <= set(record)
        }

    def _remember(self, name: str, place: Elsewhere, own_name: str) -> None:
        target, records = self._nodes.targets[name], self._records()
        if place == Elsewhere(target.host, own_name):  # it is back
            records.pop(name, None)
            self._nodes.ssh.elsewhere.pop(door(target), None)
        else:
            records[name] = {
                **target.model_dump(include={"host", "port", "config"}),
                "address": place.address,
                "known_as": place.known_as,
            }
            self._nodes.ssh.elsewhere[door(target)] = place
        self._state.remember(**{KEY: records})

    @property
    def places(self) -> dict[str, Elsewhere]:
        """Where nodes are that are not where cluster.yml says, or whose key is known by another name."""
        return {
            name: place
            for name, target in self._nodes.targets.items()
            if (place := self._nodes.ssh.elsewhere.get(door(target)))
        }

    @property
    def reached(self) -> dict[str, str]:
        """The addresses of those."""
        return {name: place.address for name, place in self.places.items()}

    def notes(self) -> tuple[str, ...]:
        """Return what to tell: who is elsewhere, the line for cluster.yml, and what was seen by the way."""
        lines = []
        for name, address in self.reached.items():
            target = self._nodes.targets[name]
            if target.host != address:
                lines.append(
                    f"{name} is at {address} now, by its host key and machine-id; this is remembered. "
                    f"cluster.yml says {target.host}; to have it there, too: {pasted(target, address)}"
                )
        return (*lines, *self._said)

    # -- looking ---------------------------------------------------------------------------------------

    def found(self, seen: Mapping[str, Observation]) -> dict[str, Observation]:
        """Return what was seen, with nodes that answer elsewhere in place of the errors they gave.

        An error stays where nobody was found. Where two machines claim to be one node it is a NodeAmbiguous.
        Each node is looked for once in the life of this object.
        """
        gone = [name for name, each in seen.items() if may_have_moved(each) and name not in self._tried]
        facts = {name: known for name in gone if (known := self._state.known_facts(name)) is not None}
        if not facts:
            return dict(seen)
        self._tried.update(facts)
        try:
            return self._looked_for(facts, seen)
        except RpiclusterError as error:  # the errors that the nodes gave are the ones to act on
            self._said.append(f"{', '.join(facts)} could not be looked for: {error.message}")
            return dict(seen)

    def _looked_for(
        self, facts: Mapping[str, MachineFacts], seen: Mapping[str, Observation]
    ) -> dict[str, Observation]:
        lost = self._lost(facts, seen)
        tried = self._ask(self._worth_asking(lost, seen), lost)
        verdict = whereabouts.judge(lost, [each.claim for each in tried if each.claim])
        result = dict(seen)
        for each in tried:
            if verdict.found.get(each.node) == each.place.address and each.claim is not None:
                self._remember(each.node, each.place, self._own_name(each.node))
                result[each.node] = each.observation
        for name, addresses in verdict.copies.items():
            result[name] = Observation(error=_ambiguous(name, addresses))
        for name in lost:
            if name not in verdict.found and name not in verdict.copies:
                self._said += _said_of(lost[name], verdict.others.get(name, ()), tried)
        return result

    def _lost(self, facts: Mapping[str, MachineFacts], seen: Mapping[str, Observation]) -> dict[str, Lost]:
        known = members.known_addresses(self._state, [each.facts for each in seen.values() if each.facts])
        lost = {}
        for name, machine in facts.items():
            was = [self._nodes.targets[name].host, self.reached.get(name, ""), known.get(name, "")]
            own = [a.address for i in machine.interfaces for a in i.addresses if a.scope == "global"]
            if node := Lost.of(name, machine, [*was, *own]):
                shown = frozenset().union(*(known_prints(way) for way in self._ways(name)))
                lost[name] = replace(node, prints=shown or node.prints)
        return lost

    def _worth_asking(
        self, lost: Mapping[str, Lost], seen: Mapping[str, Observation]
    ) -> list[tuple[str, str]]:
        """Return nodes and the addresses at which to try a login."""
        from rpicluster.nodes.discovery import sweep  # asyncio: not for every command

        there, near, announced = self._who_is_there([n for n, each in seen.items() if each.facts])
        taken = {
            a.address
            for each in seen.values()
            if each.facts
            for i in each.facts.interfaces
            for a in i.addresses
        }
        taken |= {self.reached.get(n, self._nodes.targets[n].host) for n, each in seen.items() if each.facts}
        answering = [IPv4Network(f"{a}/32") for a in taken if whereabouts.is_ipv4(a)]
        near_networks = [*_or_nothing(self._own_networks), *answering]
        ways = {name: self._ways(name)[0] for name in lost}
        worth = list(whereabouts.by_card([node for n, node in lost.items() if ways[n].through_others], there))
        for port in sorted({way.port for way in ways.values() if not way.through_others}):
            wanted = [
                n for name, n in lost.items() if ways[name].port == port and not ways[name].through_others
            ]
            first = whereabouts.first_candidates(wanted, [*near, *there], announced, taken=taken)
            more = whereabouts.sweep_of(wanted, first, taken, near=near_networks)
            open_there = sweep.answering([*first, *map(str, more)], port)
            shown = sweep.shown_keys(open_there, port)
            worth += whereabouts.pairs(wanted, shown)
        return list(dict.fromkeys(worth))

    def _who_is_there(
        self, members_up: list[str]
    ) -> tuple[list[Neighbour], tuple[Neighbour, ...], tuple[Announced, ...]]:
        """Return whom members know, whom this machine knows, and who announces itself; all asked at once."""
        with ThreadPoolExecutor(2, thread_name_prefix="finding") as pool:
            announced = pool.submit(_or_nothing, lambda: self._announced(_LISTEN_S))
            tables, _ = self._nodes.each(self._neighbours_of, members_up[:_ASKED_MEMBERS])
            own = _or_nothing(self._neighbours)  # after the question: who answered it is in the table now
            return [n for table in tables.values() for n in table], own, announced.result()

    def _neighbours_of(self, node: str) -> tuple[Neighbour, ...]:
        target, line = self._nodes.targets[node], ["ip", "-json", "neigh", "show"]
        answer = self._nodes.ssh.run(target, line, node=node, deadline_s=_NEIGHBOURS_S)
        try:
            return read_neighbours(answer.stdout.decode(errors="replace")) if answer.status == 0 else ()
        except ValueError:  # an old `ip` without JSON: others may know
            return ()

    # -- asking ----------------------------------------------------------------------------------------

    def _ask(self, worth: list[tuple[str, str]], lost: Mapping[str, Lost]) -> list[_Tried]:
        if not worth:
            return []
        names = {name: list(dict.fromkeys(way.known_as for way in self._ways(name))) for name in lost}
        with ThreadPoolExecutor(min(_LOGINS_AT_ONCE, len(worth)), thread_name_prefix="finding") as pool:
            return list(pool.map(lambda pair: self._try(pair[0], pair[1], names[pair[0]]), worth))

    def _try(self, node: str, address: str, known_as: list[str]) -> _Tried:
        """Log in at `address` as if it were `node`: OpenSSH refuses whoever has not its known host key."""
        target = self._nodes.targets[node]
        for name in known_as:
            place = Elsewhere(address, name)
            observation = observe_node(
                target,
                self._nodes.ssh.redirected(target, place),
                node=node,
                deadline_s=_LOGIN_S,
                sudo_password=self._nodes.passwords.get(node),
            )
            if not isinstance(observation.error, HostKeyRefused):
                break
        facts = observation.facts
        claim = Claim(node, address, facts.machine_id, facts.boot_id) if facts else None
        return _Tried(node, place, observation, claim)

    def _ways(self, name: str) -> list[Way]:
        """Return under which names a node's key may be known: as it is reached, as cluster.yml says it now,
        and as it said at the last change.
        """
        target, ssh = self._nodes.targets[name], self._nodes.ssh
        member = members.known_members(self._state, None).get(name)
        plain = OpenSsh(ssh.control, config=ssh.config)
        ways = [way_to(target, ssh.where(target)), way_to(target, plain.where(target))]
        if member is not None and door(member.target) != door(target):
            ways.append(way_to(member.target, plain.where(member.target)))
        return ways

    def _own_name(self, name: str) -> str:
        target, ssh = self._nodes.targets[name], self._nodes.ssh
        return way_to(target, OpenSsh(ssh.control, config=ssh.config).where(target)).known_as


def may_have_moved(seen: Observation) -> bool:
    """Whether a node is silent, or another machine answers where it was; not one that refuses the login."""
    error = seen.error
    if isinstance(error, HostKeyRefused):
        return True
    return isinstance(error, NodeUnreachable) and not isinstance(error, LoginRefused) and error.cause in _GONE


def _target_of(record: Mapping[str, str]) -> SshTarget | None:
    """Return the target that a node was found for; None for a record of another version."""
    try:
        return SshTarget.model_validate({key: record.get(key) for key in ("host", "port", "config")})
    except ValidationError:
        return None


def pasted(target: SshTarget, address: str) -> str:
    """Return a node's `ssh:` of cluster.yml with another host."""
    about = {**target.model_dump(exclude_none=True), "host": address}
    return "ssh: {" + ", ".join(f"{key}: {value}" for key, value in about.items()) + "}"


def _announced(seconds: float) -> tuple[Announced, ...]:
    from rpicluster.nodes.discovery.mdns import listen

    return listen(seconds)


def _or_nothing(ask: Callable[[], tuple[T, ...]]) -> tuple[T, ...]:
    try:
        return ask()
    except RpiclusterError:  # one of several sources, and no fault of the node's
        return ()


def _ambiguous(name: str, addresses: tuple[str, ...]) -> NodeAmbiguous:
    return NodeAmbiguous(
        f"{' and '.join(addresses)}: machines with the host key and the machine-id of {name}, or of another "
        "node as well; cards that were copied, and only you know which one is which",
        node=name,
        hint="switch the copy off; before it is used again it needs its own: sudo rm /etc/machine-id "
        "/etc/ssh/ssh_host_*_key* && sudo systemd-machine-id-setup && sudo ssh-keygen -A && sudo reboot",
    )


def _said_of(lost: Lost, others: Iterable[str], tried: Iterable[_Tried]) -> list[str]:
    lines = [
        f"at {address} answers a machine with the host key of {lost.name} and another machine-id; it is not "
        "taken for it"
        for address in others
    ]
    lines += [
        f"at {each.place.address} answers a machine with the host key of {lost.name} that does not let us in"
        for each in tried
        if each.node == lost.name and isinstance(each.observation.error, LoginRefused)
    ]
    where = f" and on {lost.network}" if lost.network is not None else ""
    return lines or [f"{lost.name} was looked for among known neighbours{where}, and not found"]
