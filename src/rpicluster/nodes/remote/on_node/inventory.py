"""Runs on a node as root: lists what a cluster could leave behind, as JSON. Writes nothing."""

import json
import os
import subprocess

# Packages' own files: `destroy` leaves Debian packages installed.
_SKIPPED = (
    "/etc/alternatives",
    "/etc/java-",
    "/etc/ssl/certs",
    "/etc/ld.so.cache",
    "/etc/.pwd.lock",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/.java",
    "/etc/.updated",
)


def lines(*argv):
    """Return a command's lines; none where there is no such command."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return []
    return sorted(set(done.stdout.decode(errors="replace").splitlines()))


def names(path):
    """Return accounts of a file like /etc/passwd."""
    with open(path) as file:
        return sorted(line.partition(":")[0] for line in file)


def paths():
    """Return everything below /etc, /opt and /usr/local, and the first level of what programs write to."""
    found = []
    for top in ("/etc", "/opt", "/usr/local"):
        for folder, folders, files in os.walk(top):
            found += [os.path.join(folder, name) for name in folders + files]
    for top in ("/var/lib", "/var/log", "/srv", "/run", "/home", "/tmp", "/var/tmp", "/root"):
        found += [os.path.join(top, name) for name in os.listdir(top)]
    found += [path for mount in mounts() if os.path.lexists(path := os.path.join(mount, "rpicluster"))]
    return sorted({path for path in found if not path.startswith(_SKIPPED)})


def mounts():
    """Return the folders on which something is mounted."""
    with open("/proc/self/mounts") as file:
        return sorted({line.split(" ")[1] for line in file})


def listeners():
    """Return listening TCP sockets as `address process`; the number of a process says nothing."""
    found = []
    for line in lines("ss", "-Hltnp"):
        words = line.split()
        found.append(" ".join([words[3], words[5].partition(",")[0] if len(words) > 5 else ""]))
    return sorted(set(found))


def main():
    """Return the inventory, list by list."""
    with open("/etc/hosts") as file:
        hosts = file.read().splitlines()
    units = lines(
        "systemctl", "list-unit-files", "--no-legend", "--full", "--state=enabled,disabled,static,linked"
    )
    return {
        "users": names("/etc/passwd"),
        "groups": names("/etc/group"),
        "units": sorted({line.split()[0] for line in units if line.strip()}),
        "loaded": sorted(
            {
                line.split()[0]
                for line in lines("systemctl", "list-units", "--all", "--plain", "--no-legend", "rpicluster*")
            }
        ),
        "paths": paths(),
        "mounts": [mount for mount in mounts() if "rpicluster" in mount],
        "hosts": hosts,
        "rules": lines("nft", "list", "tables"),
        "ports": listeners(),
    }


if __name__ == "__main__":
    print(json.dumps(main()))
