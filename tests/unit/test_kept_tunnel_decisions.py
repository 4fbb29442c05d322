"""What a tunnel's keeper decides, without a clock or a network."""

import json
import shlex
from pathlib import Path

import pytest

from rpicluster.errors import UsageError
from rpicluster.model.facts import NodePaths, NodePlacement
from rpicluster.nodes.ssh import keeping
from rpicluster.nodes.ssh.failures import Cause, cause_of
from rpicluster.nodes.ssh.forwards import Forward, all_words, chosen_before, raw_command
from rpicluster.nodes.ssh.keeping import Job, Kept, gives_up, is_frozen, pause_s, was_forgotten
from rpicluster.nodes.ssh.mux import Link
from rpicluster.sites.doors import doors_of

JOB = Job("shelf", "pi1", ("ssh", "-N"), "/run/s", (Forward("YARN", 8088, "10.0.0.1", 8088),))


def manager() -> NodePlacement:
    paths = NodePaths(conf="/e", data="/d", logs="/l", run="/r", runtime="/o")
    ports = {"namenode_http": 9870, "rm_http": 8088, "spark_ui": 4040, "connect": 15002}
    return NodePlacement(
        address="10.0.0.1", paths=paths, java_home="/j", python="/usr/bin/python3", ports=ports
    )


def test_the_first_try_is_at_once_and_a_day_without_a_network_costs_two_tries_a_minute() -> None:
    assert pause_s(0, 0.0) == 0.0
    pauses = [pause_s(tries, 60.0) for tries in range(10)]
    assert pauses == sorted(pauses) and pauses[-1] == 5.0
    assert pause_s(500, 86400.0) == 30.0


def test_another_host_key_is_a_hard_stop_and_a_refused_login_after_three() -> None:
    assert gives_up([Cause.UNREACHABLE, Cause.HOST_KEY_CHANGED])
    assert not gives_up([])
    assert not gives_up([Cause.UNREACHABLE] * 1000)
    assert not gives_up([Cause.DENIED, Cause.DENIED])
    assert not gives_up([Cause.DENIED, Cause.REFUSED, Cause.DENIED, Cause.DENIED])
    assert gives_up([Cause.DENIED] * 3)


def test_a_node_that_is_away_for_a_day_is_asked_no_more() -> None:
    assert not keeping.is_hopeless(12 * 3600)
    assert keeping.is_hopeless(25 * 3600)


def test_an_ssh_that_a_signal_stopped_is_not_waited_for_and_a_busy_one_is() -> None:
    assert is_frozen(4.0, stopped=True)
    assert not is_frozen(4.0, stopped=False)
    assert is_frozen(31.0, stopped=False)


def test_only_a_sleep_that_the_node_does_not_wait_for_ends_a_connection() -> None:
    from rpicluster.design import sshd_files

    interval_s, count = 30, 3
    text = Path(sshd_files.__file__).read_text()
    assert f"ClientAliveInterval {interval_s}" in text and f"ClientAliveCountMax {count}" in text
    assert 2 * interval_s * (count + 1) < keeping.FORGOTTEN_AFTER_S
    assert not was_forgotten(2 * interval_s * (count + 1))
    assert was_forgotten(601.0)


def test_a_job_and_what_is_told_survive_their_files() -> None:
    assert Job.read(JOB.text()) == JOB
    told = Kept("open", 12.5, pid=7, missing=(4040,), lost_s=1.25)
    assert Kept.read(told.text()) == told


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "cluster": "x"}', "null"])
def test_a_file_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Job.read(text)
    with pytest.raises(ValueError):
        Kept.read(text)


def test_jobs_differ_by_their_forwards() -> None:
    other = Job("shelf", "pi1", ("ssh", "-N"), "/run/s", ())
    assert other.digest != JOB.digest


def test_every_forward_listens_on_127_0_0_1() -> None:
    forwards = [Forward("a", 1, "fd00::1", 2), Forward("pages", 3)]
    assert all_words(forwards) == ["-L", "127.0.0.1:1:[fd00::1]:2", "-D", "127.0.0.1:3"]


def test_what_was_chosen_before_is_read_from_the_record() -> None:
    record = {"socks:0": 20001, "fd00::1:9864": 20002, "10.0.0.2:9864": 20003, "nonsense": 5}
    assert [f.words[1] for f in chosen_before(record)] == [
        "127.0.0.1:20001",
        "127.0.0.1:20002:[fd00::1]:9864",
        "127.0.0.1:20003:10.0.0.2:9864",
    ]


def test_the_raw_line_can_be_pasted_whatever_a_path_holds() -> None:
    login = ["-i", "/home/a b/it's; rm -rf $HOME/key", "--", "pi1"]
    line = raw_command(login, [Forward("pages", 20001)])
    words = shlex.split(line)
    assert words[0] == "ssh" and words[-4:] == login
    assert "\n" not in line and "ExitOnForwardFailure=yes" in words


def test_doors_are_required_with_equal_numbers_and_pages_are_not() -> None:
    gateway = {"host": "127.0.0.1", "port": 18880, "last_port": 18899, "session": 42, "version": "1.9.5"}
    found = doors_of(manager(), {"connect_port": 15002, "sparklyr": gateway})
    required = [f for f in found if f.required]
    assert [f.local for f in required] == [15002, *range(18880, 18900)]
    assert all((f.host, f.port) == ("127.0.0.1", f.local) for f in required)
    assert {f.name: f.words[1] for f in found if not f.required} == {
        "HDFS": "127.0.0.1:9870:10.0.0.1:9870",
        "YARN": "127.0.0.1:8088:10.0.0.1:8088",
        "Spark's page": "127.0.0.1:4040:10.0.0.1:4040",
    }


@pytest.mark.parametrize("gateway", [{}, {"sparklyr": None}])
def test_a_session_without_a_gateway_has_one_door(gateway: dict[str, None]) -> None:
    found = doors_of(manager(), {"connect_port": 15002, **gateway})
    assert [f.local for f in found if f.required] == [15002]


@pytest.mark.parametrize(
    "document", [{}, {"connect_port": "x"}, {"connect_port": 1, "sparklyr": {"port": 2}}]
)
def test_a_document_of_another_version_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="another version"):
        doors_of(manager(), document)


def test_causes_are_told_from_what_ssh_says() -> None:
    assert cause_of("ssh: connect to host pi1 port 22: No route to host") is Cause.UNREACHABLE
    assert cause_of("Timeout, server pi1 not responding.") is Cause.LOST
    assert cause_of("") is Cause.UNKNOWN


def test_a_control_socket_that_is_none_is_no_link(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Link(tmp_path / "none", patience_s=0.1)


def test_a_socket_that_says_nothing_is_silent_and_not_dead(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with pytest.raises(TimeoutError):
            Link(tmp_path / "s", patience_s=0.2)


def test_the_state_is_json_that_others_can_read() -> None:
    document = json.loads(Kept("waiting", 1.0, why="no answer to the connection").text())
    assert (document["schema"], document["state"], document["why"]) == (
        1,
        "waiting",
        "no answer to the connection",
    )
