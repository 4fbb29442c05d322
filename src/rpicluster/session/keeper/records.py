"""Files of a session: the driver's log, and the JSON that the keeper writes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG_LIMIT_BYTES = 16 * 1024 * 1024


def cut_log(path: Path) -> None:
    """Move a log that has grown too long aside, and go on at its start.

    The driver holds the file open for appending, so it is copied and truncated: lines that it writes between
    the two are lost.
    """
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        shutil.copyfile(str(path), f"{path}.1")
        os.truncate(str(path), 0)


def last_words(path: Path, start: int) -> str:
    """Return the line of the log since `start` that best says why a driver ended, or nothing."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(size - 131072, start if start <= size else 0))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    for pattern in (
        r"^Exception in thread .*$",
        r"^.*OutOfMemoryError.*$",
        r"^Error: .*$",
        r"^.*\bERROR\b.*(?:\n[\w.$]+(?:Exception|Error)\b.*)?$",  # and the exception below it
    ):
        found = re.findall(pattern, text, re.MULTILINE)
        if found:
            return " ".join(str(found[-1]).split("\n"))[:300]
    return ""


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a file that everybody may read in one step."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        json.dump(document, file, indent=1)
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file that this keeper writes; empty if there is none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
