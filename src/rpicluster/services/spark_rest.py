"""A Spark driver's REST: applications, executors and where they run, jobs, stages, storage, environment."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from rpicluster.services.transport import Daemon, Transport, answer_of

API = "/api/v1"
T = TypeVar("T")


@dataclass(frozen=True)
class SparkApplication:
    """The application that a driver runs."""

    id: str
    name: str
    user: str
    spark_version: str
    is_completed: bool


@dataclass(frozen=True)
class Executor:
    """A process that runs tasks; `node` is the host it runs on. The driver is listed too, as `driver`."""

    id: str
    node: str
    is_active: bool
    cores: int
    active_tasks: int
    completed_tasks: int
    failed_tasks: int
    duration_ms: int
    memory_used_bytes: int
    memory_max_bytes: int
    input_bytes: int
    shuffle_read_bytes: int
    shuffle_write_bytes: int
    logs: Mapping[str, str]

    @property
    def is_driver(self) -> bool:
        """Return whether it is the driver, which runs no tasks on a cluster."""
        return self.id == "driver"

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """One action of a query. `group` is set by who started it, and is what cancels it."""

    id: int
    name: str
    status: str
    group: str
    stage_ids: tuple[int, ...]
    tasks: int
    active_tasks: int
    completed_tasks: int
    failed_tasks: int


@dataclass(frozen=True)
class Stage:
    """A part of a job between two shuffles."""

    id: int
    attempt: int
    name: str
    status: str
    tasks: int
    active_tasks: int
    completed_tasks: int
    failed_tasks: int
    input_bytes: int
    input_rows: int
    output_bytes: int
    shuffle_read_bytes: int
    shuffle_write_bytes: int
    failure: str


@dataclass(frozen=True)
class StoredRdd:
    """A cached table or RDD."""

    id: int
    name: str
    partitions: int
    cached_partitions: int
    memory_bytes: int
    disk_bytes: int


class SparkRest:
    """A driver's UI as data. On YARN it sends us to the ResourceManager's proxy, which is followed."""

    def __init__(self, transport: Transport, base_url: str) -> None:
        """Talk to the driver's UI at `base_url` (`http://host:4040`)."""
        self.transport = transport
        self.daemon = Daemon("Spark driver", base_url, sends_to="ResourceManager")

    def application(self) -> SparkApplication:
        """Return the application that this driver runs. Raises Unreachable, ServiceError."""
        found = self._ask(
            "/applications", "show its application", lambda answer: [_application(x) for x in answer]
        )
        with answer_of(self.daemon, "show its application"):
            return found[0]

    def executors(self, application_id: str, *, dead: bool = False) -> list[Executor]:
        """Return the executors and the driver; `dead` adds those that are gone."""
        path = "allexecutors" if dead else "executors"
        return self._list(application_id, path, "list its executors", _executor)

    def jobs(self, application_id: str) -> list[Job]:
        """Return the jobs, newest first."""
        return self._list(application_id, "jobs", "list its jobs", _job)

    def stages(self, application_id: str, *, status: str | None = None) -> list[Stage]:
        """Return the stages, newest first; `status` as Spark writes it in small letters, e.g. `active`."""
        query = f"?status={status}" if status else ""
        return self._list(application_id, f"stages{query}", "list its stages", _stage)

    def storage(self, application_id: str) -> list[StoredRdd]:
        """Return what is cached."""
        return self._list(application_id, "storage/rdd", "list what it has cached", _stored)

    def environment(self, application_id: str) -> dict[str, str]:
        """Return the Spark settings in force, as the driver shows them (secrets are starred out by Spark)."""
        what = "show its settings"
        return self._ask(
            f"/applications/{application_id}/environment",
            what,
            lambda answer: {str(key): str(value) for key, value in answer["sparkProperties"]},
        )

    def _list(
        self, application_id: str, path: str, what: str, read: Callable[[Mapping[str, Any]], T]
    ) -> list[T]:
        return self._ask(
            f"/applications/{application_id}/{path}", what, lambda answer: [read(x) for x in answer]
        )

    def _ask(self, path: str, what: str, read: Callable[[Any], T]) -> T:
        answer = self.transport.get_json(self.daemon, API + path, what=what)
        with answer_of(self.daemon, what):
            return read(answer)


def _application(found: Mapping[str, Any]) -> SparkApplication:
    attempt = found["attempts"][0]
    return SparkApplication(
        found["id"], found["name"], attempt["sparkUser"], attempt["appSparkVersion"], attempt["completed"]
    )


def _executor(found: Mapping[str, Any]) -> Executor:
    return Executor(
        id=found["id"],
        node=found["hostPort"].rsplit(":", 1)[0],
        is_active=found["isActive"],
        cores=found["totalCores"],
        active_tasks=found["activeTasks"],
        completed_tasks=found["completedTasks"],
        failed_tasks=found["failedTasks"],
        duration_ms=found["totalDuration"],
        memory_used_bytes=found["memoryUsed"],
        memory_max_bytes=found["maxMemory"],
        input_bytes=found["totalInputBytes"],
        shuffle_read_bytes=found["totalShuffleRead"],
        shuffle_write_bytes=found["totalShuffleWrite"],
        logs=dict(found["executorLogs"]),
    )


def _job(found: Mapping[str, Any]) -> Job:
    return Job(
        id=found["jobId"],
        name=found["name"],
        status=found["status"],
        group=found.get("jobGroup", ""),
        stage_ids=tuple(found["stageIds"]),
        tasks=found["numTasks"],
        active_tasks=found["numActiveTasks"],
        completed_tasks=found["numCompletedTasks"],
        failed_tasks=found["numFailedTasks"],
    )


def _stage(found: Mapping[str, Any]) -> Stage:
    return Stage(
        id=found["stageId"],
        attempt=found["attemptId"],
        name=found["name"],
        status=found["status"],
        tasks=found["numTasks"],
        active_tasks=found["numActiveTasks"],
        completed_tasks=found["numCompleteTasks"],
        failed_tasks=found["numFailedTasks"],
        input_bytes=found["inputBytes"],
        input_rows=found["inputRecords"],
        output_bytes=found["outputBytes"],
        shuffle_read_bytes=found["shuffleReadBytes"],
        shuffle_write_bytes=found["shuffleWriteBytes"],
        failure=found.get("failureReason", ""),
    )


def _stored(found: Mapping[str, Any]) -> StoredRdd:
    return StoredRdd(
        id=found["id"],
        name=found["name"],
        partitions=found["numPartitions"],
        cached_partitions=found["numCachedPartitions"],
        memory_bytes=found["memoryUsed"],
        disk_bytes=found["diskUsed"],
    )
