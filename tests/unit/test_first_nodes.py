"""The first cluster.yml for nodes behind SSH."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpicluster.design.first_nodes import cluster_spec, entries
from rpicluster.errors import RpiclusterError, UsageError
from rpicluster.model.specfile import parse_spec


def test_nodes_are_called_as_their_hosts_and_by_number_where_that_is_an_address() -> None:
    found = entries(["pi@pi1.lan,Pi2.local:2200", "shelf=ana@10.0.0.3", "10.0.0.4", "fd00::5", "_lab"])
    assert [(one.name, one.host, one.user, one.port) for one in found] == [
        ("pi1", "pi1.lan", "pi", None),
        ("pi2", "Pi2.local", None, 2200),
        ("shelf", "10.0.0.3", "ana", None),
        ("pi4", "10.0.0.4", None, None),
        ("pi5", "fd00::5", None, None),
        ("pi6", "_lab", None, None),
    ]
    spec = parse_spec(cluster_spec("lab", found), "cluster.yml")
    assert spec.manager.name == "pi1"
    assert [node.name for node in spec.workers] == ["pi2", "shelf", "pi4", "pi5", "pi6"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pi@", "says not where a node is"),
        ("pi1,,pi2", "says not where a node is"),
        ("-oProxyCommand", "says not where a node is"),
        ("pi1;id", "says not where a node is"),
        ("A_B=pi1", "is no name for a node"),
        ("=pi1", "is no name for a node"),
        ("pi1.lan,pi1.attic", "pi1.lan and pi1.attic would both be called 'pi1'"),
    ],
)
def test_what_is_no_list_of_nodes_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        entries([text])


@given(st.text())
def test_any_text_is_a_cluster_or_refused(text: str) -> None:
    try:
        spec = parse_spec(cluster_spec("lab", entries([text])), "cluster.yml")
    except RpiclusterError:
        return
    assert all(node.ssh is not None for node in spec.nodes)
