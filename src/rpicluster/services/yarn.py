"""The ResourceManager's and NodeManagers' REST: nodes, applications, their containers, and killing one."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rpicluster.errors import ServiceError, UsageError
from rpicluster.services.transport import Daemon, Transport, answer_of

API = "/ws/v1/cluster"
FINAL_STATES = frozenset({"FINISHED", "FAILED", "KILLED"})
KILL_TIMEOUT_S = 30.0
_POLL_S = 0.25
_APPLICATION_ID = re.compile(r"^application_\d+_\d+$")
# The NodeManager frames a log with a header and this end; there is no raw form of it.
_LOG_BEGIN, _LOG_END = "\nLogContents:\n", "\nEnd of LogType:"


@dataclass(frozen=True)
class ClusterInfo:
    """The ResourceManager itself."""

    state: str
    version: str
    started_s: float


@dataclass(frozen=True)
class NodeReport:
    """A NodeManager as the ResourceManager sees it."""

    id: str
    host: str
    http_address: str
    state: str
    health_report: str
    memory_used_mib: int
    memory_total_mib: int
    vcores_used: int
    vcores_total: int
    containers: int
    last_seen_s: float

    @property
    def is_running(self) -> bool:
        """Return whether containers can be placed on it."""
        return self.state == "RUNNING"

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return asdict(self)


@dataclass(frozen=True)
class Application:
    """An application on YARN. Times are seconds since 1970, 0 for not yet; memory is what it holds now."""

    id: str
    name: str
    user: str
    queue: str
    type: str
    state: str
    final_status: str
    diagnostics: str
    progress_percent: float
    started_s: float
    finished_s: float
    elapsed_s: float
    memory_mib: int
    vcores: int
    containers: int
    am_node: str
    tracking_url: str
    log_aggregation: str

    @property
    def is_final(self) -> bool:
        """Return whether it has ended, well or badly."""
        return self.state in FINAL_STATES

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return asdict(self)


@dataclass(frozen=True)
class Attempt:
    """One try to run an application's master."""

    id: str
    state: str
    container_id: str
    node_id: str
    node_http: str
    diagnostics: str


@dataclass(frozen=True)
class Container:
    """A running container of an application."""

    id: str
    node_id: str
    node_http: str
    state: str
    memory_mib: int
    vcores: int
    is_am: bool


class Yarn:
    """One user's view of YARN."""

    def __init__(
        self,
        transport: Transport,
        base_url: str,
        user: str,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Talk to the ResourceManager at `base_url` (`http://host:8088`) as `user`."""
        self.transport = transport
        self.resource_manager = Daemon("ResourceManager", base_url)
        self.user = user
        self._clock_s, self._pause = clock_s, pause

    def info(self) -> ClusterInfo:
        """Return the ResourceManager's state and version."""
        answer = self._ask("/info", what="tell its state")
        with answer_of(self.resource_manager, "tell its state"):
            found = answer["clusterInfo"]
            return ClusterInfo(found["state"], found["hadoopVersion"], found["startedOn"] / 1000)

    def nodes(self) -> list[NodeReport]:
        """Return all NodeManagers, those that are lost or unhealthy included, by id."""
        answer = self._ask("/nodes", what="list its nodes")
        with answer_of(self.resource_manager, "list its nodes"):
            nodes = [_node(found) for found in _entries(answer, "nodes", "node")]
        return sorted(nodes, key=lambda node: node.id)

    def applications(
        self, *, states: Iterable[str] = (), user: str | None = None, limit: int | None = None
    ) -> list[Application]:
        """Return applications, newest first; `states` as YARN writes them, e.g. `RUNNING`."""
        params = {"states": ",".join(states), "user": user or "", "limit": str(limit or "")}
        answer = self._ask("/apps", {k: v for k, v in params.items() if v}, what="list applications")
        with answer_of(self.resource_manager, "list applications"):
            applications = [_application(found) for found in _entries(answer, "apps", "app")]
        return sorted(applications, key=lambda app: (app.started_s, app.id), reverse=True)

    def application(self, application_id: str) -> Application:
        """Return one application. Raises RemoteError (NotFoundException) for one that YARN does not know."""
        checked = _checked(application_id)
        answer = self._ask(f"/apps/{checked}", what=f"show {checked}")
        with answer_of(self.resource_manager, f"show {checked}"):
            return _application(answer["app"])

    def attempts(self, application_id: str) -> list[Attempt]:
        """Return the tries to run an application's master, first first."""
        checked = _checked(application_id)
        answer = self._ask(f"/apps/{checked}/appattempts", what=f"list the attempts of {checked}")
        with answer_of(self.resource_manager, f"list the attempts of {checked}"):
            return [_attempt(found) for found in _entries(answer, "appAttempts", "appAttempt")]

    def containers(self, application_id: str) -> list[Container]:
        """Return the containers that run now, of the newest attempt."""
        attempts = self.attempts(application_id)
        if not attempts:
            return []
        newest = attempts[-1]
        path = f"/apps/{application_id}/appattempts/{newest.id}/containers"
        answer = self._ask(path, what=f"list the containers of {application_id}")
        with answer_of(self.resource_manager, f"list the containers of {application_id}"):
            found = _entries(answer, "containers", "container") or _listed(answer, "container")
            return [_container(entry, newest.container_id) for entry in found]

    def kill(self, application_id: str, *, timeout_s: float = KILL_TIMEOUT_S) -> Application:
        """Kill an application and return it as it ended; one that has ended already is left alone.

        Allowed also with `yarn.webapp.enable-rest-app-submissions=false`. Raises ServiceError if it lives on
        after `timeout_s` seconds.
        """
        checked = _checked(application_id)
        deadline = self._clock_s() + timeout_s
        while True:
            found = self.application(checked)
            if found.is_final:
                return found
            self.transport.request_json(
                self.resource_manager,
                "PUT",
                f"{API}/apps/{checked}/state",
                {"user.name": self.user},
                body={"state": "KILLED"},
                what=f"kill {checked}",
                idempotent=True,
            )
            if self._clock_s() > deadline:
                raise ServiceError(
                    f"{checked} is still {found.state}, {timeout_s:.0f} s after it was told to end",
                    hint=f"rpicluster jobs kill {checked}",
                )
            self._pause(_POLL_S)

    def container_log(
        self, node_http: str, container_id: str, name: str, *, tail_bytes: int = 1 << 20
    ) -> str:
        """Return the end of a log of a container that runs now, e.g. `stderr`; asked of its NodeManager."""
        node = Daemon("NodeManager", _with_scheme(node_http))
        url = f"{node.base_url}/ws/v1/node/containers/{container_id}/logs/{name}?size=-{tail_bytes}"
        with self.transport.stream(node, "GET", url, what=f"show {name} of {container_id}") as response:
            text = response.read().decode(errors="replace")
        begin, end = text.find(_LOG_BEGIN), text.rfind(_LOG_END)
        return text[begin + len(_LOG_BEGIN) : end] if 0 <= begin < end else ""

    def _ask(self, path: str, params: Mapping[str, str] | None = None, *, what: str) -> Any:
        query = {"user.name": self.user, **(params or {})}
        return self.transport.get_json(self.resource_manager, API + path, query, what=what)


def _checked(application_id: str) -> str:
    if not _APPLICATION_ID.match(application_id):
        raise UsageError(
            f"{application_id!r} is not an application of YARN", hint="`rpicluster jobs list` shows their ids"
        )
    return application_id


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def _entries(answer: Any, outer: str, inner: str) -> list[Mapping[str, Any]]:
    """Return a list that YARN leaves out, or makes null, when it is empty."""
    return _listed((answer or {}).get(outer) or {}, inner)


def _listed(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = answer.get(key) or []
    return found if isinstance(found, list) else [found]


def _node(found: Mapping[str, Any]) -> NodeReport:
    return NodeReport(
        id=found["id"],
        host=found["nodeHostName"],
        http_address=found.get("nodeHTTPAddress", ""),
        state=found["state"],
        health_report=found.get("healthReport") or "",
        memory_used_mib=found["usedMemoryMB"],
        memory_total_mib=found["usedMemoryMB"] + found["availMemoryMB"],
        vcores_used=found["usedVirtualCores"],
        vcores_total=found["usedVirtualCores"] + found["availableVirtualCores"],
        containers=found["numContainers"],
        last_seen_s=found["lastHealthUpdate"] / 1000,
    )


def _application(found: Mapping[str, Any]) -> Application:
    return Application(
        id=found["id"],
        name=found["name"],
        user=found["user"],
        queue=found["queue"],
        type=found["applicationType"],
        state=found["state"],
        final_status=found["finalStatus"],
        diagnostics=found.get("diagnostics") or "",
        progress_percent=found["progress"],
        started_s=found["startedTime"] / 1000,
        finished_s=found["finishedTime"] / 1000,
        elapsed_s=found["elapsedTime"] / 1000,
        # YARN says -1 for an application that holds nothing any more.
        memory_mib=max(found["allocatedMB"], 0),
        vcores=max(found["allocatedVCores"], 0),
        containers=max(found["runningContainers"], 0),
        am_node=found.get("amHostHttpAddress", ""),
        tracking_url=found.get("trackingUrl", ""),
        log_aggregation=found.get("logAggregationStatus", ""),
    )


def _attempt(found: Mapping[str, Any]) -> Attempt:
    return Attempt(
        id=found["appAttemptId"],
        state=found.get("appAttemptState", ""),
        container_id=found.get("containerId", ""),
        node_id=found.get("nodeId", ""),
        node_http=found.get("nodeHttpAddress", ""),
        diagnostics=found.get("diagnosticsInfo", ""),
    )


def _container(found: Mapping[str, Any], am_container_id: str) -> Container:
    return Container(
        id=found["containerId"],
        node_id=found.get("nodeId", ""),
        node_http=found.get("nodeHttpAddress", ""),
        state=found["containerState"],
        memory_mib=found["allocatedMB"],
        vcores=found["allocatedVCores"],
        is_am=found["containerId"] == am_container_id,
    )
