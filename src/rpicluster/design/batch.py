"""A run: one script with a driver and an application of its own, on the manager, without the control machine.

Everything that the manager is told is rendered here; `nodes/runs/on_node` has the programs that read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rpicluster.design import daemon_units, layout
from rpicluster.design.environment_files import variables
from rpicluster.design.hardening import sandbox
from rpicluster.design.inputs import Inputs
from rpicluster.design.session_files import CONNECT, NAMESPACE, launch_of, spark_submit
from rpicluster.model.facts import NodePaths
from rpicluster.model.ports import LOOPBACK, SESSION_PORTS, SPARKLYR_SESSION
from rpicluster.model.scripts import Door, Language

SCHEMA = 1
START_TIMEOUT_S = 300  # as a session's: a Pi that starts much at once needs minutes
LOG_LIMIT_BYTES = 64 << 20
KEEP_NUMBER, KEEP_S = 20, 14 * 86400
# Above containers: of all that a person can start, their script is what nobody else waits for.
OOM_SCORE = 600
TASKS = 4096
STOP_TIMEOUT_S = 40
# On loopback, above the sessions' doors and below what outgoing connections take.
_DOORS = range(16002, 17002)
_LOCAL_PORTS = range(20000, 30000)
_PROGRAM = "program/run.py"
TEMPORARY = "tmp"  # below the folder of a run


@dataclass(frozen=True)
class Order:
    """What is to be run: a script with its arguments, and the door by which it reaches Spark."""

    id: str
    script: str
    arguments: tuple[str, ...]
    language: Language
    door: Door
    submitted_at: float


def runs_directory(paths: NodePaths, user: str) -> str:
    """Return the folder on the manager that holds a user's runs, each in a folder of its own."""
    return f"{paths.data}/runs-{user}"


@dataclass(frozen=True)
class Places:
    """How many drivers the manager holds, and for how many runs there is one."""

    manager: str
    drivers: int
    driver_mib: int
    users: tuple[str, ...]

    @property
    def for_runs(self) -> int:
        """Drivers that no warm session needs."""
        return max(0, self.drivers - len(self.users))

    def refusal(self, running: tuple[str, ...]) -> str:
        """Return why one more run has no place, with the arithmetic."""
        terms = [f"{len(self.users)} for the warm {_sessions(self.users)}"]
        if running:
            terms.append(f"{len(running)} for {', '.join(running)}")
        taken = len(self.users) + len(running)
        return (
            f"{self.manager} holds {self.drivers} {'driver' if self.drivers == 1 else 'drivers'} of "
            f"{self.driver_mib} MiB (sessions.max): {' + '.join(terms)} = {taken}, and this run would be "
            f"number {taken + 1}; nothing was started"
        )

    def hint(self, running: tuple[str, ...], too_small: str = "") -> str:
        """Return how a place comes about; `too_small` is why the nodes cannot hold one driver more."""
        wait = f"wait for it: rpicluster jobs attach {running[-1]}" if running else ""
        more = f"write `sessions: {{max: {self.drivers + 1}}}` in cluster.yml, then: rpicluster up"
        if too_small:
            more = f"one driver more does not fit: {too_small}"
        return f"{wait}; or {more}" if wait and not too_small else wait or more


def _sessions(users: tuple[str, ...]) -> str:
    return f"session of {users[0]}" if len(users) == 1 else f"sessions of {', '.join(users)}"


def places(inputs: Inputs) -> Places:
    """Return the drivers of a cluster; each user's warm session has one whether it runs now or not."""
    return Places(inputs.manager, inputs.sizes.sessions_max, inputs.sizes.driver.memory_mib, inputs.users)


def environment(inputs: Inputs, user: str, folder: str, ambient: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a script; `ambient` is what its user has beside it, such as HOME."""
    node = inputs.node(inputs.manager)
    given = dict(daemon_units.environment(inputs, inputs.manager, user))
    given |= variables(inputs, inputs.manager)
    return {
        **given,
        **ambient,
        "PATH": f"{ambient.get('PATH', given['PATH'])}:{node.java_home}/bin:{inputs.runtime}/bin",
        "PYSPARK_PYTHON": node.python,
        "PYSPARK_DRIVER_PYTHON": node.python,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "RPICLUSTER_CONNECTION": f"{folder}/connection.json",
        "RPICLUSTER_PYTHON": node.python,
        # A home may be read-only there: caches belong to the run.
        "TMPDIR": f"{folder}/{TEMPORARY}",
        "XDG_CACHE_HOME": f"{folder}/cache",
        "R_USER_CACHE_DIR": f"{folder}/cache",
    }


def order_document(
    inputs: Inputs,
    user: str,
    order: Order,
    folder: str,
    *,
    rscript: str,
    kit: str,
    ambient: Mapping[str, str],
    sparklyr: str = "",
) -> dict[str, Any]:
    """Return run.json: the script's command, its environment, its driver, and the ports to choose from.

    `kit` is a folder of Python packages for R's way to Spark, "" where this Python has them; `sparklyr` the
    version of the sessions' gateway, of which a run has one of its own, "" where they have none.
    """
    values = environment(inputs, user, folder, ambient)
    paths = [
        *([f"{inputs.runtime}/python", *_py4j(inputs)] if order.door is Door.SUBMIT else []),
        *([kit] if kit else []),
        *([values["PYTHONPATH"]] if values.get("PYTHONPATH") else []),
    ]
    if paths:
        values["PYTHONPATH"] = ":".join(paths)
    if order.door is Door.SUBMIT:
        # Executors have them already; else every run uploads them to HDFS.
        archives = (f"{inputs.runtime}/python/lib/pyspark.zip", *_py4j(inputs))
        values["PYSPARK_ARCHIVES_PATH"] = ",".join(f"local:{path}" for path in archives)
    if order.door is not Door.CONNECT:
        del values["RPICLUSTER_CONNECTION"]
    return {
        "schema": SCHEMA,
        "id": order.id,
        "script": order.script,
        "arguments": list(order.arguments),
        "language": str(order.language),
        "door": str(order.door),
        "user": user,
        "submitted_at": order.submitted_at,
        "argv": _script(inputs, user, order, folder, rscript),
        "environment": dict(sorted(values.items())),
        "driver": _driver(inputs, user, order, folder) if order.door is Door.CONNECT else [],
        "doors": _doors(inputs) if order.door is Door.CONNECT else [],
        "ports": _ports(inputs, user) if order.door is not Door.NONE else {},
        "connection": _connection(inputs, user, folder, sparklyr),
        "start_timeout_s": START_TIMEOUT_S,
        "log_limit_bytes": LOG_LIMIT_BYTES,
    }


def program(inputs: Inputs, folder: str) -> list[str]:
    """Return the command of the program that stays beside a run."""
    return [inputs.node(inputs.manager).python, f"{folder}/{_PROGRAM}", folder]


def mark(inputs: Inputs, run: str) -> str:
    """Return by what a run's processes are known as this cluster's, where no systemd knows them."""
    return f"{inputs.placement.cluster_id}/{inputs.manager}/{run}"


def service_properties(user: str, order: Order, folder: str) -> list[tuple[str, str]]:
    """Return the properties of a run's transient unit: confined as a session is, and first to go."""
    return [
        ("Description", f"{order.id} of {user} (rpicluster)"),
        ("User", user),
        ("Type", "exec"),
        ("WorkingDirectory", folder),
        ("KillMode", "mixed"),
        ("TimeoutStopSec", str(STOP_TIMEOUT_S)),
        ("OOMScoreAdjust", str(OOM_SCORE)),
        ("OOMPolicy", "continue"),
        ("TasksMax", str(TASKS)),
        ("LimitNOFILE", "65536"),
        ("ReadWritePaths", folder),
        *sandbox(layout.session_unit(user)),
    ]


def _script(inputs: Inputs, user: str, order: Order, folder: str, rscript: str) -> list[str]:
    script = f"{folder}/files/{order.script}"
    if order.language is Language.R:
        return [rscript, script, *order.arguments]
    if order.door is not Door.SUBMIT:
        return [inputs.node(inputs.manager).python, script, *order.arguments]
    return [*_submit(inputs, user, order, folder), script, *order.arguments]


def _driver(inputs: Inputs, user: str, order: Order, folder: str) -> list[str]:
    launch = launch_of(inputs, user)
    port = ("spark.connect.grpc.binding.port", "@connect@")
    command = [*_submit(inputs, user, order, folder, port, *launch.conf), "--class", launch.main_class]
    own = ("@sparklyr@", *launch.arguments[1:]) if launch != CONNECT else ()
    return [*command, launch.resource, *own]


def _doors(inputs: Inputs) -> list[dict[str, Any]]:
    """Return what the program beside a run asks, in this order: the first client makes the context."""
    gateway = {"kind": "sparklyr", "session": SPARKLYR_SESSION, "namespace": NAMESPACE}
    return [*([gateway] if inputs.has_gateway else []), {"kind": "connect"}]


def _submit(inputs: Inputs, user: str, order: Order, folder: str, *more: tuple[str, str]) -> list[str]:
    """Return the command of a driver up to what it runs; the program beside it fills in the ports."""
    conf = {
        "spark.app.name": f"{order.id} {order.script}",
        "spark.local.dir": f"{folder}/driver",
        "spark.sql.warehouse.dir": f"{inputs.hdfs}{layout.home(user)}/.session-tables",
        # No page: YARN's filter for it may come while Spark still attaches its parts, and then the context
        # dies (ConcurrentModificationException, seen once in a dozen starts of a busy machine).
        "spark.ui.enabled": "false",
        "spark.driver.port": "@spark_driver@",
        "spark.driver.blockManager.port": "@spark_blockmanager@",
        # Two runs that choose one port at the same time: the second takes the next. On real nodes the
        # cluster's own number stands in its settings, because the firewall guards as many.
        **({"spark.port.maxRetries": "16"} if inputs.spec.is_local else {}),
        **dict(more),
    }
    return spark_submit(
        inputs, conf, unit=order.id, temporary=f"{folder}/{TEMPORARY}", log=f"{folder}/driver.log"
    )


def _ports(inputs: Inputs, user: str) -> dict[str, dict[str, Any]]:
    """Return where a driver may listen: on real nodes where the firewall guards the sessions' drivers."""
    address = inputs.node(inputs.manager).address
    gateway = {}
    if inputs.has_gateway:
        # The firewall guards the user's range; the warm session's gateway and its clients begin at its start.
        own = list(inputs.sparklyr_ports(user))
        gateway = {"sparklyr": {"host": LOOPBACK, "candidates": own[len(own) // 2 : -2]}}
    if inputs.spec.is_local:
        here = list(_LOCAL_PORTS)
        hosts = {
            "spark_driver": address,
            "spark_blockmanager": address,
            "connect": LOOPBACK,
        }
        return {**{name: {"host": host, "candidates": here} for name, host in hosts.items()}, **gateway}
    outside = [name for name in SESSION_PORTS if name != "connect"]
    sessions = {inputs.session_port(user, name) for user in inputs.users for name in outside}
    found: dict[str, dict[str, Any]] = {}
    for name in ("spark_driver", "spark_blockmanager"):
        base = inputs.session_port(inputs.users[0], name)
        # firewall.guarded_ports; half of them, for Spark climbs from here when it must.
        guarded = range(base + 1, base + len(inputs.executor_ports) // 2)
        found[name] = {"host": address, "candidates": [port for port in guarded if port not in sessions]}
    found["connect"] = {"host": LOOPBACK, "candidates": list(_DOORS)}
    return {**found, **gateway}


def _connection(inputs: Inputs, user: str, folder: str, sparklyr: str) -> dict[str, Any]:
    gateway = None
    if inputs.has_gateway:
        gateway = {
            "host": LOOPBACK,
            "port": 0,
            "last_port": inputs.sparklyr_ports(user)[-1],
            "session": SPARKLYR_SESSION,
            "version": sparklyr,
        }
    manager = inputs.node(inputs.manager)
    return {
        "schema": 1,
        "cluster": inputs.spec.name,
        "connect_host": LOOPBACK,
        "connect_port": 0,
        "token_file": f"{folder}/token",
        "proto_path": f"{inputs.runtime}/connect",
        "user": user,
        "webhdfs": f"http://{manager.address}:{manager.ports['namenode_http']}",
        "webhdfs_user": user,
        "namespace": NAMESPACE,
        "sparklyr": gateway,
        "tunnelled": False,
    }


def _py4j(inputs: Inputs) -> tuple[str, ...]:
    return (f"{inputs.runtime}/python/lib/{PY4J}",)


PY4J = "py4j-0.10.9.9-src.zip"  # comes with Spark 4.1.4
