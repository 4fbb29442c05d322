"""What a stranger tries. Standard library only: it runs on nodes, too.

Usage: probes.pyz try TARGET-JSON | scan ADDRESS [FIRST LAST] | reach HOST PORT...
`try` prints {probe: [whether it got what it wanted, what was answered]}.
"""

import concurrent.futures
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse

import scan
from keeper.wire import ProbeFailed
from wires import (
    TIMEOUT_S,
    NotGot,
    connected,
    driver_file,
    executor_block,
    quoted,
    read_block,
    spark_connect,
)

RM, NM, NN, DN = ("rm", 8088), ("nm", 8042), ("nn", 9870), ("dn", 9864)
HEADERS = {"X-XSRF-HEADER": "a stranger knows this, too"}
PROBES = {}


def probe(words):
    def register(function):
        PROBES[words] = function
        return function

    return register


def ask(t, where, path, method="GET", body=None, expected=(200, 201, 202)):
    daemon, port = where
    wire = http.client.HTTPConnection(t["hosts"][daemon], port, timeout=TIMEOUT_S)
    headers = {**HEADERS, "Content-Type": "application/json"} if body is not None else HEADERS
    try:
        wire.request(method, path, body, headers)
        answer = wire.getresponse()
        said = answer.read()
    finally:
        wire.close()
    if answer.status not in expected:
        raise NotGot(f"HTTP {answer.status}")
    return answer, said


@probe("YARN: ask for a new application")
def new_application(t):
    return json.loads(ask(t, RM, "/ws/v1/cluster/apps/new-application", "POST", b"{}")[1])["application-id"]


@probe("YARN: run a command as an application")
def run_command(t):
    name = new_application(t)
    command = {"commands": {"command": t["command"]}}
    wanted = {
        "application-id": name,
        "application-name": "stranger",
        "application-type": "YARN",
        "am-container-spec": command,
        "max-app-attempts": 1,
        "resource": {"memory": 256, "vCores": 1},
    }
    ask(t, RM, "/ws/v1/cluster/apps", "POST", json.dumps(wanted).encode())
    until = time.monotonic() + 90
    while time.monotonic() < until:
        state = json.loads(ask(t, RM, f"/ws/v1/cluster/apps/{name}")[1])["app"]["state"]
        if state in ("FINISHED", "FAILED", "KILLED"):
            return f"ran: {state}"
        time.sleep(0.5)
    raise NotGot("was taken, and never ran")


@probe("YARN: refresh the nodes as an administrator")
def yarn_admin(t):
    quick = ["-D", "yarn.resourcemanager.connect.max-wait.ms=3000"]
    quick += ["-D", "yarn.resourcemanager.connect.retry-interval.ms=1000"]
    where = ["-D", f"yarn.resourcemanager.admin.address={t['hosts']['rm']}:8033"]
    main = "org.apache.hadoop.yarn.client.cli.RMAdminCLI"
    return java(t, t["yarn_user"], main, *quick, *where, "-refreshNodes")


@probe("YARN: read the list of applications")
def applications(t):
    return f"{len(ask(t, RM, '/ws/v1/cluster/apps')[1])} bytes"


@probe("NodeManager: read a container's log")
def container_log(t):
    found = json.loads(ask(t, NM, "/ws/v1/node/containers")[1])["containers"]
    for container in (found or {}).get("container", []):
        for name in container.get("containerLogFiles", []):
            _, said = ask(t, NM, f"/ws/v1/node/containerlogs/{container['id']}/{name}", expected=(200, 404))
            if said.strip():
                return f"{name}: {len(said)} bytes"
    raise NotGot("no container with a log")


def follow(t, answer, method, body=None):
    """Go where WebHDFS sends us: to a DataNode, which is named as the cluster knows it."""
    parts = urllib.parse.urlsplit(answer.headers["Location"])
    return ask(t, ("dn", parts.port), f"{parts.path}?{parts.query}", method, body)


def webhdfs(t, path, what, method, expected):
    where = f"/webhdfs/v1{quoted(path)}?op={what}&user.name={t['superuser']}"
    return ask(t, NN, where, method, b"" if method == "PUT" else None, expected)


@probe("WebHDFS: write a file as the superuser")
def webhdfs_write(t):
    answer, _ = webhdfs(t, "/written-by-a-stranger", "CREATE&overwrite=true", "PUT", (307,))
    follow(t, answer, "PUT", b"mine")
    return "written"


@probe("WebHDFS: read a private file as the superuser")
def webhdfs_read(t):
    answer, _ = webhdfs(t, t["private"], "OPEN", "GET", (307,))
    return follow(t, answer, "GET")[1].decode()


@probe("WebHDFS: delete a file as the superuser")
def webhdfs_delete(t):
    if not json.loads(webhdfs(t, t["doomed"], "DELETE", "DELETE", (200,))[1])["boolean"]:
        raise NotGot("nothing was deleted")
    return "deleted"


@probe("NameNode's RPC: delete a file as the superuser, with Hadoop's client")
def rpc_delete(t):
    shell = "org.apache.hadoop.fs.FsShell"
    host = t["hosts"]["nn"]
    return java(
        t, t["superuser"], shell, "-fs", f"hdfs://{host}:8020", "-rm", "-skipTrash", t["doomed_by_rpc"]
    )


def java(t, user, main, *arguments):
    """Run one of Hadoop's own clients; simple authentication believes HADOOP_USER_NAME."""
    quick = {
        "ipc.client.connect.timeout": 3000,
        "ipc.client.connect.max.retries": 0,
        "ipc.client.connect.max.retries.on.timeouts": 0,
    }
    settings = [word for key, value in quick.items() for word in ("-D", f"{key}={value}")]
    try:
        done = subprocess.run(
            [t["java"], "-Xmx128m", "-XX:-UsePerfData", "-cp", t["classpath"], main, *settings, *arguments],
            env={**os.environ, "HADOOP_USER_NAME": user},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=90,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    said = done.stdout.decode(errors="replace")
    if done.returncode == 0:
        return "done"
    # Of a connection that nobody answers, FsShell 3.5.0 says no more than "rm: Interrupted" (tried against a
    # port whose packets are dropped).
    if "ConnectTimeoutException" in said or "SocketTimeoutException" in said or "rm: Interrupted" in said:
        raise TimeoutError
    if "Connection refused" in said:
        raise ConnectionRefusedError
    raise NotGot(said.strip()[-200:])


@probe("DataNode: read a block")
def datanode_block(t):
    data = read_block(t["hosts"]["dn"], 9866, t["block"])
    if t["content"].encode() not in data:
        raise NotGot(f"{len(data)} bytes without the file's text")
    return "the file's text"


@probe("Spark Connect: no token")
def connect_without_token(t):
    return spark_connect(t["hosts"]["driver"], t["connect"], None)


@probe("Spark Connect: a wrong token")
def connect_with_wrong_token(t):
    return spark_connect(t["hosts"]["driver"], t["connect"], "wrong")


@probe("Spark's page: settings and executors")
def spark_page(t):
    def page(path):
        # On YARN a driver sends whoever is not YARN's proxy to that proxy, which asks it for us.
        answer, said = ask(t, ("driver", t["ui"]), path, expected=(200, 302, 307))
        if answer.status == 200:
            return said
        parts = urllib.parse.urlsplit(answer.headers["Location"])
        return ask(t, ("rm", parts.port), parts.path)[1]

    known = json.loads(page("/api/v1/applications"))
    page("/environment/")
    page(f"/api/v1/applications/{known[0]['id']}/environment")
    return known[0]["id"]


@probe("Driver: fetch a file that it serves")
def fetch_from_driver(t):
    return driver_file(t["hosts"]["driver"], t["driver"], t["driver_file"]).decode()


@probe("Executor: fetch a cached block")
def fetch_from_executor(t):
    return f"{executor_block(t['hosts']['executor'], t['executor'], t['cached'])} bytes"


def pages_of(name, where):
    @probe(f"{name}: metrics and settings (/jmx, /conf)")
    def read(t):
        return f"{sum(len(ask(t, where, path)[1]) for path in ('/jmx', '/conf'))} bytes"


for daemon, place in (("NameNode", NN), ("DataNode", DN), ("ResourceManager", RM), ("NodeManager", NM)):
    pages_of(daemon, place)


def outcome(function, t):
    try:
        return [True, function(t)]
    except TimeoutError:
        return [False, "silence"]
    except (ConnectionRefusedError, ConnectionResetError):
        return [False, "refused"]
    except (NotGot, ProbeFailed, OSError, ValueError, KeyError) as problem:
        said = str(problem)
        if "timed out" in said:
            return [False, "silence"]
        return [False, "refused" if "refused" in said.lower() else f"{type(problem).__name__}: {said}"]


def reach(host, port):
    try:
        connected(host, int(port)).close()
    except TimeoutError:
        return "silence"
    except OSError as problem:
        return "refused" if isinstance(problem, ConnectionRefusedError) else str(problem)
    return "open"


def main():
    what, *words = sys.argv[1:]
    if what == "scan":
        print(json.dumps(scan.open_ports(words[0], *map(int, words[1:]))))
    elif what == "reach":
        socket.setdefaulttimeout(TIMEOUT_S)
        print(json.dumps([reach(words[i], words[i + 1]) for i in range(0, len(words), 2)]))
    else:
        t = json.loads(words[0])
        chosen = {name: f for name, f in PROBES.items() if name in t.get("probes", PROBES)}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda function: outcome(function, t), chosen.values()))
        print(json.dumps(dict(zip(chosen, answers, strict=True))))


main()
