"""What a keeper is told: its configuration file and its secrets."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from .doors import DOOR_KINDS

SCHEMA = 1
CHORE_TIMEOUT_S = 3600


class ConfigError(Exception):
    """The configuration or a secret file cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Door:
    """One way into the session: `kind` chooses the question that the keeper asks there."""

    kind: str
    host: str
    port: int
    session: int = 0  # sparklyr's number of it
    namespace: str = ""  # that clients of sparklyr find in use


@dataclass(frozen=True)
class Chore:
    """A command that runs every `every_s` seconds while the session is healthy."""

    name: str
    every_s: float
    argv: list[str]
    timeout_s: float = CHORE_TIMEOUT_S


@dataclass(frozen=True)
class Config:
    """What to start, where it answers, and how patient to be."""

    name: str
    java: list[str]
    environment: dict[str, str]
    secret_environment: dict[str, str]  # variable -> path of a file that only its owner may read
    directory: str
    log: str
    doors: list[Door]
    ui: str
    resourcemanager: str
    user: str
    status_file: str
    probe_interval_s: float = 5
    probe_timeout_s: float = 5
    start_timeout_s: float = 120
    namenode: str | None = None  # base URL; a driver that starts while HDFS is in safe mode dies of it
    failures_before_restart: int = 2
    sleep_after_s: float | None = None  # without a client or a task; None: never
    chores: list[Chore] = field(default_factory=list)


def load_config(path: str) -> Config:
    """Read the configuration. Raises ConfigError that names the file and the key."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        if raw.pop("schema", None) != SCHEMA:
            raise ConfigError(f'{path}: "schema" must be {SCHEMA}')
        raw["doors"] = [Door(**door) for door in raw.get("doors", [])]
        raw["chores"] = [Chore(**chore) for chore in raw.get("chores", [])]
        config = Config(**raw)
    except (OSError, ValueError, TypeError, AttributeError) as problem:
        raise ConfigError(f"{path}: {problem}") from problem
    for door in config.doors:
        if door.kind not in DOOR_KINDS:
            raise ConfigError(f"{path}: doors: unknown kind {door.kind!r}; known: {', '.join(DOOR_KINDS)}")
    if not config.java or not config.doors:
        raise ConfigError(f'{path}: "java" and "doors" must not be empty')
    return config


def read_secret(path: str) -> str:
    """Return the one line of a secret file. Raises ConfigError if anybody but its owner may open it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
                raise ConfigError(
                    f"{path}: a secret must be a file of {os.geteuid()} with mode 0600, "
                    f"this one belongs to {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}"
                )
            secret = file.read(4096).strip()
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path}: the secret cannot be read: {problem}") from problem
    if not re.fullmatch(r"[!-~]+", secret):
        raise ConfigError(f"{path}: a secret is one line of printable ASCII without spaces")
    return secret
