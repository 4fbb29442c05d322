import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rpicluster.errors import SpecError
from rpicluster.model.memory import format_memory, parse_memory
from rpicluster.model.spec import ClusterSpec, Gateway, Role
from rpicluster.model.specfile import parse_spec, spec_json_schema

GOOD = """\
name: home
nodes:
  - name: pi1
    ssh: {host: pi1.local, user: pi}
  - name: pi2
    ssh: {host: pi2.local}
"""


def refused(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_spec(text)
    return caught.value


def test_the_first_node_manages_and_the_others_work_by_default():
    spec = parse_spec(GOOD)
    assert spec.manager.name == "pi1"
    assert [node.name for node in spec.workers] == ["pi2"]


def test_a_lone_node_does_both():
    spec = parse_spec("name: one\nnodes:\n  - name: pi\n    local: {memory: 4G}\n")
    assert spec.roles_of(spec.nodes[0]) == (Role.MANAGER, Role.WORKER)
    assert spec.manager.local.memory == 4096


def test_a_misspelt_key_is_named_with_line_column_and_the_right_word():
    error = refused(
        GOOD.replace("    ssh: {host: pi2.local}", "    rolez: [worker]\n    ssh: {host: pi2.local}")
    )
    assert error.message == "cluster.yml:6:5: nodes[1].rolez: unknown key"
    assert error.hint == 'did you mean "roles"?'


def test_an_unknown_key_with_no_neighbour_lists_what_is_known():
    assert "nodes" in refused(GOOD + "zzz: 1\n").hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cluster.yml:1:1: the file is empty"),
        ("- a\n", "cluster.yml:1:1: the file is not a mapping"),
        ("name: [", "not valid YAML"),
        ("name: a\nname: b\nnodes: []\n", 'cluster.yml:2:1: not valid YAML: found duplicate key "name"'),
        ("name: a\n", "cluster.yml:1:1: nodes: this key is missing"),
        ("name: A b\n" + GOOD.split("\n", 1)[1], "cluster.yml:1:1: name: 'A b' is not lower-case letters"),
        (GOOD.replace("pi2.local", "'-oProxyCommand=x'"), "cluster.yml:6:11: nodes[1].ssh.host: "),
        (GOOD.replace("pi2.local", '"a\\nb"'), "nodes[1].ssh.host: "),
        (GOOD.replace("name: pi2", "name: pi1"), "two nodes are called 'pi1'"),
        (GOOD.replace("ssh: {host: pi2.local}", "local: {memory: 2G}"), "either local or reached by SSH"),
        (GOOD.replace("ssh: {host: pi2.local}", "local: {memory: 12}"), "12 is not an amount of memory"),
        (
            "name: a\nnodes: [{name: m, roles: [manager], local: {memory: 2G}}]\n",
            "no node has the role worker",
        ),
        (
            GOOD.replace("ssh: {host: pi2.local}", "local: {memory: 2G, cores: true}"),
            "a whole number is needed",
        ),
        ("name: a\nnodes: {}\n", "cluster.yml:2:1: nodes: a list is needed here"),
        (GOOD + "spark: {driver.memory: 1g}\n", "a Spark setting"),
        (GOOD + "hdfs: {replication: two}\n", "cluster.yml:7:8: hdfs.replication: "),
    ],
)
def test_each_problem_says_where_and_what(text, message):
    assert message in refused(text).message


def test_every_problem_is_reported_not_just_the_first():
    assert len(refused("name: A\nnodes:\n  - {name: B}\nfoo: 1\n").message.splitlines()) >= 3


def test_a_list_of_wrong_items_is_not_called_empty_as_well():
    text = "name: a\nnodes:\n  - {name: b, local: {memory: 99999999999T}}\n"
    (line,) = refused(text).message.splitlines()
    assert line.startswith("cluster.yml:3:23: nodes[0].local.memory: '99999999999T' is not an amount of")
    assert "the list is empty" in refused("name: a\nnodes: []\n").message


def test_a_file_of_a_megabyte_is_refused_before_it_is_parsed():
    assert "larger than 1 MiB" in refused("# " + "x" * (1 << 20)).message


@pytest.mark.parametrize(
    ("written", "meant"),
    [("on", Gateway.ON), ("off", Gateway.OFF), ("auto", Gateway.AUTO), ("true", Gateway.ON), ("no", None)],
)
def test_the_gateway_is_on_off_or_auto(written, meant):
    text = GOOD + f"sessions: {{sparklyr: {written}}}\n"
    if meant is None:
        assert "sessions.sparklyr: " in refused(text).message
    else:
        assert parse_spec(text).sessions.sparklyr is meant
    assert parse_spec(GOOD).sessions.sparklyr is Gateway.AUTO


def test_a_spec_survives_a_json_round_trip():
    spec = parse_spec(GOOD + "hdfs: {block_size: 32M}\n")
    assert ClusterSpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_schema_accepts_what_the_model_accepts_and_refuses_unknown_keys():
    validator = Draft202012Validator(spec_json_schema())
    good = {"name": "a", "nodes": [{"name": "m", "local": {"memory": "2G"}}]}
    assert not list(validator.iter_errors(good))
    ClusterSpec.model_validate(good)
    assert list(validator.iter_errors({**good, "nodez": []}))
    assert list(validator.iter_errors({"name": "a", "nodes": [{"name": "m", "local": {"memory": "2X"}}]}))
    json.dumps(spec_json_schema())


@given(st.integers(1, 1 << 24))
def test_memory_is_read_back_as_it_was_written(memory_mib):
    assert parse_memory(format_memory(memory_mib)) == memory_mib


@pytest.mark.parametrize(
    ("text", "memory_mib"),
    [("2G", 2048), ("1536M", 1536), ("1.5 GiB", 1536), ("512mb", 512), (" 4g ", 4096)],
)
def test_memory_is_read_as_people_write_it(text, memory_mib):
    assert parse_memory(text) == memory_mib


@settings(max_examples=300)
@given(st.text(max_size=200))
def test_any_text_is_either_a_spec_or_a_spec_error(text):
    try:
        parse_spec(text)
    except SpecError as error:
        assert error.message.startswith("cluster.yml:")
