"""R packages for nodes: asked of each node's apt, resolved, fetched once, told to the change."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rpicluster import rpackage
from rpicluster.design.cran import Resolution, SourcePackage, read_description, resolve
from rpicluster.errors import RPackageError, RpiclusterError
from rpicluster.model.machine import MachineFacts, RInstallation
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.remote.commands import Nodes, node_script
from rpicluster.nodes.remote.r_work import (
    R,
    RRequest,
    RWork,
    offers_of,
    pins_of,
    r_of,
    removal,
    with_pins,
    work_of,
)
from rpicluster.runtime import store
from rpicluster.runtime.cran import fetch_index, fetch_source
from rpicluster.sites.site import Report

_OFFERS_S = 420.0  # apt-get update on a Pi, behind unattended-upgrades
_LEFT_OUT = ("tests", "man", ".Rbuildignore", "LICENSE.note", "NEWS.md")


def r_request(spec: ClusterSpec) -> RRequest | None:
    """Return what a spec wants of R on its nodes, None for nothing."""
    if spec.r is None:
        return None
    text, archive = _own_source()
    own = read_description(text)
    if own is None:
        raise RPackageError("rpicluster's own R package is not whole", hint="install rpicluster again")
    sha256 = hashlib.sha256(archive).hexdigest()
    # It is plain R code, though its DESCRIPTION need not say so.
    return RRequest(spec.r.packages, spec.r.repository or "", replace(own, compiles=False, sha256=sha256))


def _own_source() -> tuple[str, bytes]:
    """Return our package's DESCRIPTION and its source as an archive: the same bytes from the same files."""
    written = io.BytesIO()
    with rpackage.source() as folder:
        text = (folder / "DESCRIPTION").read_text(encoding="utf-8")
        with (
            gzip.GzipFile(fileobj=written, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(folder)
                if path.is_file() and name.parts[0] not in _LEFT_OUT:
                    content = path.read_bytes()
                    entry = tarfile.TarInfo(f"rpicluster/{name.as_posix()}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return text, written.getvalue()


class RPackages:
    """What nodes of one cluster get of R."""

    def __init__(
        self, nodes: Nodes, machines: Mapping[str, MachineFacts | None], request: RRequest | None
    ) -> None:
        """Serve `request` to nodes that were seen as `machines`; None takes R packages away."""
        self._nodes = nodes
        self._machines = machines
        self._request = request

    def work(
        self, names: Sequence[str], *, report: Report, whole: bool = False
    ) -> tuple[dict[str, RWork], dict[str, RpiclusterError]]:
        """Return what each of these nodes gets, and errors of those that could not be asked.

        With `whole` also the sources that they have already.
        Raises RPackageError, which names package and node; then nothing was changed but apt's lists.
        """
        request = self._request
        if request is None:
            return {name: removal() for name in names}, {}
        report("R packages", "asking each node's apt", 0.0)
        script = node_script("r_offers.py")
        answers, failed = self._nodes.each(
            lambda node: json.loads(self._nodes.python(node, script, b"", deadline_s=_OFFERS_S)), names
        )
        resolved = self._resolved(request, answers, report)
        sources = self._fetched(request, resolved, report)
        report("R packages", _summary(resolved), 1.0)
        work = {
            node: work_of(
                request, resolution, sources, None if whole else self._installed(node), self._python(node)
            )
            for node, resolution in resolved.items()
        }
        return work, failed

    def _installed(self, node: str) -> RInstallation | None:
        machine = self._machines[node]
        return machine.r if machine is not None else None

    def _python(self, node: str) -> str | None:
        machine = self._machines[node]
        return machine.python if machine is not None else None

    def _resolved(
        self, request: RRequest, answers: Mapping[str, Mapping[str, str]], report: Report
    ) -> dict[str, Resolution]:
        """Return what each node gets; the repository is only read where Debian does not have all."""
        pins = pins_of(self._machines, request.repository)
        try:
            return {
                node: self._resolve(node, request, {}, offers, final=not request.repository)
                for node, offers in answers.items()
            }
        except RPackageError:
            if not request.repository:
                raise
        report("R packages", "reading the repository's list", 0.2)
        listed = with_pins(fetch_index(request.repository), pins)
        return {
            node: self._resolve(node, request, listed, offers, final=True) for node, offers in answers.items()
        }

    def _resolve(
        self,
        node: str,
        request: RRequest,
        index: Mapping[str, tuple[SourcePackage, ...]],
        candidates: Mapping[str, str],
        *,
        final: bool,
    ) -> Resolution:
        machine = self._machines[node]
        r = r_of(machine, candidates) if machine is not None else None
        if r is None:
            raise RPackageError(
                f"{node}: its system offers no R ({R})", hint=f"rpicluster ssh {node} apt-cache policy {R}"
            )
        try:
            return resolve(
                request.packages,
                index,
                offers=offers_of(candidates),
                r=r,
                own=request.own,
                has_repository=bool(request.repository) and final,
            )
        except RPackageError as error:
            raise RPackageError(f"{node}: {error.message}; nothing was changed", hint=error.hint) from error

    def _fetched(
        self, request: RRequest, resolved: Mapping[str, Resolution], report: Report
    ) -> dict[str, tuple[Path, str]]:
        """Fetch each source once; return paths and SHA-256 by name."""
        pins = pins_of(self._machines, request.repository)
        wanted: dict[str, SourcePackage] = {}
        for node, resolution in resolved.items():
            for package in resolution.sources:
                other = wanted.setdefault(package.name, package)
                if other.version != package.version:
                    raise RPackageError(
                        f"{node} needs {package.name} {package.version} and other nodes {other.version}: "
                        "their versions of R differ too much",
                        hint="write the same release to all cards",
                    )
        found = {request.own.name: kept_own(request)}
        for number, (name, package) in enumerate(wanted.items()):
            if name not in found:
                report("R packages", f"fetching {package.file}", number / len(wanted))
                pin = pins.get(name)
                pinned = pin.sha256 if pin is not None and pin.package.version == package.version else ""
                found[name] = fetch_source(package, request.repository, pinned_sha256=pinned)
        return found


def kept_own(request: RRequest) -> tuple[Path, str]:
    """Write our own package's source into the cache; return its path and SHA-256."""
    folder = store.runtimes_dir().parent / "r"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{request.own.sha256}.tar.gz"
    fresh = path.with_name(f".new-{path.name}")
    fresh.write_bytes(_own_source()[1])
    fresh.replace(path)
    return path, request.own.sha256


def _summary(resolved: Mapping[str, Resolution]) -> str:
    sources = {package.file for each in resolved.values() for package in each.sources}
    debian = {name for each in resolved.values() for name in each.debian}
    return f"{len(debian)} from Debian, {len(sources)} from source"
