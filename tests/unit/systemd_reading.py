"""Unit files read by the rules of systemd.syntax(7), written apart from what writes them."""

import re

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "s": " "}


def words_of(value: str) -> list[str]:
    """Split as systemd does: continued lines, quotes, escapes, then `%%`."""
    value = value.replace("\\\n", " ")
    assert "\n" not in value, "the setting would end here"
    words, position = [], 0
    while match := re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\"|[^\s\"']+)(?=\s|$)").match(value, position):
        position, raw = match.end(), match[1]
        if raw.startswith('"'):
            raw = re.sub(
                r"\\(x[0-9a-f]{2}|.)",
                lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 3 else ESCAPES[m[1]],
                raw[1:-1],
            )
        else:
            assert "\\" not in raw
        assert not re.search(r"%(?!%)", raw.replace("%%", "")), "a specifier"
        words.append(raw.replace("%%", "%"))
    assert not value[position:].strip(), f"not read: {value[position:]!r}"
    return words


def argv_of(value: str) -> list[str]:
    """Return what is executed: dollars are variables unless they are doubled."""
    program, *arguments = words_of(value)
    for argument in arguments:
        assert "$" not in argument.replace("$$", "")
    return [program, *(argument.replace("$$", "$") for argument in arguments)]


def sections(content: bytes) -> dict[str, list[tuple[str, str]]]:
    """Return a unit file's settings; one that continues over lines stays as it is."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in re.split(r"(?<!\\)\n", content.decode()):
        if line.startswith("["):
            found[line[1:-1]] = []
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            list(found.values())[-1].append((key, value))
    return found
