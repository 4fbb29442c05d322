"""Proof that the cluster did the work: asked of YARN, Spark and HDFS, not of the program that claims it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rpicluster.errors import RpiclusterError

if TYPE_CHECKING:
    from rpicluster.services.connect.session import ConnectSession
    from rpicluster.services.spark_rest import SparkRest
    from rpicluster.services.webhdfs import WebHdfs
    from rpicluster.services.yarn import Yarn

NODES_NEEDED = 2
# What Spark's physical plan calls the verbs that dbplyr wrote.
OPERATORS = {
    "WHERE": ("Filter", "filters="),
    "GROUP BY": ("HashAggregate", "SortAggregate", "ObjectHashAggregate"),
    "JOIN": ("Join",),
    "OVER": ("Window",),
    "SELECT": ("BatchScan",),
}


@dataclass(frozen=True)
class Evidence:
    """One claim, whether it holds, and what was seen."""

    claim: str
    holds: bool
    seen: str


@dataclass(frozen=True)
class Work:
    """Tasks, task time and input that executors have done up to now, by node."""

    tasks: Mapping[str, int]
    task_ms: Mapping[str, int]
    input_bytes: int

    def since(self, before: "Work") -> "Work":
        """Return what was done after `before`."""
        return Work(
            {node: count - before.tasks.get(node, 0) for node, count in self.tasks.items()},
            {node: time - before.task_ms.get(node, 0) for node, time in self.task_ms.items()},
            self.input_bytes - before.input_bytes,
        )


def work_so_far(spark: "SparkRest", application: str) -> Work:
    """Return the work of all executors, those that are gone included; the driver's is not counted."""
    tasks: dict[str, int] = {}
    task_ms: dict[str, int] = {}
    read = 0
    for executor in spark.executors(application, dead=True):
        if executor.is_driver:
            continue
        tasks[executor.node] = tasks.get(executor.node, 0) + executor.completed_tasks
        task_ms[executor.node] = task_ms.get(executor.node, 0) + executor.duration_ms
        read += executor.input_bytes
    return Work(tasks, task_ms, read)


def prove(
    *,
    yarn: "Yarn",
    webhdfs: "WebHdfs",
    session: "ConnectSession",
    application: str,
    work: Work,
    pipelines: Sequence[Mapping[str, Any]],
) -> list[Evidence]:
    """Return the evidence for each claim of the demo; `work` is what was done while R ran."""
    return [
        _claim("YARN runs the application", lambda: _application(yarn, application)),
        _claim(
            f"tasks ran in containers on {NODES_NEEDED} NodeManagers",
            lambda: _containers(yarn, application, work),
        ),
        _claim("the input came from HDFS", lambda: _input(webhdfs, session, work)),
        *(
            _claim(f"Spark ran the verbs of {pipeline['name']!r}", lambda p=pipeline: _verbs(session, p))
            for pipeline in pipelines
        ),
        *(
            Evidence(
                f"local R agrees with {pipeline['name']!r}",
                pipeline["wrong"] == "",
                pipeline["wrong"] or f"{pipeline['rows']} rows",
            )
            for pipeline in pipelines
        ),
    ]


def _claim(claim: str, look: Any) -> Evidence:
    try:
        holds, seen = look()
    except RpiclusterError as error:
        return Evidence(claim, False, error.message.splitlines()[0])
    return Evidence(claim, holds, seen)


def _application(yarn: "Yarn", application: str) -> tuple[bool, str]:
    found = yarn.application(application)
    return found.type == "SPARK" and found.state == "RUNNING", f"{found.id}: {found.type}, {found.state}"


def _containers(yarn: "Yarn", application: str, work: Work) -> tuple[bool, str]:
    granted = {container.node_id.rpartition(":")[0] for container in yarn.containers(application)}
    busy = {node for node, tasks in work.tasks.items() if tasks > 0}
    seen = ", ".join(f"{work.tasks[node]} tasks on {node}" for node in sorted(busy)) or "no tasks"
    return len(busy & granted) >= NODES_NEEDED, seen


def _input(webhdfs: "WebHdfs", session: "ConnectSession", work: Work) -> tuple[bool, str]:
    paths = [str(path) for (path,) in session.sql("SELECT file_path FROM rpi.default.flights.files").rows()]
    in_hdfs = [path for path in paths if urlsplit(path).scheme == "hdfs"]
    stored = sum(webhdfs.status(urlsplit(path).path).length for path in in_hdfs)
    holds = bool(paths) and in_hdfs == paths and stored > 0 and work.input_bytes > 0
    return holds, f"{work.input_bytes} bytes read; {len(in_hdfs)} files, {stored} bytes, in HDFS"


def _verbs(session: "ConnectSession", pipeline: Mapping[str, Any]) -> tuple[bool, str]:
    verbs = pipeline["verbs"] if isinstance(pipeline["verbs"], list) else [pipeline["verbs"]]
    plan = str(session.sql(f"EXPLAIN {pipeline['sql']}").rows()[0][0])
    missing = [
        verb
        for verb in verbs
        if verb not in pipeline["sql"] or not any(operator in plan for operator in OPERATORS[verb])
    ]
    if missing or "BatchScan rpi.default.flights" not in plan:
        return False, f"not in the plan: {', '.join(missing) or 'the table in HDFS'}"
    return True, ", ".join(verbs)
