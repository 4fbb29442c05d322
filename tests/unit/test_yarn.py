"""YARN's, the NameNode's and Spark's REST; answers of Hadoop 3.5.0 and Spark 4.1.4, cut short."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from rpicluster.errors import RemoteError, ServiceError, UsageError
from rpicluster.services.joblogs import ContainerLog, application_logs, as_text, parse_aggregated
from rpicluster.services.namenode import NameNode
from rpicluster.services.spark_rest import SparkRest
from rpicluster.services.transport import Transport
from rpicluster.services.webhdfs import WebHdfs
from rpicluster.services.yarn import Yarn

AGGREGATED = (Path(__file__).parents[1] / "cases" / "logs" / "aggregated.tfile").read_bytes()
ID = "application_1795398157057_0003"
APP: dict[str, Any] = {
    "id": ID, "user": "ada", "name": "sleeper", "queue": "root.default", "state": "RUNNING",
    "finalStatus": "UNDEFINED", "progress": 10.0, "trackingUI": "UNASSIGNED", "diagnostics": "",
    "applicationType": "SPARK", "startedTime": 1795398192770, "finishedTime": 0, "elapsedTime": 15444,
    "amHostHttpAddress": "127.64.0.2:8042", "allocatedMB": 256, "allocatedVCores": 1, "runningContainers": 1,
    "logAggregationStatus": "NOT_START",
}  # fmt: skip
NODE: dict[str, Any] = {
    "rack": "/default-rack", "state": "UNHEALTHY", "id": "127.64.0.2:45454", "nodeHostName": "127.64.0.2",
    "nodeHTTPAddress": "127.64.0.2:8042", "lastHealthUpdate": 1795398164054, "version": "3.5.0",
    "healthReport": "1/1 local-dirs usable space is below configured utilization percentage",
    "numContainers": 2,
    "usedMemoryMB": 512, "availMemoryMB": 1536, "usedVirtualCores": 1, "availableVirtualCores": 3,
}  # fmt: skip
ATTEMPT = {
    "id": 1, "startTime": 1795398192816, "containerId": "container_1795398157057_0003_01_000001",
    "nodeHttpAddress": "127.64.0.2:8042", "nodeId": "127.64.0.2:45454",
    "appAttemptId": "appattempt_1795398157057_0003_000001", "appAttemptState": "LAUNCHED",
}  # fmt: skip
# The list of containers is the one answer that has no outer key.
CONTAINER = {
    "containerId": "container_1795398157057_0003_01_000001", "allocatedMB": 256, "allocatedVCores": 1,
    "containerState": "RUNNING", "nodeHttpAddress": "http://127.64.0.2:8042", "nodeId": "127.64.0.2:45454",
}  # fmt: skip
NM_LOG = (
    "Container: container_1795398157057_0003_01_000001 on 127.64.0.2:45454\nLogAggregationType: LOCAL\n===\n"
    "LogType:stdout\nLogLastModifiedTime:Mon Nov 23 01:54:25 +0000 2026\nLogLength:6\nLogContents:\nstart\n"
    "End of LogType:stdout.This log file belongs to a running container and so may not be complete.\n****\n\n"
)
Answers = Mapping[str, Any]


def serve(answers: Answers, seen: list[httpx.Request] | None = None) -> Transport:
    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        answer = answers.get(request.url.path)
        if callable(answer):
            answer = answer(request)
        if answer is None:
            exception = "FileNotFoundException" if "webhdfs" in request.url.path else "NotFoundException"
            body = {"RemoteException": {"exception": exception, "message": f"{request.url.path} not found"}}
            return httpx.Response(404, json=body)
        if isinstance(answer, bytes):
            return httpx.Response(200, content=answer)
        return httpx.Response(200, json=answer)

    return Transport(http=httpx.MockTransport(handle), pause=lambda _s: None)


def yarn(answers: Answers, seen: list[httpx.Request] | None = None, **more: Callable[..., Any]) -> Yarn:
    return Yarn(serve(answers, seen), "http://rm:8088", "ada", pause=lambda _s: None, **more)  # type: ignore[arg-type]


def test_a_node_tells_its_health_memory_and_cores() -> None:
    node = yarn({"/ws/v1/cluster/nodes": {"nodes": {"node": [NODE]}}}).nodes()[0]
    assert (node.state, node.is_running, node.memory_used_mib, node.memory_total_mib) == (
        "UNHEALTHY",
        False,
        512,
        2048,
    )
    assert (node.vcores_total, node.containers) == (4, 2)
    assert node.health_report.startswith("1/1 local-dirs")
    assert json.dumps(node.document())


@pytest.mark.parametrize("empty", [{"apps": {}}, {"apps": None}, {"apps": {"app": []}}])
def test_no_application_is_an_empty_list_however_yarn_writes_it(empty: Any) -> None:
    assert yarn({"/ws/v1/cluster/apps": empty}).applications() == []


def test_applications_come_newest_first_and_filters_reach_yarn() -> None:
    older = {**APP, "id": "application_1_0001", "startedTime": 1}
    seen: list[httpx.Request] = []
    client = yarn({"/ws/v1/cluster/apps": {"apps": {"app": [older, APP]}}}, seen)
    found = client.applications(states=["RUNNING", "ACCEPTED"], user="bob", limit=5)
    assert [app.id for app in found] == [ID, "application_1_0001"]
    assert dict(seen[0].url.params) == {
        "user.name": "ada",
        "states": "RUNNING,ACCEPTED",
        "user": "bob",
        "limit": "5",
    }


def test_an_application_that_holds_nothing_any_more_has_no_negative_memory() -> None:
    ended = {**APP, "state": "FAILED", "allocatedMB": -1, "allocatedVCores": -1, "runningContainers": -1}
    found = yarn({f"/ws/v1/cluster/apps/{ID}": {"app": ended}}).application(ID)
    assert (found.is_final, found.memory_mib, found.vcores, found.containers) == (True, 0, 0, 0)
    assert json.dumps(found.document())


@pytest.mark.parametrize(
    "application_id", ["", "application_1", "../info", "application_1_1/state", "job_1_1"]
)
def test_what_is_no_application_id_reaches_no_url(application_id: str) -> None:
    seen: list[httpx.Request] = []
    for ask in (yarn({}, seen).application, yarn({}, seen).kill, yarn({}, seen).attempts):
        with pytest.raises(UsageError):
            ask(application_id)
    assert not seen


def test_an_application_that_yarn_does_not_know_is_told() -> None:
    with pytest.raises(RemoteError, match="ResourceManager at rm:8088 refused to show application_1_0001"):
        yarn({}).application("application_1_0001")


def test_an_answer_of_another_program_is_recognised() -> None:
    with pytest.raises(ServiceError, match="something unexpected"):
        yarn({"/ws/v1/cluster/nodes": {"nodes": {"node": [{"id": 1}]}}}).nodes()


def test_kill_says_who_asks_and_waits_until_it_has_ended() -> None:
    states = iter(["RUNNING", "RUNNING", "KILLED"])
    seen: list[httpx.Request] = []
    answers = {
        f"/ws/v1/cluster/apps/{ID}": lambda _r: {"app": {**APP, "state": next(states)}},
        f"/ws/v1/cluster/apps/{ID}/state": {"state": "KILLING"},
    }
    assert yarn(answers, seen).kill(ID).state == "KILLED"
    puts = [request for request in seen if request.method == "PUT"]
    assert len(puts) == 2
    assert puts[0].url.params["user.name"] == "ada" and json.loads(puts[0].content) == {"state": "KILLED"}


def test_an_application_that_has_ended_is_left_alone() -> None:
    seen: list[httpx.Request] = []
    answers = {f"/ws/v1/cluster/apps/{ID}": {"app": {**APP, "state": "FINISHED"}}}
    assert yarn(answers, seen).kill(ID).state == "FINISHED"
    assert [request.method for request in seen] == ["GET"]


def test_an_application_that_lives_on_is_an_error_after_the_deadline() -> None:
    ticks = iter(range(0, 1000, 10))
    answers = {
        f"/ws/v1/cluster/apps/{ID}": {"app": APP},
        f"/ws/v1/cluster/apps/{ID}/state": {"state": "RUNNING"},
    }
    with pytest.raises(ServiceError, match="is still RUNNING, 30 s after"):
        yarn(answers, clock_s=lambda: float(next(ticks))).kill(ID)


def test_containers_say_which_one_is_the_master() -> None:
    answers = {
        f"/ws/v1/cluster/apps/{ID}/appattempts": {"appAttempts": {"appAttempt": [ATTEMPT]}},
        f"/ws/v1/cluster/apps/{ID}/appattempts/{ATTEMPT['appAttemptId']}/containers": {
            "container": [CONTAINER]
        },
    }
    container = yarn(answers).containers(ID)[0]
    assert container.is_am and container.memory_mib == 256


# --- logs ----------------------------------------------------------------------------------------
def test_the_aggregated_logs_of_a_real_node_are_read_without_java() -> None:
    logs = {(log.container_id[-14:], log.name): log.text for log in parse_aggregated(AGGREGATED, "n")}
    assert logs["0003_02_000001"[-14:], "prelaunch.err"] == "java.lang.OutOfMemoryError: Java heap space\n"
    assert {name for _, name in logs} == {"prelaunch.err", "stderr", "stdout"}
    assert len(logs) == 6


def test_only_the_end_of_a_long_log_is_kept() -> None:
    logs = parse_aggregated(AGGREGATED, "n", tail_bytes=6)
    assert {log.text for log in logs if log.name == "prelaunch.err"} == {"space\n"}


@pytest.mark.parametrize("length", [0, 10, 43, 100, 5000, len(AGGREGATED) - 1])
def test_a_cut_log_file_is_an_error_and_not_half_a_log(length: int) -> None:
    with pytest.raises(ValueError):
        parse_aggregated(AGGREGATED[:length], "n")


def test_damage_in_the_middle_never_loops_or_crashes_otherwise() -> None:
    for at in range(0, len(AGGREGATED), 97):
        damaged = AGGREGATED[:at] + bytes([AGGREGATED[at] ^ 0xFF]) + AGGREGATED[at + 1 :]
        try:
            logs = parse_aggregated(damaged, "n")
        except ValueError:
            continue
        assert all(isinstance(log, ContainerLog) for log in logs)


def file_status(kind: str, suffix: str, length: int = 0) -> dict[str, Any]:
    return {
        "type": kind, "length": length, "modificationTime": 1, "owner": "ada", "group": "ada",
        "permission": "640",
        "replication": 1, "blockSize": 1, "fileId": 1, "pathSuffix": suffix,
    }  # fmt: skip


def test_logs_of_an_ended_application_come_from_hdfs() -> None:
    folder = f"/webhdfs/v1/tmp/logs/ada/bucket-logs-tfile/0003/{ID}"
    entry = file_status("FILE", "w1_45454", len(AGGREGATED))
    listing = {"partialListing": {"FileStatuses": {"FileStatus": [entry]}}, "remainingEntries": 0}
    answers = {
        f"/ws/v1/cluster/apps/{ID}": {"app": {**APP, "state": "FAILED"}},
        f"/ws/v1/cluster/apps/{ID}/appattempts": {"appAttempts": {"appAttempt": [ATTEMPT]}},
        folder: lambda r: (
            {"DirectoryListing": listing}
            if r.url.params["op"] == "LISTSTATUS_BATCH"
            else {"FileStatus": file_status("DIRECTORY", "")}
        ),
        f"{folder}/w1_45454": AGGREGATED,
    }
    client = yarn(answers)
    logs = application_logs(client, WebHdfs(client.transport, "http://nn:9870", "ada"), ID)
    text = as_text(logs)
    assert text.startswith(
        "==> container_1795398157057_0003_01_000001 on w1_45454: prelaunch.err <==\njava.lang.Out"
    )
    assert "stdout" not in text, "empty files are left out"


def test_logs_of_a_running_application_come_from_its_nodes() -> None:
    nodes = "/ws/v1/node/containers/container_1795398157057_0003_01_000001/logs"
    answers = {
        f"/ws/v1/cluster/apps/{ID}": {"app": APP},
        f"/ws/v1/cluster/apps/{ID}/appattempts": {"appAttempts": {"appAttempt": [ATTEMPT]}},
        f"/ws/v1/cluster/apps/{ID}/appattempts/{ATTEMPT['appAttemptId']}/containers": {
            "container": [CONTAINER]
        },
        f"{nodes}/stdout": NM_LOG.encode(),
    }
    client = yarn(answers)
    logs = application_logs(client, WebHdfs(client.transport, "http://nn:9870", "ada"), ID)
    assert [(log.name, log.text) for log in logs] == [("stdout", "start")]


# --- NameNode and Spark --------------------------------------------------------------------------
INFO: dict[str, Any] = {
    "SoftwareVersion": "3.5.0", "Safemode": "Safe mode is ON.", "Total": 100, "Used": 10, "Free": 80,
    "TotalBlocks": 23, "NumberOfMissingBlocks": 1, "NumberOfMissingBlocksWithReplicationFactorOne": 1,
    "LiveNodes": json.dumps({"127.64.0.2:9866": {
        "lastContact": 2, "adminState": "In Service", "capacity": 100, "used": 10, "remaining": 80,
        "numBlocks": 23, "volfails": 0}}),
    "DeadNodes": json.dumps({"127.64.0.3:9866": {"lastContact": 700, "decommissioned": False}}),
}  # fmt: skip
SYSTEM = {"FilesTotal": 58, "UnderReplicatedBlocks": 4, "CorruptBlocks": 0}


def test_the_namenode_tells_safe_mode_datanodes_and_blocks() -> None:
    def beans(request: httpx.Request) -> Any:
        return {"beans": [INFO if "NameNodeInfo" in request.url.params["qry"] else SYSTEM]}

    report = NameNode(serve({"/jmx": beans}), "http://nn:9870").report()
    assert (report.safe_mode, report.missing_blocks, report.under_replicated_blocks) == (
        "Safe mode is ON.",
        1,
        4,
    )
    assert [node.name for node in report.live] == ["127.64.0.2:9866"]
    assert [(node.name, node.last_contact_s) for node in report.dead] == [("127.64.0.3:9866", 700)]
    assert json.dumps(report.document())


def test_the_namenode_tells_how_many_blocks_of_a_node_that_leaves_are_still_to_copy() -> None:
    going = json.loads(INFO["LiveNodes"])
    going["127.64.0.2:9866"]["adminState"] = "Decommission In Progress"
    info = {
        **INFO,
        "LiveNodes": json.dumps(going),
        "DecomNodes": json.dumps({"127.64.0.2:9866": {"underReplicatedBlocks": 12}}),
    }

    def beans(request: httpx.Request) -> Any:
        return {"beans": [info if "NameNodeInfo" in request.url.params["qry"] else SYSTEM]}

    (node,) = NameNode(serve({"/jmx": beans}), "http://nn:9870").report().live
    assert (node.state, node.to_copy, node.blocks) == ("decommission in progress", 12, 23)


def test_a_namenode_that_still_starts_says_so() -> None:
    with pytest.raises(ServiceError, match="NameNode at nn:9870 is still starting"):
        NameNode(serve({"/jmx": {"beans": []}}), "http://nn:9870").report()


def test_spark_tells_on_which_node_an_executor_runs() -> None:
    executor = {
        "id": "1", "hostPort": "worker-1:35219", "isActive": True, "totalCores": 1, "activeTasks": 1,
        "completedTasks": 8, "failedTasks": 0, "totalDuration": 21357, "memoryUsed": 97827,
        "maxMemory": 133378867,
        "totalInputBytes": 1536, "totalShuffleRead": 992, "totalShuffleWrite": 992, "executorLogs": {},
    }  # fmt: skip
    answers = {
        "/api/v1/applications": [
            {
                "id": ID,
                "name": "x",
                "attempts": [{"sparkUser": "ada", "appSparkVersion": "4.1.4", "completed": False}],
            }
        ],
        f"/api/v1/applications/{ID}/executors": [
            executor,
            {**executor, "id": "driver", "hostPort": "manager:1"},
        ],
        f"/api/v1/applications/{ID}/environment": {"sparkProperties": [["spark.ui.port", "4050"]]},
    }
    client = SparkRest(serve(answers), "http://manager:4040")
    application = client.application()
    assert (application.id, application.spark_version) == (ID, "4.1.4")
    executors = client.executors(application.id)
    assert [(e.node, e.is_driver) for e in executors] == [("worker-1", False), ("manager", True)]
    assert client.environment(application.id) == {"spark.ui.port": "4050"}


def test_a_driver_without_an_application_is_an_error() -> None:
    with pytest.raises(ServiceError, match="Spark driver at manager:4040"):
        SparkRest(serve({"/api/v1/applications": []}), "http://manager:4040").application()
