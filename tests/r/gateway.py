"""A sparklyr gateway with Spark Connect in one JVM, as a session's driver holds both, on `local[2]`."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from rpicluster.design.session_files import MODULE_FLAGS
from rpicluster.runtime import store

SESSION = 42
START_TIMEOUT_S = 180
WARM_TIMEOUT_S = 300
WARM = "sc <- rpicluster::rpi_connect(); rpicluster::rpi_disconnect(sc)"


class Gateway:
    """One gateway; `prefix` is put before its command, such as `ip netns exec NAME`."""

    def __init__(
        self,
        runtime: store.Runtime,
        java_home: str,
        library: str,
        folder: Path,
        port: int,
        prefix: Sequence[str] = (),
    ) -> None:
        """Keep where it will stand: ports `port` to `port` + 19, Spark Connect on `port` + 20."""
        self.runtime, self.java_home, self.library = runtime, java_home, library
        self.folder, self.port, self.prefix = folder, port, tuple(prefix)
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "warehouse" / "default").mkdir(parents=True, exist_ok=True)  # Iceberg's namespace

    @property
    def document(self) -> Path:
        """The connection document."""
        return self.folder / "connection.json"

    def start(self) -> None:
        """Start it, wait until its port opens, and have a first client make the context."""
        (self.folder / "token").write_text("not secret: this door is a test's")
        jar = Path(self.library, "sparklyr", "java", "sparklyr-master-2.13.jar")
        conf = {
            "spark.master": "local[2]",
            "spark.app.name": "r-door",
            "spark.ui.port": str(self.port + 23),
            "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
            "spark.connect.grpc.binding.port": str(self.port + 20),
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
            "spark.sql.catalog.rpi": "org.apache.iceberg.spark.SparkCatalog",
            "spark.sql.catalog.rpi.type": "hadoop",
            "spark.sql.catalog.rpi.warehouse": f"file://{self.folder}/warehouse",
            "spark.sql.warehouse.dir": f"file://{self.folder}/spark-warehouse",
            "spark.local.dir": f"{self.folder}/spill",
        }
        settings = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
        command = [
            *self.prefix,
            f"{self.java_home}/bin/java",
            "-Xmx1g",
            *MODULE_FLAGS,
            f"-Drpicluster.log={self.folder}/driver.log",
            "-cp",
            f"{self.runtime.path}/jars/*",
            "org.apache.spark.deploy.SparkSubmit",
            *settings,
            "--class",
            "sparklyr.Shell",
            str(jar),
            str(self.port),
            str(SESSION),
            "--service",
        ]
        token = (self.folder / "token").read_text()
        with (self.folder / "driver.log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, "SPARK_CONNECT_AUTHENTICATE_TOKEN": token, "SPARK_LOCAL_IP": "127.0.0.1"},
            )
        self.save()
        self._wait_for_port()
        warmed = self.r(WARM, WARM_TIMEOUT_S)
        assert warmed.returncode == 0, warmed.stderr + (self.folder / "driver.log").read_text()[-2000:]

    def save(self) -> None:
        """Write the connection document."""
        sparklyr = {"host": "127.0.0.1", "port": self.port, "last_port": self.port + 19, "session": SESSION}
        document = {
            "schema": 1,
            "cluster": "door",
            "connect_port": self.port + 20,
            "token_file": str(self.folder / "token"),
            "proto_path": str(self.runtime.path / "connect"),
            "user": "r",
            "webhdfs": "http://127.0.0.1:1",
            "webhdfs_user": "r",
            "namespace": "rpi.default",
            "sparklyr": {**sparklyr, "version": self.version()},
        }
        self.document.write_text(json.dumps(document))

    def version(self) -> str:
        """Return the version of the sparklyr whose jar runs."""
        text = Path(self.library, "sparklyr", "DESCRIPTION").read_text(encoding="utf-8")
        return next(
            line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Version:")
        )

    def r(self, script: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run an R script that finds this gateway."""
        return subprocess.run(
            [*self.prefix, "Rscript", "-e", script],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=self.environment(),
        )

    def environment(self) -> dict[str, str]:
        """Return the environment for R."""
        return {**os.environ, "RPICLUSTER_CONNECTION": str(self.document)}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the driver."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def _wait_for_port(self) -> None:
        # The log says it in any network namespace; a connection from this one would not arrive.
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            text = (self.folder / "driver.log").read_text(errors="replace")
            if "is waiting for sparklyr client" in text:
                return
            assert self.process is not None
            assert self.process.poll() is None, text[-2000:]
            time.sleep(0.2)
        raise AssertionError(f"no gateway within {START_TIMEOUT_S} s: {text[-2000:]}")


def free_ports(count: int = 24) -> int:
    """Return the first of `count` neighbouring ports that are free now."""
    for first in range(21000, 29000, count):
        taken = []
        try:
            for port in range(first, first + count):
                taken.append(socket.create_server(("127.0.0.1", port)))
            return first
        except OSError:
            continue
        finally:
            for one in taken:
                one.close()
    raise AssertionError("no free ports")
