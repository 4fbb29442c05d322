"""What may not leave in a bug report is gone, and what is needed to understand it stays."""

import base64
import gzip
import io
import json
import re
import stat
import sys
import tarfile
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpicluster.design.units import Rendered, RenderedFile
from rpicluster.errors import NodeUnreachable, UsageError
from rpicluster.health.bundle import documents, local_logs, redactor, write_bundle
from rpicluster.health.doctor import Examination
from rpicluster.health.findings.registry import diagnose
from rpicluster.health.redaction import GONE, Redactor
from rpicluster.model.machine import Daemon, Listener, Manifest
from rpicluster.model.spec import ClusterSpec

sys.path.insert(0, str(Path(__file__).parent))
import doctor_cases as cases

KNOWN_TOKEN = "f00dfeedtokenvalue0123456789"
PEM = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAAsecretkeybody\nAAAEbm9uZQ==\n"
    "-----END OPENSSH PRIVATE KEY-----"
)

# text -> what may not be in it afterwards
PLANTED = [
    ("password: hunter2andmore", "hunter2andmore"),
    ("# password: correct horse battery", "horse battery"),
    ('{"db_password": "s3cr3t value, with, commas"}', "with, commas"),
    ("{'apiKey': 'abcd-ef-gh'}", "abcd-ef-gh"),
    ("spark.hadoop.fs.s3a.secret.key=wJalrXUtnFEMI", "wJalrXUtnFEMI"),
    ("  spark.hadoop.fs.s3a.access.key: AKpublicpart1", "AKpublicpart1"),
    ("<property><name>fs.s3a.secret.key</name>\n<value>xmlsecret</value></property>", "xmlsecret"),
    ("Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
    ("curl -H 'X: Basic dXNlcjpwYXNz'", "dXNlcjpwYXNz"),
    ("java --token tok-on-argv --port 5", "tok-on-argv"),
    ("opened https://ana:urlpass@repo.example.org/x", "urlpass"),
    ("SPARK_CONNECT_AUTHENTICATE_TOKEN=0a1b2c3d4e5f", "0a1b2c3d4e5f"),
    ("auth_token='quoted secret'", "quoted secret"),
    (PEM, "secretkeybody"),
    (json.dumps({"key": PEM}), "secretkeybody"),
    ("truncated " + PEM[:70], "b3BlbnNzaC1rZXktdjEA"),
    ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPubKey ana@laptop", "AAAAC3NzaC1lZDI1NTE5AAAAIPubKey"),
    ("uses AKIAIOSFODNN7EXAMPLE today", "AKIAIOSFODNN7EXAMPLE"),
    ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_abcdef"),
    ("x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln y", "eyJzdWIiOiJhIn0"),
    (f"a driver said {KNOWN_TOKEN} by accident", KNOWN_TOKEN),
    ("user=ana home=/home/ana", "ana"),
    ("session-ana.json and keeper-ana", "ana"),
    ("ANA logged in", "ANA"),
    ("read /home/berta.k/.ssh/config", "berta"),
    ("on a Mac: /Users/carl/x", "carl"),
    ("connected to 8.8.4.4:22", "8.8.4.4"),
    ("from 2001:4860:4860::8844 port 22", "2001:4860:4860::8844"),
    ("[2a00:1450:4001:81b::200e]:443", "2a00:1450"),
]


def planted_redactor(*texts: str) -> Redactor:
    found = Redactor(secrets=[KNOWN_TOKEN, ""], users=["ana", "pi", "root"])
    for text in texts:
        found.learn(text)
    return found


@pytest.mark.parametrize(("text", "secret"), PLANTED)
def test_a_planted_secret_is_gone(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in planted_redactor(text).redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.7 192.168.1.41 127.0.1.1 169.254.3.3 fe80::1 fd28:4ef5::11 ::1 0.0.0.0",
        "Spark 4.1.4, Hadoop 3.5.0, 5.15.0.1092 kernel, 12:34:56, dc:a6:32:0a:0b:31",
        "user pi on ubuntu, pipeline pip3 pi1",
        "token_file: /data/session/token",
        "yarn.nodemanager.resource.memory-mb 2048",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "bananas and analysis",
        "2025-11-23T06:18:22 at org.apache.hadoop.hdfs.DFSClient.java:812",
    ],
)
def test_what_helps_to_understand_stays(text: str) -> None:
    assert planted_redactor(text).redact(text) == text


def test_the_same_name_and_address_are_the_same_alias_everywhere() -> None:
    found = Redactor(secrets=[], users=["ana", "bert"])
    one, two = found.redact("ana at 8.8.8.8, bert at 1.1.1.1"), found.redact("bert, ana; 1.1.1.1")
    ana, first, bert, second = re.findall(r"[\w-]+-\d", one)
    assert one == f"{ana} at {first}, {bert} at {second}"
    assert len({ana, first, bert, second}) == 4
    assert two == f"{bert}, {ana}; {second}"


@given(st.text())
def test_any_text_is_redacted_without_an_error(text: str) -> None:
    assert isinstance(planted_redactor(text).redact(text), str)


@given(st.text(alphabet="abcdefghijklmnop0123456789", min_size=8), st.text(), st.text())
def test_a_known_secret_never_survives_whatever_stands_around_it(
    secret: str, before: str, after: str
) -> None:
    found = Redactor(secrets=[secret], users=[])
    assert secret not in found.redact(f"{before}{secret}{after}") or secret in GONE


def planted_bundle(path: Path, logs: dict[str, str]) -> tuple[str, ...]:
    """Write a bundle in which every input holds every planted text; return what may not be in it."""
    text = "\n".join(text for text, _ in PLANTED)
    daemon = Daemon(pid=4, user="daniela", classes=("org.apache.hadoop.x",), unit=f"x {text}")
    facts = cases.pi4(2).model_copy(
        update={
            "login": "erika",
            "kernel_log": (text,),
            "daemons": (daemon,),
            "listeners": (Listener(address="8.8.4.4", port=8088, process=text),),
            "manifest": Manifest(version="1", extra={"token": text, "nested": [{"password": text}]}),
        }
    )
    error = NodeUnreachable(f"pi3: {text}", node="pi3", cause="unreachable", hint=text)
    spec = ClusterSpec.model_validate(
        {
            "name": "lab",
            "nodes": [
                {"name": "pi2", "ssh": {"host": "8.8.4.4", "user": "frida"}},
                {"name": "pi3", "ssh": {"host": "10.0.0.3", "user": "pi", "config": "/home/gerd/.ssh/c"}},
            ],
            "users": ["ana", "hanna"],
        }
    )
    nodes = {"pi2": facts, "pi3": error}
    findings = diagnose(spec, nodes, on=lambda node, command: f"ssh frida@8.8.4.4 {command}")
    examination = Examination(spec.name, nodes, None, findings, 1.0)
    files = documents(
        examination,
        spec_text=f"name: lab # {text}\nusers: [ana, hanna]\n",
        plan=text,
        rendered=Rendered(
            files={
                "pi2": {"session/keeper-ana.json": RenderedFile(text.encode()), "a.py": RenderedFile(b"x")}
            },
            units=(),
            runtime_hash="",
        ),
        logs=logs | {"pi2/session-hanna.log": text},
    )
    assert {"cluster.yml", "plan.txt", "facts.json", "findings.json", "versions.json"} <= set(files)
    write_bundle(path, files, redactor(spec, examination, files, [KNOWN_TOKEN]))
    names = ("daniela", "erika", "frida", "gerd", "hanna", facts.machine_id, "100000000000", KNOWN_TOKEN)
    return tuple(secret for _, secret in PLANTED if secret != "ana") + tuple(str(n) for n in names)


def every_layer(data: bytes, depth: int = 0) -> list[bytes]:
    """Return data and all that can be unpacked from it: gzip, zlib, base64, members of tars."""
    layers = [data]
    if depth > 4:
        return layers
    for unpack in (gzip.decompress, zlib.decompress):
        try:
            layers += every_layer(unpack(data), depth + 1)
        except (OSError, EOFError, zlib.error):
            continue
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive.getmembers():
                content = archive.extractfile(member)
                layers.append(f"{member.name} {member.uname} {member.gname} {member.pax_headers}".encode())
                layers += every_layer(content.read() if content else b"", depth + 1)
    except tarfile.TarError:
        pass
    for word in re.findall(rb"[A-Za-z0-9+/]{24,}={0,2}", data):
        try:
            layers.append(base64.b64decode(word + b"=" * (-len(word) % 4)))
        except ValueError:
            continue
    return layers


def test_no_byte_of_a_bundle_holds_a_planted_secret(tmp_path: Path) -> None:
    path = tmp_path / "report.tar.gz"
    secrets = planted_bundle(path, {})
    layers = every_layer(path.read_bytes())
    assert len(layers) > 8
    for layer in layers:
        for secret in secrets:
            assert secret.encode() not in layer, (secret, layer[:200])
            assert json.dumps(secret)[1:-1].encode() not in layer
    assert not any(re.search(rb"(?<![A-Za-z0-9])ana(?![A-Za-z0-9])", layer) for layer in layers[2:])


def test_a_bundle_is_private_never_overwrites_and_names_no_owner(tmp_path: Path) -> None:
    path = tmp_path / "report.tar.gz"
    planted_bundle(path, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(UsageError, match="not overwritten"):
        planted_bundle(path, {})
    assert path.read_bytes() == before
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        assert "rpicluster-report/rendered/pi2/session/keeper-" in "\n".join(m.name for m in members)
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
        assert not any(m.name.endswith(".py") for m in members)
        json.load(archive.extractfile("rpicluster-report/findings.json") or io.BytesIO())
    assert before[3] & 0x08 == 0, "the gzip header carries no file name"


def test_a_bundle_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        planted_bundle(tmp_path / "no" / "folder" / "x.tar.gz", {})


def test_of_a_long_log_the_last_lines_are_kept(tmp_path: Path) -> None:
    (tmp_path / "pi1").mkdir()
    (tmp_path / "pi1" / "namenode.log").write_text("\n".join(f"line {n}" for n in range(100_000)))
    (tmp_path / "pi1" / "state.json").write_text("{}")
    found = local_logs(tmp_path)
    assert list(found) == ["pi1/namenode.log"]
    assert found["pi1/namenode.log"].splitlines()[0] == "line 99700"
    assert found["pi1/namenode.log"].splitlines()[-1] == "line 99999"


def test_values_are_redacted_string_by_string_and_keys_of_secrets_take_all_below_them() -> None:
    found = planted_redactor()
    before = {
        "password": ["a", {"b": "c"}],
        "api_token": 12345678,
        "empty_token": None,
        "token_file": "/data/token",
        "/etc/rpicluster/token": {"mode": 384},
        "note": 'say "password": "x, y"',
        "numbers": [1, 2.5, True],
    }
    assert found.redact_value(before) == {
        "password": GONE,
        "api_token": GONE,
        "empty_token": None,
        "token_file": "/data/token",
        "/etc/rpicluster/token": {"mode": 384},
        "note": f'say "password": "{GONE}"',
        "numbers": [1, 2.5, True],
    }


def test_a_long_log_with_long_lines_takes_no_time_worth_speaking_of() -> None:
    line = "x" * 20_000 + " 12:00:01 INFO BlockManager: a.b.c.d " + "/opt/rpicluster/jars/some-jar.jar:" * 500
    started = time.process_time()
    planted_redactor().redact("\n".join([line] * 8))
    assert time.process_time() - started < 5
