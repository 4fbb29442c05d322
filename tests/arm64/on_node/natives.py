"""Packs and unpacks with every native library, and runs SQL on the cluster; prints one JSON document."""

import json
import platform
import time

from pyspark.sql import SparkSession

TEXT = bytearray(b"rpicluster " * 10000)
spark = SparkSession.builder.appName("natives").getOrCreate()
java = spark.sparkContext._jvm


def zstd() -> list[object]:
    packed = java.com.github.luben.zstd.Zstd.compress(TEXT)
    back = java.com.github.luben.zstd.Zstd.decompress(packed, len(TEXT))
    return [java.com.github.luben.zstd.util.Native.isLoaded(), bytes(back) == bytes(TEXT)]


def lz4() -> list[object]:
    factory = java.net.jpountz.lz4.LZ4Factory.nativeInstance()
    packed = factory.fastCompressor().compress(TEXT)
    return [
        factory.toString(),
        bytes(factory.fastDecompressor().decompress(packed, len(TEXT))) == bytes(TEXT),
    ]


def snappy() -> list[object]:
    packed = java.org.xerial.snappy.Snappy.compress(TEXT)
    back = java.org.xerial.snappy.Snappy.uncompress(packed)
    return [java.org.xerial.snappy.Snappy.getNativeLibraryVersion(), bytes(back) == bytes(TEXT)]


def leveldb() -> list[object]:
    options = java.org.iq80.leveldb.Options()
    options.createIfMissing(True)
    factory = java.org.fusesource.leveldbjni.JniDBFactory.factory
    for _ in range(2):  # what was written is there after it was opened again
        database = factory.open(java.java.io.File("/root/leveldb"), options)
        for i in range(100):
            database.put(bytearray(b"k%03d" % i), bytearray(b"v%d" % i))
        value = bytes(database.get(bytearray(b"k042"))).decode()
        database.close()
    return ["JNI", value == "v42"]


def rocksdb() -> list[object]:
    java.org.rocksdb.RocksDB.loadLibrary()
    return [java.org.rocksdb.RocksDB.rocksdbVersion().toString(), True]


def sql() -> list[object]:
    spark.range(0, 100000, 1, 2).selectExpr("id", "id % 7 AS g").createOrReplaceTempView("numbers")
    rows = spark.sql("SELECT g, count(*), sum(id) FROM numbers GROUP BY g ORDER BY g").collect()
    return [list(row) for row in rows]


def parquet(codec: str) -> int:
    path = f"/user/pi/{codec}"  # in HDFS
    spark.range(1000).write.option("compression", codec).parquet(path)
    return spark.read.parquet(path).selectExpr("sum(id)").collect()[0][0]


answers: dict[str, object] = {
    "machine": [platform.machine(), java.java.lang.System.getProperty("os.arch")],
    "master": spark.sparkContext.master,
}
steps = {f.__name__: f for f in (sql, zstd, lz4, snappy, rocksdb)}
steps |= {f"parquet {codec}": (lambda codec=codec: parquet(codec)) for codec in ("zstd", "snappy", "lz4")}
steps["leveldb"] = leveldb  # last: where its library is missing, py4j loses its connection
for name, step in steps.items():
    started = time.monotonic()
    try:
        answers[name] = step()
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"[:300]
    answers[f"{name} s"] = round(time.monotonic() - started, 1)
print(json.dumps(answers))
