"""Stands in for ssh: answers doctor's question with the text that a Pi would send.

$FAKE_SSH_ANSWERS holds a file HOST.txt a node, in which MARK stands for the mark that was sent and
@NOW±SECONDS@ for the time.
"""

import os
import re
import sys
import time
from pathlib import Path


def main() -> int:
    words = sys.argv[1:]
    if "-O" in words:
        return 0
    host, command = words[words.index("--") + 1 :]
    if "-E" in words:
        Path(words[words.index("-E") + 1]).write_text(f'Authenticated to {host} using "publickey".\n')
    asked = re.fullmatch(r"sh -s (\S+)", command)
    if not asked:
        print(f"sh: this Pi only tells facts, it runs no {command}", file=sys.stderr)
        return 127
    answer = (Path(os.environ["FAKE_SSH_ANSWERS"]) / f"{host}.txt").read_text()
    for line in sys.stdin:  # as a shell that begins when the whole script has arrived
        if line.endswith("; exit\n"):
            break
    first, _, rest = answer.replace("MARK", asked[1]).partition("\n")
    print(first, flush=True)
    sys.stdin.read()  # the line that follows once the mark was seen
    now = re.search(r"@NOW([+-][\d.]+)@", rest)
    if now:
        rest = rest.replace(now[0], f"{time.time() + float(now[1]):.9f}")
    sys.stdout.write(rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
