"""What of the sdist a runtime keeps, and how jars are thinned out."""

import io
import zipfile

import pytest

from rpicluster.runtime import layout
from rpicluster.runtime.slim import copy_without


@pytest.mark.parametrize(
    ("member", "path"),
    [
        ("deps/jars/spark-core_2.13-4.1.4.jar", "jars/spark-core_2.13-4.1.4.jar"),
        ("deps/jars/spark-connect_2.13-4.1.4.jar", "jars/spark-connect_2.13-4.1.4.jar"),
        (
            "deps/jars/netty-epoll-4.2.7.Final-linux-aarch_64.jar",
            "jars/netty-epoll-4.2.7.Final-linux-aarch_64.jar",
        ),
        ("deps/jars/scala-compiler-2.13.17.jar", "jars/scala-compiler-2.13.17.jar"),
        ("deps/bin/spark-submit", "bin/spark-submit"),
        ("deps/licenses/LICENSE-json4s.txt", "licenses/LICENSE-json4s.txt"),
        ("pyspark/sql/session.py", "python/pyspark/sql/session.py"),
        ("lib/py4j-0.10.9.9-src.zip", "python/lib/py4j-0.10.9.9-src.zip"),
        ("LICENSE", "LICENSE"),
        ("NOTICE", "NOTICE"),
    ],
)
def test_what_a_node_needs_is_kept(member, path):
    assert layout.destination(member) == path


@pytest.mark.parametrize(
    "member",
    [
        "deps/jars/hadoop-client-api-3.4.2.jar",
        "deps/jars/hadoop-client-runtime-3.4.2.jar",
        "deps/jars/kubernetes-model-core-7.4.1.jar",
        "deps/jars/spark-kubernetes_2.13-4.1.4.jar",
        "deps/jars/netty-codec-native-quic-4.2.7.Final-osx-x86_64.jar",
        "deps/jars/netty-tcnative-boringssl-static-2.0.74.Final-windows-x86_64.jar",
        "deps/jars/connect-repl/ammonite-repl-2.13.17_2.13.17-3.0.3.jar",
        "deps/bin/spark-submit.cmd",
        "deps/examples/pi.py",
        "deps/data/mllib/kmeans_data.txt",
        "setup.py",
        "pyspark.egg-info/PKG-INFO",
        "LICENSE/of/something/else",
        "",
    ],
)
def test_what_no_node_needs_is_left_out(member):
    assert layout.destination(member) is None


def test_the_daemons_logging_jars_stand_in_hadoop_too():
    assert layout.links("jars/log4j-1.2-api-2.24.3.jar") == ("hadoop/log4j-1.2-api-2.24.3.jar",)
    assert layout.links("jars/log4j-layout-template-json-2.24.3.jar") == ()


def test_only_the_protobuf_classes_stand_in_connect_and_no_init_above_them():
    assert layout.links("python/pyspark/sql/connect/proto/__init__.py") == (
        "connect/pyspark/sql/connect/proto/__init__.py",
    )
    for above in (
        "python/pyspark/__init__.py",
        "python/pyspark/sql/__init__.py",
        "python/pyspark/sql/connect/__init__.py",
    ):
        assert layout.links(above) == ()


def test_other_rules_make_another_hash(monkeypatch):
    before = layout.rules_bytes()
    monkeypatch.setattr(layout, "PRUNED", layout.PRUNED[1:])
    assert layout.rules_bytes() != before


def _jar(streamed):
    class Unseekable(io.RawIOBase):
        """Makes zipfile write data descriptors after the entries, as Java's own jar tool does."""

        def __init__(self):
            self.all = bytearray()

        def writable(self):
            return True

        def write(self, block):
            self.all += bytes(block)
            return len(block)

    out = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as jar:
        jar.writestr("a/", b"")
        for name in ("a/one.class", "native/x86.so", "a/ünï.class", "native/arm.so", "native/mac.jnilib"):
            jar.writestr(name, (name * 500).encode())
    return bytes(out.all) if streamed else out.getvalue()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_slimmed_jar_keeps_the_rest_byte_for_byte(streamed):
    whole, thin = io.BytesIO(_jar(streamed)), io.BytesIO()
    copy_without(whole, thin, lambda name: name.endswith((".jnilib", "x86.so")))
    with zipfile.ZipFile(thin) as jar:
        assert jar.testzip() is None
        assert jar.namelist() == ["a/", "a/one.class", "a/ünï.class", "native/arm.so"]
        assert jar.read("native/arm.so") == b"native/arm.so" * 500
    assert len(thin.getvalue()) < len(whole.getvalue())


def test_slimming_away_nothing_gives_the_same_bytes():
    whole, thin = io.BytesIO(_jar(streamed=True)), io.BytesIO()
    copy_without(whole, thin, lambda name: False)
    assert thin.getvalue() == whole.getvalue()


def test_a_broken_jar_is_not_slimmed():
    with pytest.raises(zipfile.BadZipFile):
        copy_without(io.BytesIO(_jar(streamed=False)[:-40]), io.BytesIO(), lambda name: False)
