"""Runs on a node as root: has systemd, the kernel and sshd read what `place.py` has changed for them.

Reads what place.py prints from stdin. Who must read something stands as an empty file in {"reread": folder},
made before the first of its files was changed and removed here afterwards: so whoever continues after an `up`
that was broken off in between knows it too. The folder is in /run, because a boot reads everything.
Prints who has read. Needs Python 3.8.
"""

import json
import os
import subprocess
import sys

COMMANDS = {
    "systemd": [["systemctl", "daemon-reload"]],
    "sysctl": [["systemctl", "restart", "systemd-sysctl.service"]],
    # An sshd that does not like its file would not come back from a restart: it is asked first.
    "sshd": [["/usr/sbin/sshd", "-t"], ["systemctl", "try-reload-or-restart", "ssh.service"]],
}


def main(folder):
    """Run the commands of everybody who is marked; return who was."""
    marked = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for reader in marked:
        for command in COMMANDS[reader]:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                sys.exit("%s: %s" % (" ".join(command), done.stdout.strip()))
        os.unlink(os.path.join(folder, reader))
    return marked


if __name__ == "__main__":
    try:
        print(" ".join(main(json.load(sys.stdin)["reread"])))
    except OSError as error:
        sys.exit("%s: %s" % (error.filename, error.strerror))
