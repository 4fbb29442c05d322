"""A small runtime: an sdist and jars of a few kilobytes, a lock over them, and local fetchers."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

from rpicluster.runtime.lock import Artifact, Lock
from rpicluster.runtime.pip_fetch import fetch_with_pip

LOGGING = (
    "slf4j-api-2.0.17",
    "log4j-api-2.24.3",
    "log4j-core-2.24.3",
    "log4j-slf4j2-impl-2.24.3",
    "log4j-1.2-api-2.24.3",
    "jcl-over-slf4j-2.0.17",
)
SETUP = b"from setuptools import setup\nsetup(name='pyspark', version='9.9.9', packages=[])\n"


def a_jar(*names):
    """The bytes of a jar that holds entries of these names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as jar:
        for name in names:
            jar.writestr(zipfile.ZipInfo(name), name.encode() * 100)
    return out.getvalue()


def sdist_members():
    """What stands in the sdist: path under its top folder, and content."""
    return {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: pyspark\nVersion: 9.9.9\n",
        "setup.py": SETUP,
        "LICENSE": b"licence",
        "deps/licenses/LICENSE-x.txt": b"another licence",
        "deps/bin/spark-submit": b"#!/bin/sh\n",
        "deps/bin/spark-submit.cmd": b"rem",
        "deps/examples/pi.py": b"3.14" * 1000,
        "deps/jars/spark-core_2.13-9.9.9.jar": bytes(range(256)) * 40,
        "deps/jars/hadoop-client-api-3.4.2.jar": b"old" * 1000,
        "deps/jars/rocksdbjni-9.8.4.jar": a_jar(
            "org/rocksdb/RocksDB.class",
            "librocksdbjni-linux64.so",
            "librocksdbjni-linux64-musl.so",
            "librocksdbjni-linux-aarch64.so",
            "librocksdbjni-win64.dll",
        ),
        **{f"deps/jars/{name}.jar": name.encode() for name in LOGGING},
        "pyspark/__init__.py": b"raise ImportError('pyspark itself must not be imported')\n",
        "pyspark/sql/connect/proto/__init__.py": b"from pyspark.sql.connect.proto.base_pb2 import ANSWER\n",
        "pyspark/sql/connect/proto/base_pb2.py": b"ANSWER = 42\n",
        "lib/py4j-0.10-src.zip": b"py4j",
    }


def sdist_bytes(members, extra=()):
    """A tar.gz of these members; `extra` are TarInfo objects added as they are."""
    out = io.BytesIO()
    # A fixed time: a second Shop over the same folder publishes the same bytes.
    with (
        gzip.GzipFile(fileobj=out, mode="w", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for path, content in members.items():
            info = tarfile.TarInfo(f"pyspark-9.9.9/{path}")
            info.size, info.mode = len(content), 0o600
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info, io.BytesIO(b"x" * info.size) if info.isreg() else None)
    return out.getvalue()


class Shop:
    """Where the small runtime is published: files in a folder, and fetchers that count what they hand out."""

    def __init__(self, folder: Path, sdist: bytes | None = None):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.fetched = []
        self.members = sdist_members()
        self.contents = {
            "hadoop-client-api": a_jar("org/apache/hadoop/Api.class"),
            "hadoop-client-minicluster": a_jar("org/apache/hadoop/Mini.class"),
            "pyspark": sdist_bytes(self.members) if sdist is None else sdist,
        }
        self.lock = Lock(
            (
                self._artifact(
                    "maven-jar", "hadoop-client-api", "3.5.0", ".jar", into=("jars", "hadoop"), group="o.a.h"
                ),
                self._artifact(
                    "maven-jar", "hadoop-client-minicluster", "3.5.0", ".jar", into=("hadoop",), group="o.a.h"
                ),
                self._artifact("pypi-sdist", "pyspark", "9.9.9", ".tar.gz", unpacked_bytes=60_000),
            )
        )

    def _artifact(self, kind, name, version, suffix, **more):
        content = self.contents[name]
        filename = f"{name}-{version}{suffix}"
        (self.folder / filename).write_bytes(content)
        return Artifact(
            kind, name, version, filename, hashlib.sha256(content).hexdigest(), len(content), **more
        )

    def path(self, name):
        """The published file of an artifact."""
        return next(self.folder / a.filename for a in self.lock.artifacts if a.name == name)

    def hand_out(self, artifact, into, report):
        """A fetcher: copies the published file, as a download would."""
        self.fetched.append(artifact.name)
        target = into / artifact.filename
        target.write_bytes((self.folder / artifact.filename).read_bytes())
        return target

    @property
    def fetchers(self):
        """Both kinds from the folder."""
        return {"maven-jar": self.hand_out, "pypi-sdist": self.hand_out}

    @property
    def fetchers_with_pip(self):
        """Jars from the folder, the sdist by the real pip."""
        return {"maven-jar": self.hand_out, "pypi-sdist": fetch_with_pip}


def everything_in(cache):
    """All paths under a cache folder that are files, for "nothing is left over"."""
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file() and p.name != ".lock")
