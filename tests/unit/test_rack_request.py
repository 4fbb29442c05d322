"""What a user may ask of a rack, and how the rest is refused."""

import pytest

from rpicluster.errors import UsageError
from rpicluster.nodes.rack.request import (
    NodeRequest,
    check_host_memory,
    check_rack_name,
    parse_disk,
    parse_nodes,
)


def test_nodes_are_numbered_and_one_quota_stands_for_all():
    assert parse_nodes("4G,1536M, 2G", "0.5") == (
        NodeRequest("pi1", 4096, 0.5),
        NodeRequest("pi2", 1536, 0.5),
        NodeRequest("pi3", 2048, 0.5),
    )
    assert parse_nodes("1G,1G", "1,0.25")[1].cpus == 0.25
    assert parse_nodes("1G")[0].cpus is None


@pytest.mark.parametrize(
    "nodes", ["", "4", "4G,", "4G,,2G", "4G 2G", "-4G", "4T", "0G", "100M", "4G;2G", "x" * 9]
)
def test_a_wrong_memory_is_refused_with_an_example(nodes):
    with pytest.raises(UsageError) as refused:
        parse_nodes(nodes)
    assert refused.value.hint
    assert "--nodes" in refused.value.message


@pytest.mark.parametrize("cpus", ["", "0", "-1", "nan", "inf", "1,2,3", "one", "1;1", "0.01"])
def test_a_wrong_quota_is_refused_with_a_hint(cpus):
    with pytest.raises(UsageError) as refused:
        parse_nodes("1G,1G", cpus)
    assert refused.value.hint
    assert "--cpus" in refused.value.message


def test_more_nodes_than_addresses_are_refused():
    assert len(parse_nodes(",".join(["1G"] * 200))) == 200
    with pytest.raises(UsageError, match="at most 200"):
        parse_nodes(",".join(["1G"] * 201))


@pytest.mark.parametrize("name", ["rack", "a", "my-rack2", "a" * 31])
def test_a_plain_name_is_accepted(name):
    assert check_rack_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "2rack", "a-", "-a", "a_b", "a b", "a/b", "../a", "a\n", "a" * 32, "é"]
)
def test_a_name_that_could_not_name_kernel_objects_is_refused(name):
    with pytest.raises(UsageError, match="--name"):
        check_rack_name(name)


def test_a_node_larger_than_the_machine_is_refused_and_a_large_sum_only_warned_of():
    nodes = parse_nodes("4G,2G,2G")
    assert check_host_memory(nodes, 8192) is None
    assert "8192 MiB together" in (check_host_memory(nodes, 8191) or "")
    with pytest.raises(UsageError, match="pi1") as refused:
        check_host_memory(nodes, 4000)
    assert refused.value.hint == "give it at most 3G"


@pytest.mark.parametrize("size", ["16", "1M", "9999999G", "big"])
def test_a_disk_size_that_cannot_be_is_refused(size):
    with pytest.raises(UsageError, match="--disk"):
        parse_disk(size)
