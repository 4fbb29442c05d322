"""The tables that a new project begins with: the flights of New York 2013."""

import shlex
from collections.abc import Callable

from rpicluster.cluster import Cluster
from rpicluster.demo import data, run
from rpicluster.errors import UsageError

Update = Callable[[str, float, float | None, str], None]  # (what, done, total, text)


def load_flights(cluster: Cluster, update: Update) -> dict[str, int]:
    """Make the tables that are not there yet, and return the rows of each.

    Raises UsageError for a table of the same name with other rows: it is somebody's.
    """
    with cluster.session() as session:
        there = {row[1] for row in session.sql("SHOW TABLES IN rpi.default").rows()}
        for name in there & set(data.ROWS):
            rows = int(session.sql(f"SELECT count(*) FROM rpi.default.{name}").rows()[0][0])
            if rows != data.ROWS[name]:
                keep = f"create table my_{name} as select * from {name}"
                raise UsageError(
                    f"there is a table {name} with {rows:,} rows, not the flights of 2013; it stays",
                    hint=f"rpicluster sql --cluster {cluster.name} {shlex.quote(keep)}; then drop {name}",
                )
    folder = data.fetch(lambda p: update(p.what, p.done_bytes, p.total_bytes or None, p.phase))
    run.load_tables(cluster, folder, lambda name, done, total: update(name, done, total, "into HDFS"))
    return data.ROWS
