"""How requests reach a daemon: one HTTP client, addresses resolved, errors that name who was asked."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from rpicluster.errors import RemoteError, ServiceError, Unreachable

if TYPE_CHECKING:
    import httpx

Resolve = Callable[[str, int], tuple[str, int]]

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 10.0
# A status command must answer within 2 s even when a port refuses: 0.3 s of patience in all.
RETRY_PAUSES_S = (0.1, 0.2)
REDIRECTS_MAX = 5
# What a daemon says while it starts or hands over; asking again is what Hadoop's own clients do.
_TRANSIENT = frozenset({"RetriableException", "StandbyException", "ServerNotActiveYetException"})
_HINTS = {
    "AccessControlException": "`rpicluster ls` shows whose it is and who may write",
    "SafeModeException": "HDFS takes no changes while it waits for DataNodes: see `rpicluster status`",
    "FileNotFoundException": "`rpicluster ls` shows what is there",
    "NSQuotaExceededException": "delete something, or raise the quota",
    "DSQuotaExceededException": "delete something, or raise the quota",
}
_PORTS = {"http": 80, "https": 443}
# An error page may be a Java stack trace of any length; this much says what is wrong.
_ERROR_BYTES_MAX = 65536


@dataclass(frozen=True)
class Daemon:
    """Whom we talk to: `name` as people say it (`NameNode`), `base_url` as the cluster itself knows it.

    `sends_to` is the kind of daemon that it sends us on to, where that is another one.
    """

    name: str
    base_url: str
    sends_to: str = ""

    @property
    def address(self) -> str:
        """Return `host:port`."""
        return urlsplit(self.base_url).netloc

    def __str__(self) -> str:
        """Return `NameNode at 127.0.0.1:9870`."""
        return f"{self.name} at {self.address}"

    def at(self, url: str) -> "Daemon":
        """Return who stands behind `url`: this daemon, or the one to which it has sent us."""
        parts = urlsplit(url)
        if parts.netloc == self.address:
            return self
        return Daemon(self.sends_to or self.name, f"{parts.scheme}://{parts.netloc}")


def _as_it_is(host: str, port: int) -> tuple[str, int]:
    return host, port


class Transport:
    """The one way to daemons. `resolve` maps the cluster's host and port to one that this machine can reach.

    It is asked for every request and every redirect, so a tunnel sees all of them. Proxies named by the
    environment are ignored: they lead away from the cluster. Safe to use from several threads.
    """

    def __init__(
        self,
        *,
        resolve: Resolve = _as_it_is,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        http: "httpx.BaseTransport | None" = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Keep how to reach daemons; `http` replaces the network in tests."""
        self._resolve = resolve
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._http = http
        self._pause = pause
        self._client: httpx.Client | None = None
        self._opening = threading.Lock()

    def __enter__(self) -> Self:
        """Return itself; leaving closes its connections."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def reachable(self, url: str) -> str:
        """Return `url` with its host and port replaced by those that this machine can reach."""
        parts = urlsplit(url)
        try:
            known_host, known_port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        except (KeyError, ValueError) as error:
            raise ServiceError(f"{url!r} is not an address that a daemon can have") from error
        host, port = self._resolve(known_host, known_port)
        netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))

    def get_json(
        self,
        daemon: Daemon,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        what: str,
        read_timeout_s: float | None = None,
    ) -> Any:
        """Return the JSON that `daemon` answers to GET; briefly retried. Raises Unreachable, ServiceError."""
        return self.request_json(daemon, "GET", path, params, what=what, read_timeout_s=read_timeout_s)

    def request_json(
        self,
        daemon: Daemon,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        what: str,
        body: Any = None,
        read_timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> Any:
        """Return the JSON that `daemon` answers, None for an empty one; only idempotent requests are retried.

        `what` completes "asked to …" in an error. Raises Unreachable, RemoteError, ServiceError.
        """
        url = path if "://" in path else daemon.base_url.rstrip("/") + path
        if params:
            url += ("&" if "?" in url else "?") + urlencode(params)
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json"} | (
            {} if body is None else {"Content-Type": "application/json"}
        )
        repeatable = method == "GET" if idempotent is None else idempotent
        for pause_s in (*(RETRY_PAUSES_S if repeatable else ()), None):
            try:
                with self.stream(
                    daemon,
                    method,
                    url,
                    what=what,
                    content=content,
                    headers=headers,
                    read_timeout_s=read_timeout_s,
                ) as response:
                    return _decoded(daemon, what, self._whole(daemon, what, response))
            except (Unreachable, RemoteError) as error:
                if pause_s is None or not _is_transient(error):
                    raise
                self._pause(pause_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextmanager
    def stream(
        self,
        daemon: Daemon,
        method: str,
        url: str,
        *,
        what: str,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float | None = None,
    ) -> "Iterator[httpx.Response]":
        """Yield a response whose body is still to be read; GET follows redirects, each through `resolve`.

        `url` is as the cluster knows it. What the body of the `with` raises from httpx is translated too.
        Raises Unreachable, RemoteError (the daemon's own exception), ServiceError.
        """
        import httpx

        asked = daemon.at(url)
        try:
            for _ in range(REDIRECTS_MAX + 1):
                request = self._connected().build_request(
                    method,
                    self.reachable(url),
                    content=content,
                    headers=dict(headers or {}),
                    timeout=self._timeout(read_timeout_s),
                )
                response = self._connected().send(request, stream=True)
                try:
                    if response.is_redirect and method == "GET":
                        url = urljoin(url, response.headers["location"])
                        asked = daemon.at(url)
                        continue
                    if response.status_code >= 400:
                        response.read()
                        raise remote_error(asked, what, response.status_code, response.content)
                    yield response
                    return
                finally:
                    response.close()
        except httpx.HTTPError as error:
            raise Unreachable(
                f"{asked} does not answer ({_cause(error)}), asked to {what}",
                hint="`rpicluster status` shows which daemon is down",
            ) from error
        raise ServiceError(
            f"{daemon} sends requests in a circle, asked to {what}; the last address was {url}"
        )

    def _connected(self) -> "httpx.Client":
        with self._opening:
            if self._client is not None:
                return self._client
            import http.cookiejar

            import httpx

            client = httpx.Client(trust_env=False, follow_redirects=False, transport=self._http)
            # Hadoop's sign-in cookie outranks `user.name`: kept, it would make later users the first one.
            client.cookies.jar.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
            self._client = client
            return client

    def _timeout(self, read_timeout_s: float | None) -> "httpx.Timeout":
        import httpx

        read = self._read_timeout_s if read_timeout_s is None else read_timeout_s
        return httpx.Timeout(connect=self._connect_timeout_s, read=read, write=read, pool=read)

    def _whole(self, daemon: Daemon, what: str, response: "httpx.Response") -> bytes:
        response.read()
        if response.is_redirect:
            raise ServiceError(f"{daemon} answered with a redirect, asked to {what}")
        return response.content


@contextmanager
def answer_of(daemon: Daemon, what: str) -> Iterator[None]:
    """Turn the errors of taking an answer apart into a ServiceError that says whose answer it was."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ServiceError(
            f"{daemon} answered something unexpected ({type(error).__name__}: {error}), asked to {what}",
            hint="is another program, or another version of Hadoop, listening on that port?",
        ) from error


def remote_error(daemon: Daemon, what: str, status: int, body: bytes) -> RemoteError:
    """Return the error inside a daemon's answer: Hadoop's RemoteException, or the page's first line."""
    exception, said = "", ""
    try:
        document = json.loads(body[:_ERROR_BYTES_MAX])
    except ValueError:
        document = None
    if isinstance(document, dict) and isinstance(remote := document.get("RemoteException"), dict):
        exception, said = str(remote.get("exception", "")), str(remote.get("message", ""))
    elif isinstance(document, dict):
        said = str(document.get("message", "") or document.get("error", ""))
    elif not body.lstrip().startswith(b"<"):
        said = body[:_ERROR_BYTES_MAX].decode(errors="replace")
    said = said.strip().split("\n", 1)[0]
    return RemoteError(
        f"{daemon} refused to {what}: {said or f'HTTP {status}'}",
        daemon=daemon.name,
        status=status,
        exception=exception,
        said=said,
        hint=_HINTS.get(exception),
    )


def _decoded(daemon: Daemon, what: str, content: bytes) -> Any:
    if not content.strip():
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise ServiceError(
            f"{daemon} answered with something else than JSON, asked to {what}: {content[:80]!r}",
            hint="is another program listening on that port?",
        ) from error


def _is_transient(error: Unreachable | RemoteError) -> bool:
    if isinstance(error, RemoteError):
        return error.status == 503 or error.exception in _TRANSIENT
    import httpx

    # A connection that times out has used up its patience already.
    return not isinstance(error.__cause__, httpx.TimeoutException)


def _cause(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return "connected, but no answer in time"
    text = str(error) or type(error).__name__
    return "connection refused" if "refused" in text.lower() else text
