"""Names and addresses: short enough, unique, and never somebody else's."""

from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpicluster.errors import UsageError
from rpicluster.nodes.rack.addresses import (
    Network,
    candidates,
    choose_subnet,
    names_of,
    parse_subnet,
    unique_local_prefix,
)

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,29}[a-z0-9]", fullmatch=True)


def network(text: str = "10.77.3.0/24") -> Network:
    v4 = IPv4Network(text)
    return Network(v4, unique_local_prefix("rack", v4))


@given(NAMES)
def test_interface_names_fit_into_the_kernels_fifteen_characters(rack):
    names = names_of(rack)
    assert len(names.bridge) <= 15
    assert len(names.cable("pi200")) <= 15
    assert "-" not in names.table


def test_a_short_name_is_seen_in_its_kernel_objects_and_a_long_one_keeps_its_own():
    assert names_of("rack").bridge == "rp-rack"
    assert names_of("rack").cable("pi1") == "vb-rack-pi1"
    assert names_of("rack-of-ann") == names_of("rack-of-ann") != names_of("rack-of-bob")


def test_a_nodes_ipv6_address_reads_like_its_ipv4_address():
    assert str(network().node4(1)) == "10.77.3.11"
    assert str(network().node6(1)).endswith("::11")
    assert str(network().node4(200)) == "10.77.3.210"
    assert str(network().node6(200)).endswith("::210")
    assert str(network().gateway4) == "10.77.3.1"


@given(NAMES)
def test_the_ipv6_prefix_is_unique_local_and_no_host_bit_is_set(rack):
    prefix = unique_local_prefix(rack, IPv4Network("10.77.0.0/24"))
    assert prefix.prefixlen == 64
    assert prefix.subnet_of(IPv6Network("fd00::/8"))


def test_the_first_free_subnet_is_chosen_and_the_default_route_is_no_obstacle():
    assert str(choose_subnet([IPv4Network("0.0.0.0/0")])) == "10.77.0.0/24"
    assert str(choose_subnet([IPv4Network("10.77.0.0/23")])) == "10.77.2.0/24"
    assert str(choose_subnet([IPv4Network("10.0.0.0/8")])) == "172.30.0.0/24"
    assert str(choose_subnet([IPv4Network("10.77.0.7/32")])) == "10.77.1.0/24"


def test_a_taken_subnet_is_refused_by_name_and_so_is_a_machine_without_a_free_one():
    wanted = IPv4Network("10.77.5.0/24")
    assert choose_subnet([IPv4Network("10.77.4.0/24")], wanted) == wanted
    with pytest.raises(UsageError, match=r"10\.77\.5\.0/24 is taken.*10\.77\.0\.0/16"):
        choose_subnet([IPv4Network("10.77.0.0/16")], wanted)
    with pytest.raises(UsageError, match="every subnet"):
        choose_subnet(candidates())


@pytest.mark.parametrize(
    "text", ["10.77.0.0", "10.77.0.1/24", "8.8.8.0/24", "10.0.0.0/8", "127.0.0.0/24", "x", "fd00::/64"]
)
def test_a_subnet_that_is_no_private_24_is_refused(text):
    with pytest.raises(UsageError, match="--subnet"):
        parse_subnet(text)
