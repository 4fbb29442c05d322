"""Answers of healthy Pis to doctor's question, from a case of tests/cases/facts, to be spoiled one by one."""

import base64
import hashlib
import re
from pathlib import Path

CASE = Path(__file__).parents[2] / "cases" / "facts" / "pi4-ubuntu-22.04" / "answer.txt"
_SECTION = re.compile(r"MARK begin (\S+)\n(.*?)\nMARK end (\d+)\n", re.S)


class Answer:
    """What one node sends, section by section."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.host = f"192.168.1.{40 + number}"
        self.sections: dict[str, str] = {}
        self.status: dict[str, str] = {}
        for section, body, status in _SECTION.findall(CASE.read_text()):
            self.sections[section], self.status[section] = body, status
        self._make_healthy()
        self._make_its_own(number)

    def _make_healthy(self) -> None:
        """The case has a few troubles of its own, and things of which nothing shall be said."""
        self["clock"] = "@NOW+0.0@ +0000\n"
        self.sub("mounts", r"/srv/data\\040disk", "/srv/data")
        self.sub("space", "/srv/data disk", "/srv/data")
        self.sub("cloud-init", "manage_etc_hosts: true\n", "")
        self.sub("java", r"/usr/lib/jvm/java-11.*\n", "")
        self.sub("memory", "MemTotal:       1883516", "MemTotal:       3884000")
        self.sub("memory", "MemAvailable:   1460032", "MemAvailable:   3460032")
        self.sub("processor", "b03115", "c03115")
        self.sub("device-tree", "b03115", "c03115")

    def _make_its_own(self, number: int) -> None:
        seed = hashlib.sha256(self.name.encode()).hexdigest()
        key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + hashlib.sha256(b"key " + self.name.encode()).digest()
        for old, new in (
            ("192.168.1.42", self.host),
            ("e2d8a2d8d7b18d3384f376ead086e028", seed[:32]),
            ("f766f8f72af6cf9e8b820575f0166c95", seed[:32]),
            ("b498dce7-ea1f", f"{seed[:8]}-ea1f"),
            ("10000000a1b2c311", f"10000000a1b2c3{number:02x}"),
            ("dc:a6:32:0a:0b:11", f"dc:a6:32:0a:0b:{number:02x}"),
            ("DC:A6:32:0A:0B:11", f"DC:A6:32:0A:0B:{number:02X}"),
            ("1234567D5E1F", f"1234567D5E{number:02X}"),
        ):
            for section in self.sections:
                self.sections[section] = self.sections[section].replace(old, new)
        self["host-keys"] = f"ssh-ed25519 {base64.b64encode(key).decode()} root@{self.name}\n"
        for section in ("names", "hosts", "lookups"):
            self.sections[section] = re.sub(r"\bpi2\b", self.name, self.sections[section])
        self.sub("hosts", f"{self.name} {self.name}", self.name)

    def __setitem__(self, section: str, body: str) -> None:
        self.sections[section] = body
        self.status[section] = "0"

    def __getitem__(self, section: str) -> str:
        return self.sections[section]

    def sub(self, section: str, pattern: str, replacement: str) -> None:
        """Replace in a section; the pattern must be there."""
        changed, count = re.subn(pattern, replacement, self.sections[section])
        assert count, f"{section} has no {pattern}"
        self.sections[section] = changed

    def add(self, section: str, line: str) -> None:
        self.sections[section] = self.sections[section].rstrip("\n") + f"\n{line}\n"

    def text(self) -> str:
        parts = ["MARK ready\n"]
        for section, body in self.sections.items():
            parts.append(f"\nMARK begin {section}\n{body}\nMARK end {self.status[section]}\n")
        return "".join(parts) + "MARK done\n"
