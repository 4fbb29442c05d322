"""What runs on a node and what rpicluster put there: text of the node in, facts out."""

import json
import re

from rpicluster.model.machine import Daemon, DeployedFile, Manifest

_MARK = "-Drpicluster.unit="


def read_daemons(text: str) -> tuple[Daemon, ...]:
    """Return Hadoop and Spark processes from lines `PID USER [mark] CLASS... unit=UNIT`."""
    daemons = []
    for line in text.splitlines():
        pid, user, *words = line.split()
        classes = [word for word in words if word.startswith("org.apache.")]
        marks = [word.removeprefix(_MARK) for word in words if word.startswith(_MARK)]
        units = [word.removeprefix("unit=") for word in words if word.startswith("unit=")]
        daemons.append(
            Daemon(
                pid=int(pid),
                user=user,
                classes=tuple(classes),
                unit=(units[-1] if units else "") or None,
                mark=marks[0] if marks else None,
            )
        )
    return tuple(daemons)


def read_manifest(text: str) -> Manifest:
    """Return the manifest: `version`, `files` as {path: {sha256, mode, owner}}, and whatever else it says.

    `mode` is octal text, such as "0644", or a number.
    """
    document = json.loads(text)
    files = document.get("files", {})
    return Manifest(
        version=str(document["version"]),
        files={
            path: DeployedFile(
                sha256=about["sha256"], mode=_mode(about["mode"]), owner=str(about.get("owner", ""))
            )
            for path, about in files.items()
        },
        extra={key: value for key, value in document.items() if key not in ("version", "files")},
    )


def read_deployed(modes: str, hashes: str) -> dict[str, DeployedFile]:
    """Return files as they stand on the node, from `stat -c '%a %U %n'` and sha256sum(1).

    A file that is there and that the login may not read has "" for its hash: it is not known to differ.
    """
    sums = {}
    for line in hashes.splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match:
            sums[match[2]] = match[1]
    found = {}
    for line in modes.splitlines():
        mode, owner, path = line.split(" ", 2)
        found[path] = DeployedFile(sha256=sums.get(path, ""), mode=int(mode, 8), owner=owner)
    return found


def _mode(value: object) -> int:
    return int(value, 8) if isinstance(value, str) else int(str(value))
