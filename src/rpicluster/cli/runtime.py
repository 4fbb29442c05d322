"""`runtime`: the software that nodes run."""

import click

from rpicluster.cli.console import console, human_bytes
from rpicluster.cli.options import examples, json_option, yes_option
from rpicluster.errors import Unhealthy, UsageError


@click.group(invoke_without_command=True, epilog=examples("rpicluster runtime", "rpicluster runtime verify"))
@click.pass_context
@json_option
def runtime(context: click.Context, as_json: bool) -> None:
    """Show what is in the cache, how big it is, and what is missing."""
    if context.invoked_subcommand:
        return
    from rpicluster.runtime.store import installed, load_lock, locked_hash

    found, lock = installed(), load_lock()
    if as_json:
        console.document(
            {
                "installed": found is not None,
                "path": str(found.path) if found else None,
                "hash": locked_hash(),
                "size_bytes": found.size_bytes if found else 0,
                "pruned_bytes": found.pruned_bytes if found else 0,
                "artifacts": [
                    {"name": a.name, "version": a.version, "sha256": a.sha256, "size_bytes": a.size_bytes}
                    for a in lock.artifacts
                ],
            }
        )
        return
    console.table(
        ("artifact", "version", "size", "sha256"),
        [(a.name, a.version, human_bytes(a.size_bytes), a.sha256[:16]) for a in lock.artifacts],
        right="size",
    )
    if found:
        console.say(
            f"\n{found.path}: {human_bytes(found.size_bytes)}; "
            f"{human_bytes(found.pruned_bytes)} that no node needs were left out"
        )
    else:
        console.say("\nnot fetched yet")
        console.next_step("rpicluster runtime fetch")


@runtime.command()
def fetch() -> None:
    """Fetch, verify and store the runtime; does nothing if it is there."""
    from rpicluster.runtime.store import ensure

    with console.bars() as update:
        found = ensure(
            report=lambda p: update(
                p.what, p.done_bytes, p.total_bytes or None, f"{p.phase} {human_bytes(p.done_bytes)}"
            )
        )
    console.say(f"{found.path}: {human_bytes(found.size_bytes)}")


@runtime.command()
def verify() -> None:
    """Hash every file again and compare with what was installed."""
    from rpicluster.runtime.store import installed
    from rpicluster.runtime.store import verify as verify_runtime

    found = installed()
    if found is None:
        raise UsageError("there is no runtime to verify", hint="rpicluster runtime fetch")
    bad = verify_runtime(found)
    if bad:
        raise Unhealthy(
            f"{len(bad)} files differ from what was installed: {', '.join(bad[:5])}",
            hint="rpicluster runtime remove, then rpicluster runtime fetch",
        )
    console.say(f"{found.path}: every file is as it was installed")


@runtime.command()
@yes_option
def remove(yes: bool) -> None:
    """Delete the runtime from the cache. Running clusters stop working: stop them first."""
    from rpicluster.cluster import running_clusters
    from rpicluster.runtime.store import remove as remove_runtime

    running = running_clusters()
    if running:
        raise UsageError(f"in use by {', '.join(running)}", hint=f"rpicluster stop --cluster {running[0]}")
    if not console.confirm("Delete the runtime from the cache?", yes=yes):
        raise UsageError("nothing was deleted")
    console.say(f"{human_bytes(remove_runtime())} freed")
