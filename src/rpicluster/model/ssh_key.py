"""Public SSH keys as text: what may be put on a node's card, and what never. Pure."""

import base64
import binascii
import re
from dataclasses import dataclass

from rpicluster.errors import UsageError

# What sshd of OpenSSH 8.2 and newer takes by default; ssh-dss is off since 7.0 (openssh.com/legacy.html).
KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
_ODD = re.compile(r"[^A-Za-z0-9@._+-]+")


@dataclass(frozen=True)
class PublicKey:
    """One key of an `authorized_keys` file; every part is plain ASCII without spaces, quotes or dollars."""

    type: str
    blob: str
    comment: str

    @property
    def line(self) -> str:
        """The line for `authorized_keys`."""
        return f"{self.type} {self.blob} {self.comment}".rstrip()


def parse_public_keys(text: str, where: str) -> tuple[PublicKey, ...]:
    """Return the keys of a `.pub` file; `where` names it in errors.

    Comments lose what is not a letter, digit or one of `@._+-`. Raises UsageError for a private key, options
    in front of a key, and whatever is no key.
    """
    if "PRIVATE KEY" in text:
        raise UsageError(
            f"{where} is a private key, which never leaves this machine",
            hint=f"name the public one: --key {where}.pub",
        )
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(_parse(line, where) for line in lines if line and not line.startswith("#"))
    if not keys:
        raise UsageError(f"{where} holds no public key", hint="make one: ssh-keygen -t ed25519")
    return keys


def _parse(line: str, where: str) -> PublicKey:
    kind, _, rest = line.partition(" ")
    blob, _, comment = rest.strip().partition(" ")
    if kind not in KEY_TYPES:
        shown = kind[:40].encode("ascii", "replace").decode()
        raise UsageError(
            f"{where}: {shown!r} is not the type of a key that nodes take",
            hint="one key a line, nothing in front of it, as in the .pub file of `ssh-keygen -t ed25519`",
        )
    try:
        content = base64.b64decode(blob.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        content = b""
    # The key itself begins with its type: four bytes of length, then the name (RFC 4253, 6.6).
    named = content[4 : 4 + int.from_bytes(content[:4], "big")] if len(content) > 4 else b""
    if named != kind.encode() or len(content) < 4 + len(named) + 16:
        raise UsageError(f"{where}: the {kind} key in it is cut or damaged", hint="copy the .pub file whole")
    return PublicKey(kind, blob, _ODD.sub("-", comment).strip("-")[:80])
