"""Runs on a node as root: tells which files of a runtime a broken stream has left whole.

Reads {"folder": where the runtime goes, "manifest_sha256"} from stdin; prints their names as a JSON list.
Needs Python 3.8.
"""

import hashlib
import json
import os
import sys

MANIFEST = "rpicluster-runtime.json"


def main(folder, manifest_sha256):
    """Return the names of the files whose bytes are those of the manifest."""
    fresh = os.path.join(os.path.dirname(folder), ".new-" + os.path.basename(folder))
    if digest(os.path.join(fresh, MANIFEST)) != manifest_sha256:
        return []
    with open(os.path.join(fresh, MANIFEST), encoding="utf-8") as file:
        expected = json.load(file)["files"]
    return [name for name, about in expected.items() if digest(os.path.join(fresh, name)) == about["sha256"]]


def digest(path):
    """Return the SHA-256 of a file, None where there is none."""
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            found.update(chunk)
    return found.hexdigest()


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    print(json.dumps(main(wanted["folder"], wanted["manifest_sha256"])))
