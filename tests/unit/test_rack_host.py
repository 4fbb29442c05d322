"""A machine that cannot hold a rack is told why, and what to type."""

import pytest

from rpicluster.errors import RackError, UsageError
from rpicluster.nodes.rack import host
from rpicluster.nodes.rack.commands import run


def test_missing_tools_are_named_with_one_line_to_install_them(monkeypatch, tmp_path):
    missing = {"lxcfs", "nft", "systemd-nspawn"}
    monkeypatch.setattr(host, "find_tool", lambda name: None if name in missing else f"/usr/bin/{name}")
    monkeypatch.setattr(host, "KEYRING", tmp_path / "keyring.gpg")
    with pytest.raises(UsageError) as refused:
        host.require_tools()
    assert all(name in refused.value.message for name in missing)
    packages = "debian-archive-keyring lxcfs nftables systemd-container"
    assert refused.value.hint == f"sudo apt-get install --no-install-recommends {packages}"


def test_another_system_than_linux_is_pointed_to_the_demo(monkeypatch):
    monkeypatch.setattr(host.sys, "platform", "darwin")
    with pytest.raises(UsageError, match="needs Linux") as refused:
        host.require_root("up")
    assert "rpicluster demo" in refused.value.hint


def test_a_user_who_is_not_root_gets_the_line_to_type(monkeypatch):
    monkeypatch.setattr(host.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(host.sys, "argv", ["/home/ann/.local/bin/rpicluster"])
    with pytest.raises(UsageError, match="needs root") as refused:
        host.require_root("cut pi1")
    assert refused.value.hint == "sudo /home/ann/.local/bin/rpicluster rack cut pi1"


def test_a_kernel_without_overlay_is_refused(monkeypatch, tmp_path):
    (tmp_path / "filesystems").write_text("nodev\ttmpfs\n\text4\n")
    monkeypatch.setattr(host, "FILESYSTEMS", tmp_path / "filesystems")
    monkeypatch.setattr(host, "succeeds", lambda argv: False)
    with pytest.raises(RackError, match="no overlay") as refused:
        host.require_kernel()
    assert "modprobe overlay" in refused.value.hint


def test_a_failing_tool_is_named_with_what_it_said():
    with pytest.raises(RackError, match=r"`sh -c .*` failed: no such thing"):
        run(["sh", "-c", "echo no such thing >&2; exit 3"])
    with pytest.raises(RackError, match="did not end within 0 s"):
        run(["sleep", "5"], timeout_s=0.2)
    with pytest.raises(RackError, match="not installed"):
        run(["no-such-tool-anywhere"])
