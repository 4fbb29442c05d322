"""The session's token: made once, in a file that only its owner may read.

Not `token.py`: a keeper that runs from here has this directory in sys.path, where that name would hide
Python's own module.
"""

import os
import secrets
from pathlib import Path

from rpicluster.errors import LocalEngineError
from rpicluster.session.keeper.config import ConfigError, read_secret

TOKEN_BYTES = 32  # 256 random bits, 43 characters of URL-safe Base64


def create_token(path: Path) -> str:
    """Make a token and keep it in the new file `path`, mode 0600, in a directory that must exist.

    Raises FileExistsError if the file is there already: a token in use is never overwritten.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return token


def read_token(path: Path) -> str:
    """Return the token in `path`. Raises LocalEngineError if it is missing or others may read it."""
    try:
        return read_secret(str(path))
    except ConfigError as problem:
        raise LocalEngineError(str(problem), hint=f"chmod 600 '{path}', or run `rpicluster up`") from problem
