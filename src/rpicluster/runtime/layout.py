"""Where each file of the sdist stands in the runtime, and which are left out and why. Pure.

The result is a SPARK_HOME. `rules_bytes` covers everything here that changes the stored bytes,
so that a runtime built by other rules has another content hash.
"""

import json
import re
from dataclasses import dataclass

LAYOUT_VERSION = 1


@dataclass(frozen=True)
class Rule:
    """Files that no node needs: a pattern over the path in the runtime, and the reason."""

    pattern: str
    why: str


MOVES: tuple[tuple[str, str], ...] = (
    ("deps/jars/", "jars/"),
    ("deps/bin/", "bin/"),
    ("deps/sbin/", "sbin/"),
    ("deps/licenses/", "licenses/"),
    ("pyspark/", "python/pyspark/"),
    ("lib/", "python/lib/"),
    ("LICENSE", "LICENSE"),
    ("NOTICE", "NOTICE"),
)
"""First match wins; a member of the sdist that none matches is packaging, sample data or an example."""

PRUNED: tuple[Rule, ...] = (
    Rule(
        r"jars/hadoop-client-(api|runtime)-[^/]*\.jar",
        "another Hadoop's client, replaced",
    ),
    Rule(r"jars/connect-repl/.*", "the Scala shell of Spark Connect's client; nodes are servers"),
    Rule(
        r"jars/(kubernetes|spark-kubernetes|vertx)[-_][^/]*\.jar",
        "Spark on Kubernetes",
    ),
    Rule(r"jars/[^/]*-(osx|windows)-[^/]*\.jar", "native libraries of other systems"),
    Rule(r"jars/[^/]*-linux-riscv64\.jar", "native libraries of another processor"),
    Rule(r"bin/[^/]*\.cmd", "Windows scripts"),
    Rule(
        r"bin/(docker-image-tool\.sh|run-example|sparkR|spark-connect-shell)", "they start what is not here"
    ),
)

SLIMMED: tuple[tuple[str, str, str], ...] = (
    (
        r"jars/rocksdbjni-[^/]*\.jar",
        r"librocksdbjni-.*\.(so|jnilib|dll)",
        r"librocksdbjni-(linux64|linux-aarch64)\.so",
    ),
    (
        r"jars/zstd-jni-[^/]*\.jar",
        r".*/libzstd-jni-.*\.(so|dylib|dll)",
        r"linux/(amd64|aarch64)/libzstd-jni-.*\.so",
    ),
)
"""Jars whose native libraries are thinned out: (jar, its native libraries, those that stay).

What stays is Linux with glibc on amd64 and arm64.
"""

DAEMONS_SHARE = (
    r"jars/(slf4j-api|log4j-api|log4j-core|log4j-slf4j2-impl|log4j-1\.2-api|jcl-over-slf4j)-\d[^/]*\.jar"
)
"""Spark's jars that the Hadoop daemons need too: hard links in `hadoop/`."""
DAEMONS_SHARE_COUNT = 6

CONNECT_SHARE = r"python/(pyspark/sql/connect/proto/.*)"
"""The protobuf classes of Spark Connect; in `connect/` they import without pyspark's own `__init__`."""


def destination(member: str) -> str | None:
    """Path in the runtime for a member of the sdist, its top folder cut off; None if it is left out."""
    for old, new in MOVES:
        if member == old or (old.endswith("/") and member.startswith(old)):
            path = new + member[len(old) :]
            return None if any(re.fullmatch(rule.pattern, path) for rule in PRUNED) else path
    return None


def links(path: str) -> tuple[str, ...]:
    """Other paths under which the file at `path` stands as well."""
    if re.fullmatch(DAEMONS_SHARE, path):
        return ("hadoop/" + path.removeprefix("jars/"),)
    if shared := re.fullmatch(CONNECT_SHARE, path):
        return ("connect/" + shared[1],)
    return ()


def entry_filter(path: str) -> tuple[re.Pattern[str], re.Pattern[str]] | None:
    """For a jar to be slimmed: which entries are native libraries, and which of them stay."""
    for jar, native, stays in SLIMMED:
        if re.fullmatch(jar, path):
            return re.compile(native), re.compile(stays)
    return None


def is_program(path: str) -> bool:
    """True for files that carry the run bit, whatever the sdist's own mode says."""
    return path.startswith(("bin/", "sbin/"))


def rules_bytes() -> bytes:
    """The same bytes for the same rules, for hashing."""
    rules = [LAYOUT_VERSION, MOVES, [r.pattern for r in PRUNED], SLIMMED, DAEMONS_SHARE, CONNECT_SHARE]
    return json.dumps(rules).encode()
