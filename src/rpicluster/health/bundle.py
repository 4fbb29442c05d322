"""The tarball for a bug report: everything that was seen, redacted, for this user's eyes first."""

import getpass
import gzip
import io
import json
import os
import platform
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rpicluster import __version__
from rpicluster.design.units import Rendered
from rpicluster.errors import RpiclusterError, UsageError
from rpicluster.health.doctor import Examination
from rpicluster.health.redaction import Redactor
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.ssh.openssh import OpenSsh

LOG_LINES = 300
_LOG_BYTES = 256 << 10
_LOG_DEADLINE_S = 15.0
_FOLDER = "rpicluster-report"
README = """\
Made by `rpicluster doctor --bundle`. Secrets were removed; user names, public addresses, serial numbers and
machine-ids were replaced, the same by the same. Private addresses and host names are as they are.
Look through it before you send it.
"""
# Runs on a node; $1 is a number of lines. Only rpicluster's own logs.
_TAIL = (
    "for file in /var/log/rpicluster/*.log /var/log/rpicluster/*.out; do "
    '[ -f "$file" ] && printf "==> %s <==\\n" "$file" && tail -n "$1" "$file"; done; '
    'journalctl -u "rpicluster*" -n "$1" --no-pager 2>&1; true'
)


def documents(
    examination: Examination,
    *,
    spec_text: str,
    plan: str,
    rendered: Rendered | None,
    logs: Mapping[str, str],
) -> dict[str, object]:
    """Return every file of a bundle by its name, before redaction: text, or values that become JSON.

    `plan` is in words: a saved plan holds files in base64, in which nothing could be redacted.
    """
    facts = {
        name: seen.model_dump(mode="json") if isinstance(seen, MachineFacts) else {"error": seen.message}
        for name, seen in examination.nodes.items()
    }
    versions = {
        "rpicluster": __version__,
        "python": platform.python_version(),
        "control machine": platform.platform(),
    }
    files: dict[str, object] = {
        "README.txt": README,
        "findings.json": examination.document(),
        "facts.json": facts,
        "versions.json": versions,
        "cluster.yml": spec_text,
        "plan.txt": plan,
    }
    for node, by_path in (rendered.files if rendered else {}).items():
        for path, file in by_path.items():
            if not path.endswith(".py"):  # the program's own source, the same for everybody
                files[f"rendered/{node}/{path}"] = _parsed(path, file.content.decode(errors="replace"))
    return files | {f"logs/{name}": text for name, text in logs.items()}


def _parsed(path: str, text: str) -> object:
    """Return the values in a JSON file: inside of its strings secrets are found, behind its escapes not."""
    try:
        return json.loads(text) if path.endswith(".json") else text
    except ValueError:
        return text


def redactor(
    spec: ClusterSpec, examination: Examination, files: Mapping[str, object], secrets: Iterable[str]
) -> Redactor:
    """Return what redacts a bundle: it knows the users and ids of spec and facts, and the given secrets."""
    users = {*spec.users, *(node.ssh.user for node in spec.nodes if node.ssh and node.ssh.user), _login()}
    private: set[str] = set()
    for facts in examination.nodes.values():
        if isinstance(facts, MachineFacts):
            users |= {facts.login or "", *(daemon.user for daemon in facts.daemons)}
            users |= {file.owner for file in facts.deployed.values()}
            private |= {facts.machine_id or "", facts.boot_id or ""}
            private |= {facts.board.serial or ""} if facts.board else set()
            private |= {disk.serial or "" for disk in facts.disks}
            private |= {key.fingerprint.removeprefix("SHA256:") for key in facts.host_keys}
    found = Redactor(secrets=secrets, users=users, private=private)
    for name, content in files.items():
        found.learn(name)
        found.learn(content if isinstance(content, str) else _json(content))
    return found


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return ""


def write_bundle(path: Path, files: Mapping[str, object], redact: Redactor) -> int:
    """Write the redacted files as a .tar.gz of mode 0600; return its size in bytes.

    It holds no names, times or owners of this machine. Raises UsageError if `path` exists or cannot be made.
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            found = files[name]
            text = redact.redact(found) if isinstance(found, str) else _json(redact.redact_value(found))
            content = text.encode()
            entry = tarfile.TarInfo(f"{_FOLDER}/{redact.redact(name)}")
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} is there already; it is not overwritten", hint="give --bundle another name"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(packed.getvalue())
    return len(packed.getvalue())


def local_logs(folder: Path) -> dict[str, str]:
    """Return the last lines of a local cluster's logs by their names below `folder`."""
    return {
        str(path.relative_to(folder)): _tail(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".log", ".out") and path.is_file()
    }


def node_logs(spec: ClusterSpec, examination: Examination, ssh: OpenSsh) -> dict[str, str]:
    """Return the last lines of the daemons' logs of all nodes that were seen and were set up."""
    wanted = [
        (node.name, node.ssh, facts.privilege == "sudo")
        for node in spec.nodes
        if node.ssh
        and isinstance(facts := examination.nodes.get(node.name), MachineFacts)
        and (facts.manifest is not None or any(name.startswith("rpicluster") for name in facts.units))
    ]

    def read() -> Iterator[tuple[str, str]]:
        with ThreadPoolExecutor(max(1, len(wanted))) as pool:
            futures = {
                name: pool.submit(
                    ssh.run,
                    target,
                    ["sh", "-c", _TAIL, "sh", str(LOG_LINES)],
                    node=name,
                    deadline_s=_LOG_DEADLINE_S,
                    sudo=sudo,
                )
                for name, target, sudo in wanted
            }
            for name, future in futures.items():
                try:
                    yield f"{name}.log", future.result().stdout.decode(errors="replace")
                except RpiclusterError as error:
                    yield f"{name}.log", f"could not be read: {error.message}\n"

    return dict(read())


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:]) + "\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"
