"""Multicast DNS: who on this network announces SSH, or answers to `raspberrypi.local`.

The library is an extra (`rpicluster[discover]`): DNS messages are not this project's purpose.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rpicluster.errors import RpiclusterError
from rpicluster.model.neighbours import Announced

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

# Debian's avahi-daemon brings files for both; `_workstation` is off by default since avahi 0.7.
SERVICES = ("_ssh._tcp.local.", "_sftp-ssh._tcp.local.", "_workstation._tcp.local.")
HOSTS = ("raspberrypi.local.",)  # the name of an image that nobody named


class NoLibrary(RpiclusterError):
    """The extra with the library is not installed."""


def listen(seconds: float, *, interfaces: Sequence[str] | None = None) -> tuple[Announced, ...]:
    """Ask once, listen for `seconds`, and return who answered, by name.

    `interfaces` are this machine's own addresses; default: all. Raises NoLibrary, and RpiclusterError where
    the network does not let us ask.
    """
    try:
        import zeroconf  # noqa: F401
    except ImportError as error:
        raise NoLibrary(
            "multicast DNS is not asked: the library for it is not installed",
            hint="pip install 'rpicluster[discover]'",
        ) from error
    try:
        return asyncio.run(_listen(seconds, interfaces))
    except (OSError, RuntimeError) as error:  # the library says the second where no interface has an address
        why = error.strerror if isinstance(error, OSError) else None
        raise RpiclusterError(
            f"multicast DNS cannot be asked: {why or error}",
            hint="is there a network? the neighbour table is looked at all the same",
        ) from error


async def _listen(seconds: float, interfaces: Sequence[str] | None) -> tuple[Announced, ...]:
    from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

    seen: set[tuple[str, str]] = set()

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed:
            seen.add((service_type, name))

    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    choice = list(interfaces) if interfaces else InterfaceChoice.All
    asked = AsyncZeroconf(interfaces=choice, ip_version=IPVersion.V4Only)
    try:
        browser = AsyncServiceBrowser(asked.zeroconf, list(SERVICES), handlers=[changed])
        hosts = [asyncio.create_task(_host(asked, name, seconds)) for name in HOSTS]
        await asyncio.sleep(max(0.0, (end - loop.time()) * 0.6))
        left_s = max(0.1, end - loop.time())
        services = [_service(asked, kind, name, left_s) for kind, name in sorted(seen)]
        answers = await asyncio.gather(*services, *hosts)
        await browser.async_cancel()
    finally:
        await asked.async_close()
    return _merged(answer for answer in answers if answer is not None)


async def _service(asked: "AsyncZeroconf", kind: str, name: str, seconds: float) -> Announced | None:
    from zeroconf import BadTypeInNameException, IPVersion

    try:
        info = await asked.async_get_service_info(kind, name, timeout=int(seconds * 1000))
    except BadTypeInNameException:  # anybody on the network may announce any name
        return None
    if info is None or not info.server:
        return None
    addresses = tuple(info.parsed_addresses(IPVersion.All))
    return Announced(info.server.rstrip("."), addresses, (kind.removesuffix(".local."),))


async def _host(asked: "AsyncZeroconf", name: str, seconds: float) -> Announced | None:
    # It is in the library's examples and not in its `__all__`.
    from zeroconf import AddressResolverIPv4, IPVersion  # type: ignore[attr-defined, unused-ignore]

    resolver = AddressResolverIPv4(name)
    if not await resolver.async_request(asked.zeroconf, seconds * 1000):
        return None
    return Announced(name.rstrip("."), tuple(resolver.parsed_addresses(IPVersion.V4Only)))


def _merged(answers: Iterable[Announced]) -> tuple[Announced, ...]:
    found: dict[str, Announced] = {}
    for answer in answers:
        known = found.get(answer.name, Announced(answer.name, ()))
        found[answer.name] = Announced(
            answer.name,
            tuple(dict.fromkeys((*known.addresses, *answer.addresses))),
            tuple(dict.fromkeys((*known.services, *answer.services))),
        )
    return tuple(found.values())
