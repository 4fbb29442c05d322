"""What the manager is told of a run."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import load

from rpicluster.design import batch, firewall
from rpicluster.model.ports import SESSION_PORTS
from rpicluster.model.scripts import Door, Language
from rpicluster.model.spec import Gateway

PIS, LOCAL = "pi4-3x4g", "local-demo"
FOLDER = "/var/lib/rpicluster/runs-pi/run-1"


def order(door: Door, language: Language = Language.PYTHON, *arguments: str) -> batch.Order:
    name = "a.R" if language is Language.R else "a.py"
    return batch.Order("run-20251123-152233", name, arguments, language, door, 1.0)


def document(case: str, what: batch.Order, **more) -> dict:
    inputs = load(case)
    given = {"rscript": "/usr/bin/Rscript", "kit": "", "ambient": {}, **more}
    return batch.order_document(inputs, inputs.users[0], what, FOLDER, **given)


def test_on_real_nodes_a_runs_driver_listens_only_where_the_firewall_guards():
    inputs = load(PIS)
    guarded = firewall.guarded_ports(inputs, inputs.manager)
    ports = document(PIS, order(Door.SUBMIT))["ports"]
    sessions = {inputs.session_port(user, name) for user in inputs.users for name in SESSION_PORTS}
    assert set(ports) == set(SESSION_PORTS) - {"spark_ui"}
    for name, about in ports.items():
        assert len(about["candidates"]) >= 4, name
        assert not sessions & set(about["candidates"]), "a session's own number stays free for it"
        if name == "connect":
            assert about["host"] == "127.0.0.1"
            continue
        for port in about["candidates"]:
            assert any(first <= port <= last for first, last in guarded), (name, port)


def test_a_pyspark_script_is_submitted_by_a_driver_of_the_planned_size():
    told = document(PIS, order(Door.SUBMIT, Language.PYTHON, "--year", "2013"))
    heap_mib = load(PIS).sizes.driver.heap_mib
    assert f"-Xmx{heap_mib}m" in told["argv"]
    assert told["argv"][-3:] == [f"{FOLDER}/files/a.py", "--year", "2013"]
    assert "spark.driver.port=@spark_driver@" in told["argv"]
    assert "spark.ui.enabled=false" in told["argv"], "its start is a race with YARN's filter"
    assert told["driver"] == []
    assert "RPICLUSTER_CONNECTION" not in told["environment"]
    paths = told["environment"]["PYTHONPATH"].split(":")
    assert [path.rpartition("/")[2] for path in paths] == ["python", batch.PY4J]


def test_an_r_script_gets_a_driver_beside_it_and_the_file_that_leads_there():
    told = document(PIS, order(Door.CONNECT, Language.R, "x"), kit="/kit")
    assert told["argv"] == ["/usr/bin/Rscript", f"{FOLDER}/files/a.R", "x"]
    assert "spark.connect.grpc.binding.port=@connect@" in told["driver"]
    assert told["environment"]["RPICLUSTER_CONNECTION"] == f"{FOLDER}/connection.json"
    assert told["environment"]["PYTHONPATH"] == "/kit"
    assert told["connection"]["token_file"] == f"{FOLDER}/token"
    assert told["connection"]["tunnelled"] is False


def test_the_connection_is_what_the_client_reads(tmp_path):
    from rpicluster.services.connect.connection import Connection

    path = tmp_path / "connection.json"
    path.write_text(json.dumps(document(PIS, order(Door.CONNECT))["connection"]))
    assert Connection.load(path).namespace == "rpi.default"


def test_a_script_without_spark_takes_no_ports_and_no_driver():
    told = document(LOCAL, order(Door.NONE))
    assert (told["driver"], told["ports"]) == ([], {})


@pytest.mark.parametrize("case", [PIS, LOCAL])
def test_no_secret_is_in_what_the_manager_is_told(case):
    text = json.dumps(document(case, order(Door.CONNECT)))
    assert "AUTHENTICATE_TOKEN" not in text, "the token is made there, and passes in the environment alone"


def test_a_runs_unit_is_confined_as_a_session_is_and_first_to_go():
    properties = batch.service_properties("pi", order(Door.NONE), FOLDER)
    assert ("User", "pi") in properties
    assert ("ProtectSystem", "strict") in properties
    assert ("ReadWritePaths", FOLDER) in properties
    assert ("NoNewPrivileges", "yes") in properties
    scores = [int(value) for name, value in properties if name == "OOMScoreAdjust"]
    assert scores == [batch.OOM_SCORE]
    assert batch.OOM_SCORE > 500, "above containers"


def test_places_are_those_that_no_warm_session_needs():
    inputs = load(PIS)
    found = batch.places(replace(inputs, sizes=replace(inputs.sizes, sessions_max=1)))
    assert found.for_runs == 0
    said = found.refusal(())
    assert "holds 1 driver of 1056 MiB (sessions.max): 1 for the warm session of" in said
    assert "= 1, and this run would be number 2; nothing was started" in said
    assert found.hint((), too_small="pi1 has 1 MiB") == "one driver more does not fit: pi1 has 1 MiB"
    assert found.hint(("run-1",), too_small="x") == "wait for it: rpicluster jobs attach run-1"
    assert found.hint(()) == "write `sessions: {max: 2}` in cluster.yml, then: rpicluster up"


def with_gateway(case: str):
    inputs = load(case)
    sessions = inputs.spec.sessions.model_copy(update={"sparklyr": Gateway.ON})
    return replace(inputs, spec=inputs.spec.model_copy(update={"sessions": sessions}))


def test_with_the_sessions_gateway_a_run_has_one_of_its_own_in_its_users_guarded_range():
    inputs = with_gateway(PIS)
    user = inputs.users[0]
    told = batch.order_document(
        inputs,
        user,
        order(Door.CONNECT, Language.R),
        FOLDER,
        rscript="/usr/bin/Rscript",
        kit="",
        ambient={},
        sparklyr="1.9.5",
    )
    assert [door["kind"] for door in told["doors"]] == ["sparklyr", "connect"]
    ports = told["ports"]["sparklyr"]["candidates"]
    assert set(ports) <= set(inputs.sparklyr_ports(user)), "others are refused there"
    assert inputs.sparklyr_ports(user)[0] not in ports, "the warm session's own"
    command = told["driver"]
    at = command.index("sparklyr.Shell")
    assert command[at + 2 :] == ["@sparklyr@", "42", "--service"]
    assert "spark.plugins=org.apache.spark.sql.connect.SparkConnectPlugin" in command
    assert told["connection"]["sparklyr"]["version"] == "1.9.5"
    assert told["connection"]["sparklyr"]["last_port"] == inputs.sparklyr_ports(user)[-1]


def test_without_the_gateway_a_run_has_spark_connect_alone():
    told = document(PIS, order(Door.CONNECT))
    assert [door["kind"] for door in told["doors"]] == ["connect"]
    assert "sparklyr" not in told["ports"]
    assert told["connection"]["sparklyr"] is None
