"""The ports of a cluster, by name, with Hadoop's and Spark's own numbers as defaults."""

LOOPBACK = "127.0.0.1"
MANAGER_PORTS: dict[str, int] = {
    "namenode_rpc": 8020,
    "namenode_http": 9870,
    "rm_scheduler": 8030,
    "rm_tracker": 8031,
    "rm_client": 8032,
    "rm_admin": 8033,
    "rm_http": 8088,
}
WORKER_PORTS: dict[str, int] = {
    "datanode_data": 9866,
    "datanode_http": 9864,
    "datanode_ipc": 9867,
    "nm_rpc": 45454,
    "nm_localizer": 8040,
    "nm_http": 8042,
}
# Behind its page every DataNode runs a second web server, on 127.0.0.1: logs, log levels, settings. Hadoop
# takes any free port; on real nodes it has this one, so that the firewall can keep other logins from it.
DATANODE_INTERNAL_PORT = 9863
# One block of these a session, all on the manager. `connect` listens on 127.0.0.1: Spark's own
# clients send a token without TLS only to `localhost`.
SESSION_PORTS: dict[str, int] = {
    "connect": 15002,
    "spark_ui": 4040,
    "spark_driver": 7078,
    "spark_blockmanager": 7079,
}
# sparklyr's gateway of a session, on 127.0.0.1 of the manager, and behind it the second ports of its clients,
# each the first one that is free: this many numbers a user, the same on a laptop at the end of a tunnel.
SPARKLYR_PORT = 18880
SPARKLYR_PORTS = 20
SPARKLYR_SESSION = 42  # sparklyr's number of the session behind the gateway; every gateway has one
SPARKLYR_REACH = 100  # how far the gateway looks for a free number (Utils.nextPort), itself included
# The first of the ports of executors on real nodes: above those of 64 sessions, below the NameNode's.
EXECUTOR_PORT = 7800
