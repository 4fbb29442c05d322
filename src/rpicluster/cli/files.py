"""`put`, `get`, `ls`, `rm`, `df`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rpicluster.cli.console import console, human_bytes, human_duration
from rpicluster.cli.options import cluster_option, examples, find_cluster, json_option, yes_option
from rpicluster.errors import UsageError

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster
    from rpicluster.services.ingest import Mode


@click.command(
    epilog=examples(
        "rpicluster put flights.csv",
        "rpicluster put measurements/ /data/2026",
        "rpicluster put flights.csv.gz --table flights",
        "rpicluster put new.csv --table flights --append",
        "rpicluster put t.csv --table t --types 'id bigint, price decimal(10,2)'",
    )
)
@click.argument("local", type=click.Path(path_type=Path))
@click.argument("remote", required=False)
@cluster_option
@click.option("--table", metavar="NAME", help="Make a persistent table of it instead of a file.")
@click.option("--append", is_flag=True, help="With --table: add the rows to the table that is there.")
@click.option("--replace", is_flag=True, help="With --table: replace the table; without: overwrite the file.")
@click.option(
    "--types", metavar="'NAME TYPE, …'", help="With --table: column types that override what was found."
)
@click.option(
    "--na",
    "na_strings",
    multiple=True,
    help="With --table: text that means missing [default: NA and nothing].",
)
@yes_option
@json_option
def put(
    local: Path,
    remote: str | None,
    which: str | None,
    table: str | None,
    append: bool,
    replace: bool,
    types: str | None,
    na_strings: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Copy LOCAL, a file or a folder, to REMOTE in HDFS [default: your HDFS home], or into a table.

    A file appears under its final name only when it is whole and its checksum was compared. Tables are
    made of CSV, CSV.gz, Parquet, .rds, or a folder of one kind of these; the column types are shown first.
    In CSV, an empty field and NA are missing values; a quoted empty field is an empty string.
    """
    if append and replace:
        raise UsageError("--append and --replace exclude each other")
    if table is None and (append or types or na_strings):
        raise UsageError("--append, --types and --na need --table")
    cluster = find_cluster(which)
    if table is not None:
        mode: Mode = "append" if append else "replace" if replace else "create"
        _put_table(cluster, local, table, mode, types, na_strings or ("NA", ""), yes=yes, as_json=as_json)
        return
    target = cluster.hdfs_path(remote or "", default_name=local.name)
    started = time.monotonic()
    with console.bars() as update:
        count = cluster.put(
            local,
            target,
            overwrite=replace,
            progress=lambda done, total: update(
                local.name, done, total, f"{human_bytes(done)} of {human_bytes(total)}"
            ),
        )
    if as_json:
        console.document({"path": target, "bytes": count})
    console.say(
        f"{target}: {human_bytes(count)} in {human_duration(time.monotonic() - started)}, checksum compared"
    )


def _put_table(
    cluster: "Cluster",
    local: Path,
    table: str,
    mode: "Mode",
    types: str | None,
    na_strings: tuple[str, ...],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    from rpicluster.services.ingest import prepare, write_table

    source = prepare(local, types=types, na_strings=na_strings)
    console.say(f"{table}: {len(source.columns)} columns from {local}")
    for column in source.columns:
        console.say(f"  {column.name:<24} {column.type:<16} {column.reason}")
    if not console.confirm(f"{mode.capitalize()} table {table} like this?", yes=yes):
        raise UsageError("nothing was changed")
    with console.bars() as update, cluster.session() as session:
        rows = write_table(
            source,
            table,
            mode,
            webhdfs=cluster.webhdfs,
            session=session,
            staging=cluster.hdfs_path(".rpicluster-staging"),
            progress=lambda done, total: update(
                table, done, total, f"{human_bytes(done)} of {human_bytes(total)}"
            ),
        )
    if as_json:
        console.document({"table": table, "rows": rows, "mode": mode})
    console.say(f"{table}: {rows} rows")
    console.next_step(f"rpicluster tables {table}", f"rpicluster sql 'select * from {table} limit 10'")


@click.command(epilog=examples("rpicluster get flights.csv", "rpicluster get /data/2026 ./here"))
@click.argument("remote")
@click.argument("local", type=click.Path(path_type=Path), default=Path())
@cluster_option
@click.option("--replace", is_flag=True, help="Overwrite what is there.")
@json_option
def get(remote: str, local: Path, which: str | None, replace: bool, as_json: bool) -> None:
    """Copy REMOTE, a file or a folder in HDFS, to LOCAL [default: here]."""
    cluster = find_cluster(which)
    source = cluster.hdfs_path(remote)
    target = local / Path(source).name if local.is_dir() else local
    with console.bars() as update:
        count = cluster.webhdfs.get(
            source,
            target,
            overwrite=replace,
            progress=lambda done, total: update(
                target.name, done, total, f"{human_bytes(done)} of {human_bytes(total)}"
            ),
        ).bytes
    if as_json:
        console.document({"path": str(target), "bytes": count})
    console.say(f"{target}: {human_bytes(count)}, checksum compared")


@click.command(epilog=examples("rpicluster ls", "rpicluster ls /data --json"))
@click.argument("remote", default="")
@cluster_option
@json_option
def ls(remote: str, which: str | None, as_json: bool) -> None:
    """List REMOTE [default: your HDFS home]."""
    cluster = find_cluster(which)
    entries = cluster.webhdfs.list(cluster.hdfs_path(remote))
    if as_json:
        console.document({"entries": [entry.document() for entry in entries]})
        return
    console.table(
        ("mode", "owner", "size", "modified", "name"),
        [
            (
                entry.mode_text,
                entry.owner,
                "-" if entry.is_dir else human_bytes(entry.length),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.modified_s)),
                entry.name + ("/" if entry.is_dir else ""),
            )
            for entry in entries
        ],
        right="size",
    )


@click.command(
    epilog=examples(
        "rpicluster rm old.csv", "rpicluster rm -r /data/2025", "rpicluster rm --skip-trash big.csv"
    )
)
@click.argument("remotes", nargs=-1, required=True)
@cluster_option
@click.option("-r", "--recursive", is_flag=True, help="Folders too.")
@click.option("--skip-trash", is_flag=True, help="Delete for good, at once.")
@yes_option
def rm(remotes: tuple[str, ...], which: str | None, recursive: bool, skip_trash: bool, yes: bool) -> None:
    """Move files to the trash of your HDFS home, from where they vanish after hdfs.trash_interval_s."""
    cluster = find_cluster(which)
    paths = [cluster.hdfs_path(remote) for remote in remotes]
    if skip_trash and not console.confirm(f"Delete {', '.join(paths)} for good?", yes=yes):
        raise UsageError("nothing was deleted")
    for path in paths:
        kept_at = cluster.webhdfs.delete(path, recursive=recursive, skip_trash=skip_trash)
        console.say(f"{path}: " + (f"moved to {kept_at}" if kept_at else "deleted"))


@click.command(epilog=examples("rpicluster df"))
@cluster_option
@json_option
def df(which: str | None, as_json: bool) -> None:
    """Show how much HDFS holds, and how much more of your data fits once it is stored in every replica."""
    cluster = find_cluster(which)
    space = cluster.webhdfs.df()
    if as_json:
        console.document({**asdict(space), "fits_bytes": space.fits_bytes})
        return
    console.table(
        ("capacity", "used", "free", "replication", "fits"),
        [
            (
                human_bytes(space.capacity_bytes),
                human_bytes(space.used_bytes),
                human_bytes(space.remaining_bytes),
                space.replication,
                human_bytes(space.fits_bytes),
            )
        ],
        right="capacity used free replication fits",
    )
