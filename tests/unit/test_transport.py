"""How requests reach daemons, and what is said when they do not."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from rpicluster.errors import RemoteError, ServiceError, Unreachable
from rpicluster.services.transport import RETRY_PAUSES_S, Daemon, Transport, answer_of

DAEMON = Daemon("NameNode", "http://nn:9870", sends_to="DataNode")


def transport(handle: Callable[[httpx.Request], httpx.Response], **more: object) -> Transport:
    return Transport(http=httpx.MockTransport(handle), pause=lambda _s: None, **more)  # type: ignore[arg-type]


def test_every_request_and_redirect_goes_where_resolve_says() -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if len(asked) == 1:
            return httpx.Response(307, headers={"location": "http://worker-1:9864/there?a=%2B"})
        return httpx.Response(200, json={"ok": True})

    tunnel = {("nn", 9870): ("127.0.0.1", 5001), ("worker-1", 9864): ("127.0.0.1", 5002)}
    client = transport(handle, resolve=lambda host, port: tunnel[host, port])
    assert client.get_json(DAEMON, "/here", {"x": "a b"}, what="try") == {"ok": True}
    assert asked == ["http://127.0.0.1:5001/here?x=a+b", "http://127.0.0.1:5002/there?a=%2B"]


def test_an_ipv6_address_keeps_its_brackets() -> None:
    assert Transport(resolve=lambda _h, _p: ("::1", 7)).reachable("http://nn/x") == "http://[::1]:7/x"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "nonsense", "http://nn:notaport/"])
def test_what_is_no_address_of_a_daemon_is_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="is not an address"):
        Transport().reachable(url)


def test_redirects_in_a_circle_end() -> None:
    client = transport(lambda request: httpx.Response(302, headers={"location": "/again"}))
    with pytest.raises(ServiceError, match="in a circle"):
        client.get_json(DAEMON, "/", what="try")


def test_a_redirect_of_a_change_is_not_followed() -> None:
    client = transport(lambda request: httpx.Response(307, headers={"location": "http://elsewhere/"}))
    with pytest.raises(ServiceError, match="answered with a redirect"):
        client.request_json(DAEMON, "PUT", "/", what="try")


def test_the_sign_in_cookie_of_one_user_is_not_sent_for_the_next() -> None:
    cookies: list[str | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        cookies.append(request.headers.get("cookie"))
        return httpx.Response(200, json={}, headers={"set-cookie": 'hadoop.auth="u=ada"; Path=/'})

    client = transport(handle)
    client.get_json(DAEMON, "/", {"user.name": "ada"}, what="try")
    client.get_json(DAEMON, "/", {"user.name": "bob"}, what="try")
    assert cookies == [None, None]


def test_a_read_is_retried_and_a_change_is_not() -> None:
    calls: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        raise httpx.ConnectError("[Errno 111] Connection refused")

    client = transport(handle)
    with pytest.raises(
        Unreachable, match=r"NameNode at nn:9870 does not answer \(connection refused\), asked to try"
    ):
        client.get_json(DAEMON, "/", what="try")
    assert len(calls) == 1 + len(RETRY_PAUSES_S)
    with pytest.raises(Unreachable):
        client.request_json(DAEMON, "PUT", "/", what="try")
    assert calls[-2:] == ["GET", "PUT"]


@pytest.mark.parametrize("exception", ["RetriableException", "StandbyException"])
def test_a_daemon_that_is_starting_is_asked_again(exception: str) -> None:
    answers = [
        httpx.Response(
            403, json={"RemoteException": {"exception": exception, "message": "Namenode is in startup mode"}}
        ),
        httpx.Response(200, json=1),
    ]
    assert transport(lambda _r: answers.pop(0)).get_json(DAEMON, "/", what="try") == 1


def test_a_timeout_is_not_waited_for_three_times() -> None:
    calls: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append(1)
        raise httpx.ReadTimeout("slow")

    with pytest.raises(Unreachable, match="no answer in time"):
        transport(handle).get_json(DAEMON, "/", what="try")
    assert calls == [1]


def test_a_refusal_carries_the_daemons_own_words_without_its_stack() -> None:
    said = "Permission denied: user=ada\n\tat org.apache.Hadoop(X.java:1)"
    body = {"RemoteException": {"exception": "AccessControlException", "message": said}}
    with pytest.raises(RemoteError) as error:
        transport(lambda _r: httpx.Response(403, json=body)).get_json(DAEMON, "/", what="list /x")
    assert error.value.message == "NameNode at nn:9870 refused to list /x: Permission denied: user=ada"
    assert (error.value.status, error.value.exception) == (403, "AccessControlException")
    assert error.value.hint


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"<html>oops</html>", "HTTP 500"), (b"plain words\nmore", "plain words"), (b"", "HTTP 500")],
)
def test_a_refusal_that_is_no_json_is_still_told(body: bytes, said: str) -> None:
    with pytest.raises(RemoteError, match=said + "$"):
        transport(lambda _r: httpx.Response(500, content=body)).get_json(DAEMON, "/", what="try")


def test_another_program_on_the_port_is_recognised() -> None:
    with pytest.raises(ServiceError, match="something else than JSON") as error:
        transport(lambda _r: httpx.Response(200, content=b"SSH-2.0")).get_json(DAEMON, "/", what="try")
    assert error.value.hint


def test_an_answer_that_lacks_a_field_names_the_daemon() -> None:
    with (
        pytest.raises(ServiceError, match="NameNode at nn:9870 answered something unexpected"),
        answer_of(DAEMON, "try"),
    ):
        json.loads("{}")["missing"]


def test_an_error_behind_a_redirect_names_the_daemon_that_made_it() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.host == "nn":
            return httpx.Response(307, headers={"location": "http://w1:9864/x"})
        raise httpx.ConnectError("[Errno 111] Connection refused")

    with pytest.raises(Unreachable, match="DataNode at w1:9864 does not answer"):
        transport(handle).get_json(DAEMON, "/", what="try")


def test_a_daemon_that_accepts_and_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        daemon = Daemon("NameNode", f"http://127.0.0.1:{server.getsockname()[1]}")
        started = time.monotonic()
        with Transport(read_timeout_s=0.3) as client, pytest.raises(Unreachable, match="no answer in time"):
            client.get_json(daemon, "/", what="try")
        assert time.monotonic() - started < 2


def test_a_closed_port_is_told_at_once(unused_tcp: int) -> None:
    started = time.monotonic()
    with Transport() as client, pytest.raises(Unreachable, match="connection refused"):
        client.get_json(Daemon("NameNode", f"http://127.0.0.1:{unused_tcp}"), "/", what="try")
    assert time.monotonic() - started < 1.5


@pytest.fixture
def unused_tcp() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch, unused_tcp: int) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp}")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        with Transport() as client:
            assert (
                client.get_json(Daemon("D", f"http://127.0.0.1:{server.getsockname()[1]}"), "/", what="try")
                == {}
            )
        thread.join(5)


def test_importing_the_clients_does_not_import_httpx() -> None:
    modules = ["transport", "webhdfs", "yarn", "namenode", "spark_rest", "joblogs"]
    code = (
        "".join(f"import rpicluster.services.{name}\n" for name in modules)
        + "import sys; print('httpx' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "False"
