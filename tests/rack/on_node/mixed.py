"""A shuffle and a function over two executors; says which Java made what each of them got."""

import os
import re
import time

from pyspark.sql import SparkSession

spark = SparkSession.builder.appName("mixed").getOrCreate()
sc = spark.sparkContext
for _ in range(60):
    if sc._jsc.sc().getExecutorMemoryStatus().size() >= 3:
        break
    time.sleep(1)


def version():
    """Return the version of the Java that started this worker, by its place."""
    pid = os.getpid()
    while not (program := os.readlink(f"/proc/{pid}/exe")).endswith("/java"):
        pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    return re.search(r"java-(\d+)-", program)[1]


factor = 3


def scale(number):
    return number * factor


def mapped(numbers):
    made = version()
    time.sleep(0.5)
    return [(number % 97, (scale(number), made)) for number in numbers]


def reduced(groups):
    at = version()
    time.sleep(0.3)
    return [(at, {made for _, made in rows}, sum(value for value, _ in rows)) for _, rows in groups]


numbers = sc.parallelize(range(400000), 16)
found = numbers.mapPartitions(mapped).groupByKey(16).mapPartitions(reduced).collect()
print("total", sum(value for _, _, value in found))
crossed = {at: sorted(set().union(*(made for where, made, _ in found if where == at))) for at, _, _ in found}
print("crossed", *(f"{at}<-{','.join(made)}" for at, made in sorted(crossed.items())))
spark.stop()
