"""Runs on the manager as root: makes an empty file system exactly once, never over anything.

Reads {"argv": [...], "environment": {...}, "user", "group", "directory", "name_directory", "cluster_id"}.
Hadoop formats a directory beside the final one, which is then renamed: the final name holds a whole image or
nothing, and rename(2) itself refuses a target that is not empty. Prints `formatted` or
`there already`. Needs Python 3.8.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys

MAIN_CLASS = "org.apache.hadoop.hdfs.server.namenode.NameNode"
TIMEOUT_S = 300


def main(wanted):
    """Format, unless the cluster's own image is there."""
    final, cluster_id = wanted["name_directory"], wanted["cluster_id"]
    # One that a broken `up` has begun goes on to its end here; its work is not to be swept away under it.
    above = os.open(os.path.dirname(final), os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(above, fcntl.LOCK_EX)
    if os.path.isdir(final) and os.listdir(final):
        found = cluster_of(final)
        if found == cluster_id:
            return "there already"
        raise SystemExit(
            "%s holds another file system (%s); it is never formatted over"
            % (final, found or "no readable VERSION")
        )
    unfinished = final + ".formatting"
    if os.path.exists(unfinished):
        shutil.rmtree(unfinished)  # a killed format: it never was a file system
    run_format(wanted, unfinished)
    if cluster_of(unfinished) != cluster_id:
        raise SystemExit(
            "the NameNode reports a finished format, but %s holds no image of this cluster" % unfinished
        )
    os.sync()
    os.rename(unfinished, final)
    os.sync()
    return "formatted"


def run_format(wanted, directory):
    """Run Hadoop's own format as the service's user."""
    argv = wanted["argv"]
    where = argv.index(MAIN_CLASS)
    command = [
        "setpriv", "--reuid", wanted["user"], "--regid", wanted["group"], "--clear-groups", "--",
        *argv[: where + 1],
        "-Ddfs.namenode.name.dir=file://" + directory,
        "-Ddfs.namenode.edits.dir=file://" + directory,
        "-format", "-nonInteractive", "-clusterid", wanted["cluster_id"],
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env=wanted["environment"],
        cwd=wanted["directory"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if "rror" in line or "xception" in line]
        cause = (lines or done.stdout.splitlines() or ["no output"])[0]
        raise SystemExit(
            "formatting the NameNode failed (exit code %d): %s" % (done.returncode, cause.strip())
        )


def cluster_of(directory):
    """Return the clusterID in a name directory, None where there is no readable one."""
    try:
        with open(os.path.join(directory, "current", "VERSION")) as file:
            lines = file.read().splitlines()
    except OSError:  # none, or unreadable: in both cases no image that we know
        return None
    return next((line.partition("=")[2] for line in lines if line.startswith("clusterID=")), None)


if __name__ == "__main__":
    print(main(json.load(sys.stdin)))
