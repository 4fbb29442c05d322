"""Interfaces, routes, names and listening sockets: text of the node in, facts out."""

import json
import re
from collections.abc import Iterator
from typing import Any

from rpicluster.model.machine import Address, HostsLine, Interface, Listener, Lookup, Names, Route, Wall
from rpicluster.nodes.ssh.sections import by_file, number

_NET = "/sys/class/net/"


def read_interfaces(text: str, links: str) -> tuple[Interface, ...]:
    """Return all interfaces but loopback, from `ip -j addr` and /sys/class/net."""
    about = by_file(links)
    return tuple(
        _interface(entry, about)
        for entry in json.loads(text)
        if entry.get("ifname") and "LOOPBACK" not in entry.get("flags", ())
    )


def _interface(entry: dict[str, Any], about: dict[str, str]) -> Interface:
    name = entry["ifname"]
    speed = number(about.get(f"{_NET}{name}/speed"))
    return Interface(
        name=name,
        mac=entry.get("address"),
        mtu=entry.get("mtu"),
        up="LOWER_UP" in entry.get("flags", ()),
        speed_mbps=speed if speed is not None and speed > 0 else None,  # -1: the driver does not know
        duplex=about.get(f"{_NET}{name}/duplex"),
        wireless=f"{_NET}{name}/wireless" in about,
        hardware=f"{_NET}{name}/device" in about,
        addresses=tuple(
            Address(
                address=found["local"],
                prefix=found["prefixlen"],
                scope=found.get("scope", "global"),
                dynamic=bool(found.get("dynamic")),
            )
            for found in entry.get("addr_info", ())
            if "local" in found
        ),
    )


def read_routes(text: str) -> tuple[Route, ...]:
    """Return default routes from `ip -j route show default`, one JSON list for IPv4 and one for IPv6."""
    decoder, lists, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        found, end = decoder.raw_decode(rest)
        lists.append(found)
        rest = rest[end:].strip()
    return tuple(
        Route(
            family=6 if ":" in entry.get("gateway", "") or number_of_list else 4,
            gateway=entry.get("gateway"),
            interface=entry.get("dev"),
            protocol=entry.get("protocol"),
        )
        for number_of_list, routes in enumerate(lists)
        for entry in routes
    )


def read_names(names: str, resolver: str, lookups: str) -> Names:
    """Return how the node calls itself, whom it asks for names, and how quickly it is answered."""
    files, asked = by_file(names), by_file(resolver)
    configured = files.get("/etc/hostname", "").strip()
    # A resolver on loopback is systemd's stub; the servers behind it stand in the other file.
    servers = _servers(asked.get("/etc/resolv.conf", ""))
    if all(server.startswith("127.") for server in servers):
        servers = _servers(asked.get("/run/systemd/resolve/resolv.conf", "")) or servers
    found = dict(_lookups(lookups))
    return Names(
        hostname=files.get("/proc/sys/kernel/hostname", "").strip() or configured or None,
        configured=configured or None,
        servers=tuple(servers),
        own_name=found.get("name"),
        own_address=found.get("address"),
    )


def _servers(text: str) -> list[str]:
    return [line.split()[1] for line in text.splitlines() if re.match(r"nameserver\s+\S", line)]


def _lookups(text: str) -> Iterator[tuple[str, Lookup]]:
    for block in re.split(r"^(?=\w+ [\d.]+ [\d.]+ \d+$)", text, flags=re.M):
        head, _, answers = block.partition("\n")
        match = re.fullmatch(r"(\w+) ([\d.]+) ([\d.]+) (\d+)", head)
        if match and match[4] != "127":  # there is no getent
            found = [line[2:].split() for line in answers.splitlines() if line.startswith("= ")]
            words = [words[0] if match[1] == "name" else words[-1] for words in found if words]
            yield (
                match[1],
                Lookup(
                    duration_s=round(float(match[3]) - float(match[2]), 2),
                    found=tuple(dict.fromkeys(words)),
                    timed_out=match[4] == "124",
                ),
            )


def read_hosts(text: str) -> tuple[HostsLine, ...]:
    """Return the lines of /etc/hosts that name somebody."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return tuple(HostsLine(address=words[0], names=tuple(words[1:])) for words in lines if len(words) > 1)


def read_listeners(text: str) -> tuple[Listener, ...]:
    """Return listening TCP sockets from `ss -Hltnpe`; the owner is there only where the login may see it."""
    found = []
    for line in text.splitlines():
        match = re.match(r"LISTEN\s+\d+\s+\d+\s+(\S+):(\d+)\s", line)
        if match:
            owner = re.search(r'users:\(\("([^"]*)",pid=(\d+)', line)
            uid = re.search(r"\buid:(\d+)", line)
            found.append(
                Listener(
                    # [::ffff:127.0.0.1] is IPv4; * is all of IPv6 and, with it, of IPv4.
                    address=match[1].partition("%")[0].strip("[]").removeprefix("::ffff:"),
                    port=int(match[2]),
                    process=owner[1] if owner else None,
                    pid=int(owner[2]) if owner else None,
                    uid=int(uid[1]) if uid else None,
                )
            )
    return tuple(
        sorted(set(found), key=lambda listener: (listener.port, listener.address, listener.pid or 0))
    )


# Rules as `nft` writes them; the last one of a chain may drop what is left in place of the policy.
_FROM = re.compile(r"\bip6? saddr (?!!)(\{[^}]*\}|\S+)")
_ALL_OF_SOME = re.compile(r'\biif(name)? (?!"lo")|^(counter )?accept$')  # of a network card, or of a zone
_THE_REST = re.compile(r"(meta nfproto \S+ )?(counter )?(drop|reject( with .*)?)")


def read_walls(text: str) -> tuple[Wall, ...]:
    """Return the tables of `nft list ruleset` whose input drops what they do not name; without ours."""
    found = []
    for block in re.split(r"^(?=table )", text, flags=re.M):
        head = re.match(r"table (\S+ (\S+)) \{", block)
        if head and head[2] != "rpicluster" and any(map(_drops_the_rest, re.split(r"\n\n|\n\t\}", block))):
            accepting = [line.strip() for line in block.splitlines() if line.endswith("accept")]
            sources = [match[1].strip("{} ") for line in accepting if (match := _FROM.search(line))]
            named = {part.strip() for source in sources for part in source.split(",")}
            all_of_some = any(_ALL_OF_SOME.search(line) and "dport" not in line for line in accepting)
            is_plain = not all_of_some and not any(name.startswith("@") for name in named)
            found.append(Wall(table=head[1], lets_in=tuple(sorted(named)), judged=is_plain))
    return tuple(found)


def _drops_the_rest(chain: str) -> bool:
    if "hook input" not in chain:
        return False
    last = chain.rstrip("}\n\t ").splitlines()[-1].strip()
    return "policy drop;" in chain or _THE_REST.fullmatch(last) is not None
