"""`rpicluster export ansible`: a folder that Ansible reads, with every byte and no secret."""

import base64
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from rpicluster.cluster import Cluster
from rpicluster.errors import UsageError
from rpicluster.model.machine import MachineFacts
from rpicluster.nodes.fanout.send import MANIFEST
from rpicluster.nodes.remote.commands import Nodes
from rpicluster.nodes.remote.place import Look
from rpicluster.runtime import store
from rpicluster.sites.remote import RemoteSite

SPEC = """\
name: lab
nodes:
  - {name: pi1, ssh: {host: 10.9.8.11, user: pi, port: 2222}}
  - {name: pi2, ssh: {host: 10.9.8.12, user: pi}}
users: [anna, pi]
"""


def facts(address: str, machine_id: str) -> MachineFacts:
    recorded = Path(__file__).parents[1] / "cases" / "facts" / "rack-debian-12" / "expected.json"
    document = json.loads(recorded.read_text())
    document["machine_id"] = machine_id
    document["memory"]["total_mib"] = 4096
    document["interfaces"] = [
        {"name": "eth0", "up": True, "addresses": [{"address": address, "prefix": 24}]},
    ]
    document.update(manifest=None, deployed={}, units={}, file_system=None, privilege="sudo", daemons=[])
    return MachineFacts.model_validate(document)


def fake_runtime(folder: Path) -> Path:
    (folder / "jars").mkdir(parents=True)
    files = {}
    for name, content in {"jars/a.jar": os.urandom(50_000), "RELEASE": b"one\n"}.items():
        (folder / name).write_bytes(content)
        files[name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": len(content),
            "mode": 0o644,
        }
    (folder / MANIFEST).write_text(json.dumps({"size_bytes": 50_004, "files": files}))
    return folder


@dataclass
class Export:
    cluster: Cluster
    site: RemoteSite
    folder: Path

    def write(self, *, replace: bool = False) -> None:
        self.cluster.export_ansible(self.folder, replace=replace)

    def host(self, node: str) -> dict[str, object]:
        hosts = json.loads((self.folder / "inventory" / "hosts.json").read_text())["all"]["hosts"]
        return dict(hosts[node])

    def ansible(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "ansible", *arguments],
            cwd=self.folder,
            env={**os.environ, "ANSIBLE_HOME": str(self.folder.parent / "home"), "LC_ALL": "C.UTF-8"},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    runtime = store.Runtime(fake_runtime(tmp_path / "runtime"), store.locked_hash(), 1, 0)
    monkeypatch.setattr(store, "installed", lambda *_: runtime)
    (tmp_path / "cluster.yml").write_text(SPEC)
    cluster = Cluster.from_file(tmp_path / "cluster.yml")
    site = cluster.site
    assert isinstance(site, RemoteSite)
    machines = {"pi1": facts("10.9.8.11", "a" * 32), "pi2": facts("10.9.8.12", "b" * 32)}
    site.__dict__["look"] = Look(machines, {}, {}, {})
    return Export(cluster, site, tmp_path / "export")


def test_ansible_reads_it_and_lists_the_steps_of_up(export: Export) -> None:
    export.write()
    for playbook in ("apply.yml", "destroy.yml"):
        done = export.ansible("playbook", "--syntax-check", "-i", "inventory", playbook)
        assert done.returncode == 0, done.stderr
    tasks = export.ansible("playbook", "--list-tasks", "-i", "inventory", "apply.yml")
    assert tasks.returncode == 0, tasks.stderr
    for step in (
        "Bring the software",
        "base : Place directories and files",
        "hdfs : Start HDFS",
        "Make the folders",
    ):
        assert step in tasks.stdout
    hosts = export.ansible("inventory", "-i", "inventory", "--list")
    assert set(json.loads(hosts.stdout)["_meta"]["hostvars"]) == {"pi1", "pi2"}


def test_every_variable_of_the_roles_is_in_the_inventory(export: Export) -> None:
    export.write()
    wanted = set()
    for spec in export.folder.glob("roles/*/meta/argument_specs.yml"):
        wanted |= set(re.findall(r"^      (rpicluster_\w+):", spec.read_text(), re.M))
    for node in ("pi1", "pi2"):
        assert wanted - set(export.host(node)) == set()


def test_a_folder_that_was_moved_finds_its_own_bundles(export: Export) -> None:
    export.write()
    export.folder = export.folder.rename(export.folder.with_name("moved"))
    (export.folder / "show.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - ansible.builtin.assert: {that: rpicluster_bundle is file}\n"
        "    - ansible.builtin.assert: {that: rpicluster_export.done is file}\n"
        "    - ansible.builtin.assert:\n"
        "        that: lookup('ansible.builtin.file', 'receive.py') is search('manifest_sha256')\n"
    )
    done = export.ansible("playbook", "-i", "inventory", "show.yml")
    assert done.returncode == 0, done.stdout


def test_a_node_is_reached_as_cluster_yml_says(export: Export) -> None:
    export.write()
    host = export.host("pi1")
    assert (host["ansible_host"], host["ansible_user"], host["ansible_port"]) == ("10.9.8.11", "pi", 2222)
    assert "ansible_port" not in export.host("pi2")


def test_the_bundles_hold_every_rendered_file_with_its_bytes(export: Export) -> None:
    export.write()
    for node, files in export.cluster.rendered.files.items():
        placed = json.loads((export.folder / "bundles" / f"{node}.json").read_text())["files"]
        contents = {base64.b64decode(entry["content"]) for entry in placed}
        rules = str(export.host(node)["rpicluster_firewall"])
        for path, file in files.items():
            assert file.content in contents or path == "firewall.nft", path
        assert "table inet rpicluster" in rules


def test_the_note_that_all_was_done_is_placed_last(export: Export) -> None:
    export.write()
    first, last = (
        json.loads((export.folder / "bundles" / name).read_text())["files"]
        for name in ("pi2.json", "pi2.done.json")
    )
    assert [entry["path"] for entry in last] == ["/var/lib/rpicluster/manifest.json"]
    assert "/var/lib/rpicluster/manifest.json" not in [entry["path"] for entry in first]
    assert set(json.loads(base64.b64decode(last[0]["content"]))["units"]) == {"datanode", "nodemanager"}


def test_what_it_places_its_destroy_removes(export: Export) -> None:
    export.write()
    for node, files in export.cluster.rendered.files.items():
        orders = export.host(node)["rpicluster_remove"]
        assert isinstance(orders, dict)
        gone = (*orders["files"], *(f"{folder}/" for folder in orders["directories"]))
        placed = [path if path.startswith("/") else f"/etc/rpicluster/{path}" for path in files]
        assert [path for path in placed if not path.startswith(tuple(gone))] == []
        units = {path.rpartition("/")[2] for path in placed if path.startswith("/etc/systemd/system/")}
        assert units <= set(orders["units"])
    assert "rpicluster-session-anna.service" in export.host("pi1")["rpicluster_remove"]["units"]  # type: ignore[index]


def test_nobody_else_reads_the_folder_and_no_secret_is_in_it(export: Export) -> None:
    export.write()
    assert stat.S_IMODE(export.folder.stat().st_mode) == 0o700
    private = export.site.state.tunnel_key.read_text().splitlines()[1]
    for path in export.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"PRIVATE KEY" not in content and private.encode() not in content, path
    assert "password" not in (export.folder / "inventory" / "hosts.json").read_text()


def test_the_stream_is_what_a_node_unpacks_and_checks(export: Export, tmp_path: Path) -> None:
    export.write()
    order, _, archive = (export.folder / "runtime.stream").read_bytes().partition(b"\n")
    moved = {**json.loads(order), "folder": str(tmp_path / "node" / "runtimes" / "abc")}
    done = subprocess.run(
        [sys.executable, str(export.folder / "files" / "receive.py")],
        input=json.dumps(moved).encode() + b"\n" + archive,
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    there = tmp_path / "node" / "runtimes" / "abc"
    assert (there / "jars" / "a.jar").read_bytes() == (tmp_path / "runtime" / "jars" / "a.jar").read_bytes()
    assert json.loads(order)["folder"] == export.host("pi1")["rpicluster_runtime_folder"]


def test_each_user_gets_a_session_and_a_home_and_workers_get_neither(export: Export) -> None:
    export.write()
    manager, worker = export.host("pi1")["rpicluster_export"], export.host("pi2")["rpicluster_export"]
    assert isinstance(manager, dict) and isinstance(worker, dict)
    assert [session["user"] for session in manager["sessions"]] == ["anna", "pi"]
    homes = {folder["path"]: folder["owner"] for folder in manager["folders"]}
    assert homes["/user/anna"] == "anna" and homes["/warehouse"] == "rpi-hdfs"
    assert (worker["sessions"], worker["folders"]) == ([], [])


def test_an_export_is_written_over_only_with_replace_and_a_strange_folder_never(export: Export) -> None:
    export.write()
    with pytest.raises(UsageError, match="there already"):
        export.write()
    (export.folder / "mine").write_text("x")
    export.write(replace=True)
    assert not (export.folder / "mine").exists()
    shutil.rmtree(export.folder)
    export.folder.mkdir()
    (export.folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="was not written by `rpicluster export`"):
        export.write(replace=True)
    assert (export.folder / "thesis.tex").exists()


def test_an_empty_folder_may_be_named_by_a_dot(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    export.folder.mkdir()
    monkeypatch.chdir(export.folder)
    export.cluster.export_ansible(Path())
    assert (export.folder / "apply.yml").exists()


def test_nodes_that_were_never_seen_are_not_exported(export: Export) -> None:
    (export.folder.parent / "cluster.yml").write_text(
        SPEC.replace("pi2, ssh: {host: 10.9.8.12, user: pi}", "pi2, ssh: {host: x}, hardware: {memory: 4G}")
    )
    cluster = Cluster.from_file(export.folder.parent / "cluster.yml")
    cluster.site.__dict__["look"] = Look({"pi1": facts("10.9.8.11", "a" * 32), "pi2": None}, {}, {}, {})
    with pytest.raises(UsageError, match="pi2: never seen"):
        cluster.export_ansible(export.folder)
    assert not export.folder.exists()


def test_an_export_carries_r_packages_as_sources_whatever_nodes_have(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPICLUSTER_CACHE_DIR", str(tmp_path / "cache"))
    offered = {"r-base-core": "4.2.2-2", "r-cran-digest": "0.6.31-1", "r-cran-reticulate": "1.28-1"}
    offered |= {f"r-cran-{name}": "4.0.5-1" for name in ("bit64", "blob", "dbi", "jsonlite")}
    monkeypatch.setattr(Nodes, "python", lambda *_, **__: json.dumps(offered).encode())
    (tmp_path / "cluster.yml").write_text(SPEC + "r: {packages: [digest]}\n")
    cluster = Cluster.from_file(tmp_path / "cluster.yml")
    cluster.site.__dict__["look"] = export.site.look
    cluster.export_ansible(export.folder)
    for node in ("pi1", "pi2"):
        host = export.host(node)
        assert {"r-base-core", "r-cran-digest"} <= set(host["rpicluster_r_packages"])  # type: ignore[call-overload]
        assert host["rpicluster_r_archive"] == f"{{{{ playbook_dir }}}}/bundles/{node}.r.tar"
        assert host["rpicluster_r_order"]["wanted"] == ["digest", "rpicluster"]  # type: ignore[index]
        with tarfile.open(export.folder / "bundles" / f"{node}.r.tar") as archive:
            assert archive.getnames() == ["rpicluster_0.1.0.tar.gz"]
