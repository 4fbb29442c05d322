"""A driver for the keeper's tests: a real gRPC server and a real HTTP server in one process, as in Spark's.

Run as `python fake_driver.py DIRECTORY CONNECT_PORT UI_PORT [GATEWAY_PORT]`. A file in DIRECTORY changes
what it does: `no-ui` closes the UI as a stopped SparkContext does, `slow` delays the door's next answer by
its content in seconds, `deaf` ignores SIGTERM, `child` starts a process of its own, `dies` ends it at its
start with a message like Java's; `no-gateway` closes sparklyr's gateway, `stopped` is for its clients a
SparkContext that was stopped; `running` is a task that runs.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parent))
from fake_gateway import FakeGateway


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def main() -> None:
    directory, connect_port, ui_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    token = os.environ.get("SPARK_CONNECT_AUTHENTICATE_TOKEN", "")
    print("the driver starts", flush=True)
    if (directory / "dies").exists():
        print('Exception in thread "main" java.io.IOException: no DataNode', flush=True)
        sys.exit(1)
    if (directory / "deaf").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if (directory / "child").exists():
        child = subprocess.Popen(["sleep", "300"])
        (directory / "child").write_text(str(child.pid))
    app_id = f"application_{time.time_ns()}_{os.getpid()}"
    (directory / "app_id").write_text(app_id)

    def config(request: bytes, context: Any) -> bytes:
        slow = directory / "slow"
        if slow.exists():
            seconds = float(slow.read_text())
            slow.unlink()
            time.sleep(seconds)
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid token: kein Schlüssel")
        with (directory / "sessions").open("a") as sessions:
            sessions.write(request[2 : 2 + request[1]].decode() + "\n")
        return (
            field(1, b"s") + field(2, field(1, b"spark.app.id") + field(2, app_id.encode())) + field(4, b"x")
        )

    server = grpc.server(futures.ThreadPoolExecutor(2))
    method = grpc.unary_unary_rpc_method_handler(config)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("spark.connect.SparkConnectService", {"Config": method})]
    )
    server.add_insecure_port(f"127.0.0.1:{connect_port}")
    server.start()

    class Ui(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running = int((directory / "running").exists())
            executors = [{"id": "driver", "activeTasks": running, "totalTasks": running}]
            applications = [{"id": app_id, "name": "fake"}]
            body = json.dumps(executors if "/executors" in self.path else applications).encode()
            self.send_response(200 if self.path.startswith("/api/v1/applications") else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *unused: object) -> None:
            return

    http.server.HTTPServer.allow_reuse_address = True
    ui = http.server.ThreadingHTTPServer(("127.0.0.1", ui_port), Ui)
    threading.Thread(target=ui.serve_forever, daemon=True).start()
    gateway = None
    if len(sys.argv) > 4:
        gateway = FakeGateway(app_id, port=int(sys.argv[4]))
        gateway.stopped = (directory / "stopped").exists
    while True:
        if gateway:
            (directory / "clients.new").write_text(f"{gateway.clients_ever}")
            (directory / "clients.new").replace(directory / "clients")
        if gateway and (directory / "no-gateway").exists():
            (directory / "no-gateway").unlink()
            gateway.close()
        if (directory / "no-ui").exists():
            (directory / "no-ui").unlink()
            ui.shutdown()
            ui.server_close()
        time.sleep(0.05)


if __name__ == "__main__":
    main()
