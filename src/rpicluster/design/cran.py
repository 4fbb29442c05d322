"""Which R packages a node gets from Debian, and which as sources from a CRAN-like repository."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rpicluster.errors import RPackageError
from rpicluster.model.spec import R_ITSELF

# Fields of DESCRIPTION whose packages must be there before one can be installed and loaded.
_NEEDS = ("Depends", "Imports", "LinkingTo")
_NEED = re.compile(r"([A-Za-z][A-Za-z0-9.]*)\s*(?:\(\s*(>=|<=|==|!=|>|<)\s*([0-9]+(?:[.-][0-9]+)*)\s*\))?")
_VERSION = re.compile(r"[0-9]+(?:[.-][0-9]+)*")
_FILE = re.compile(r"[A-Za-z0-9._+/-]+")
_OPERATORS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Need:
    """One package that another needs; without a relation any version will do. `R` is R itself."""

    name: str
    relation: str = ""
    version: str = ""

    def allows(self, version: str) -> bool:
        """Return whether that version will do."""
        return not self.relation or _OPERATORS[self.relation](release(version), release(self.version))

    def __str__(self) -> str:
        """Write it as DESCRIPTION does."""
        return f"{self.name} ({self.relation} {self.version})" if self.relation else self.name


@dataclass(frozen=True)
class SourcePackage:
    """A source package as its repository lists it; hashes are "" where the repository has none.

    `path` is below the repository's `src/contrib`.
    """

    name: str
    version: str
    needs: tuple[Need, ...] = ()
    compiles: bool = True
    path: str = ""
    md5: str = ""
    sha256: str = ""

    @property
    def file(self) -> str:
        """The usual name of its archive."""
        return f"{self.name}_{self.version}.tar.gz"


@dataclass(frozen=True)
class Offer:
    """What a node's apt would install for an R package: `r-cran-NAME`, and its version for R."""

    package: str
    version: str


@dataclass(frozen=True)
class Resolution:
    """What one node gets: Debian packages, and sources in the order in which they must be installed."""

    debian: tuple[str, ...]
    sources: tuple[SourcePackage, ...]

    @property
    def compiles(self) -> bool:
        """Whether a compiler is needed."""
        return any(source.compiles for source in self.sources)


Index = Mapping[str, tuple[SourcePackage, ...]]  # by name, the newest first


def release(version: str) -> tuple[int, ...]:
    """Return a version's numbers, which compare as R compares versions: `1.2-3` is 1, 2, 3; 1.0 < 1.0.0."""
    return tuple(int(part) for part in re.split(r"[.-]", version))


def r_version(debian: str) -> str | None:
    """Return the version of R, or of its package, in a Debian version: `1:1.2-3+dfsg-1~bpo12` holds 1.2-3."""
    upstream = debian.rpartition(":")[2]
    match = _VERSION.match(upstream.rpartition("-")[0] or upstream)
    return match[0] if match else None


def debian_name(package: str) -> str:
    """Return how Debian calls an R package."""
    return f"r-cran-{package.lower()}"


def read_needs(fields: Mapping[str, str]) -> tuple[Need, ...]:
    """Return what a DESCRIPTION says must be there; what it says in no known way is left out."""
    found = []
    for field in _NEEDS:
        for text in fields.get(field, "").split(","):
            match = _NEED.fullmatch(text.strip())
            if match and match[1] not in R_ITSELF:
                found.append(Need(match[1], match[2] or "", match[3] or ""))
    return tuple(dict.fromkeys(found))


def read_description(text: str) -> SourcePackage | None:
    """Return the package of a DESCRIPTION, or of a paragraph of PACKAGES; None where it is unusable."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if line[:1].isspace():
            fields[last] = f"{fields.get(last, '')} {line.strip()}"
        elif ":" in line:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    name, version = fields.get("Package", ""), fields.get("Version", "")
    if not _NEED.fullmatch(name) or not _VERSION.fullmatch(version):
        return None
    if fields.get("OS_type", "unix") != "unix":
        return None
    path = "/".join(
        part for part in (fields.get("Path", ""), fields.get("File", f"{name}_{version}.tar.gz")) if part
    )
    if not _FILE.fullmatch(path) or path.startswith("/") or ".." in path.split("/"):
        return None
    # A repository that does not say is believed to need a compiler; who links to C code does.
    compiles = fields.get("NeedsCompilation", "yes").lower() != "no" or bool(fields.get("LinkingTo"))
    return SourcePackage(
        name,
        version,
        read_needs(fields),
        compiles,
        path,
        fields.get("MD5sum", "").lower(),
        fields.get("SHA256", "").lower(),
    )


def read_index(text: str) -> dict[str, tuple[SourcePackage, ...]]:
    """Return what a repository's PACKAGES lists, the newest version of each package first."""
    found: dict[str, list[SourcePackage]] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        package = read_description(paragraph)
        if package is not None:
            found.setdefault(package.name, []).append(package)
    return {
        name: tuple(sorted(packages, key=lambda package: release(package.version), reverse=True))
        for name, packages in found.items()
    }


def resolve(
    wanted: Iterable[str],
    index: Index,
    *,
    offers: Mapping[str, Offer],
    r: str,
    own: SourcePackage | None = None,
    has_repository: bool = True,
) -> Resolution:
    """Return what a node with R `r` gets, so that all of `wanted` can be loaded there.

    Debian's package counts where its version will do, else the newest source that will. `offers` is by
    R's names in lower case, as Debian has them. `own` is always installed from its source.
    Raises RPackageError, naming who needs what.
    """
    search = _Search(index, offers, r, own, has_repository)
    for name in (*wanted, *((own.name,) if own else ())):
        search.need(Need(name), "cluster.yml")
    search.settle()
    debian = sorted(offers[name.lower()].package for name in search.from_debian)
    return Resolution(tuple(debian), _in_order(search.sources))


class _Search:
    """Requirements only grow, and what was taken from Debian may move to a source, never back: it ends."""

    def __init__(
        self,
        index: Index,
        offers: Mapping[str, Offer],
        r: str,
        own: SourcePackage | None,
        has_repository: bool,
    ) -> None:
        self._index = index
        self._offers = offers
        self._r = r
        self._own = own
        self._has_repository = has_repository
        self._needs: dict[str, dict[Need, str]] = {}  # by name: each need, and who has it
        self._open: list[str] = []
        self.from_debian: set[str] = set()
        self.sources: dict[str, SourcePackage] = {}

    def need(self, need: Need, by: str) -> None:
        """Note a need, to be looked at by `settle`."""
        if need.name == "R" or need.name in R_ITSELF:
            return
        known = self._needs.setdefault(need.name, {})
        if need not in known:
            known[need] = by
            self._open.append(need.name)

    def settle(self) -> None:
        """Choose until every need is met."""
        while self._open:
            name = self._open.pop(0)
            needs = self._needs[name]
            offer = self._offers.get(name.lower())
            is_own = self._own is not None and name == self._own.name
            if (
                offer is not None
                and not is_own
                and name not in self.sources
                and self._is_its_name(name)
                and all(need.allows(offer.version) for need in needs)
            ):
                self.from_debian.add(name)
                continue
            chosen = self._own if self._own is not None and is_own else self._newest(name)
            self.from_debian.discard(name)
            if self.sources.get(name) != chosen:
                self.sources[name] = chosen
                for need in chosen.needs:
                    self.need(need, f"{chosen.name} {chosen.version}")

    def _is_its_name(self, name: str) -> bool:
        """Whether a name is spelled as the repository does; Debian's names do not tell."""
        return name in self._index or _other_spelling(name, self._index) is None

    def _newest(self, name: str) -> SourcePackage:
        """Return the newest source that meets every need."""
        listed = self._index.get(name, ())
        fitting = [
            package
            for package in listed
            if all(need.allows(package.version) for need in self._needs[name])
            and all(need.allows(self._r) for need in package.needs if need.name == "R")
        ]
        if not fitting:
            raise self._refusal(name, listed)
        return fitting[0]

    def _refusal(self, name: str, listed: tuple[SourcePackage, ...]) -> RPackageError:
        needs, offer = self._needs[name], self._offers.get(name.lower())
        asked = "; ".join(f"{by} needs {need}" for need, by in needs.items() if by != "cluster.yml")
        where = f" ({asked})" if asked else ""
        has = f"Debian offers {offer.version}" if offer else f"Debian has no {debian_name(name)}"
        if listed:
            newest = listed[0]
            r_needs = [str(need) for need in newest.needs if need.name == "R" and not need.allows(self._r)]
            why = (
                f"it needs {r_needs[0]}, the node has R {self._r}" if r_needs else "no version there will do"
            )
            return RPackageError(
                f"R package {name}{where}: {has}, the repository {newest.version}, and {why}",
                hint=f"take {name} out of `r: packages:`, or name a repository with versions that fit",
            )
        if not self._has_repository:
            return RPackageError(
                f"R package {name}{where}: {has}, and cluster.yml names no repository for sources",
                hint=self._spelling(name) or "add to cluster.yml below `r:`  repository: https://…",
            )
        return RPackageError(
            f"R package {name}{where}: {has}, and the repository has none of that name",
            hint=self._spelling(name) or "see what it has in its src/contrib/PACKAGES",
        )

    def _spelling(self, name: str) -> str | None:
        close = _other_spelling(name, self._index)
        if close is None:
            others = [known for known in (*self._index, *self._offers) if known.lower() != name.lower()]
            close = next(iter(difflib.get_close_matches(name, others, n=1, cutoff=0.7)), None)
        return f'did you mean "{close}"?' if close else None


def _other_spelling(name: str, index: Index) -> str | None:
    """Return the package whose name differs in capitals alone."""
    if name in index:
        return None
    lower = name.lower()
    return next((known for known in index if known.lower() == lower), None)


def _in_order(sources: Mapping[str, SourcePackage]) -> tuple[SourcePackage, ...]:
    """Return sources, each behind those that it needs. Raises RPackageError for a circle."""
    done: dict[str, SourcePackage] = {}
    waiting = dict(sorted(sources.items()))
    while waiting:
        ready = [
            package
            for package in waiting.values()
            if not any(need.name in waiting and need.name != package.name for need in package.needs)
        ]
        if not ready:
            raise RPackageError(
                f"R packages need each other in a circle: {', '.join(waiting)}", hint="tell their repository"
            )
        for package in ready:
            done[package.name] = waiting.pop(package.name)
    return tuple(done.values())
