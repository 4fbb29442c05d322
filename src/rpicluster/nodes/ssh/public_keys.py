"""The user's public key on this machine. A private key is read only to refuse it."""

from pathlib import Path

from rpicluster.errors import UsageError
from rpicluster.model.ssh_key import PublicKey, parse_public_keys

# In the order in which ssh itself tries them, but for RSA, which goes last (ssh_config(5), IdentityFile).
DEFAULT_NAMES = ("id_ed25519", "id_ecdsa", "id_ed25519_sk", "id_ecdsa_sk", "id_rsa")
_MAX_BYTES = 64 * 1024


def public_keys(given: Path | None, home: Path | None = None) -> tuple[Path, tuple[PublicKey, ...]]:
    """Return the file and the keys of `given`, or of the first default key in ~/.ssh; raises UsageError."""
    path = given or _default((home or Path.home()) / ".ssh")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(
            f"the public key {path} cannot be read: {why}", hint="make one: ssh-keygen -t ed25519"
        ) from error
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{path} is larger than 64 KiB, which is no public key")
    return path, parse_public_keys(text, str(path))


def _default(folder: Path) -> Path:
    for name in DEFAULT_NAMES:
        path = folder / f"{name}.pub"
        if path.is_file():
            return path
    raise UsageError(
        f"there is no public key in {folder}, so nobody could log in on the nodes",
        hint="make one: ssh-keygen -t ed25519    or name one: --key FILE.pub",
    )
