"""How people write where a node is: `user@host:port`."""

import re

from pydantic import ValidationError

from rpicluster.errors import UsageError
from rpicluster.model.spec import SshTarget

# An IPv6 address has more than one colon: with a port it stands in brackets, as in URLs.
_DESTINATION = re.compile(
    r"(?:(?P<user>[^@]+)@)?"
    r"(?:\[(?P<bracketed>[^\]]+)\]|(?P<many>[^@\[\]]*:[^@\[\]]*:[^@\[\]]*)|(?P<host>[^@:\[\]]+))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


def parse_destination(text: str, *, hint: str) -> SshTarget:
    """Return `user@host:port` as a target; user and port may be left out. Raises UsageError with `hint`."""
    match = _DESTINATION.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        host = match["bracketed"] or match["many"] or match["host"]
        port = match["port"]
        return SshTarget(host=host, user=match["user"], port=int(port) if port else None)
    except (ValueError, ValidationError):
        raise UsageError(f"{text!r} says not where a node is: [USER@]HOST[:PORT]", hint=hint) from None
