"""The managed lines of /etc/hosts: whatever else stands there stays."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpicluster.design.hosts_block import BEGIN, END, hosts_block, with_block, without_block

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import load

DEBIAN = "127.0.0.1\tlocalhost\n127.0.1.1\tpi1\n\n# for IPv6\n::1 localhost ip6-localhost\n"
line = st.sampled_from(
    [BEGIN, END, "127.0.1.1\tpi1", "", "# a note", "10.0.0.9 printer", f" {BEGIN} ", f"#{END}"]
)
files = st.builds(
    lambda lines, end: "\n".join(lines) + end, st.lists(line, max_size=12), st.sampled_from(["", "\n"])
)
blocks = st.lists(st.sampled_from(["10.0.0.1\tpi1\n", "10.0.0.2\tpi2\n"]), max_size=3).map("".join)


def foreign(text: str) -> list[str]:
    return [entry for entry in text.splitlines() if entry.strip() not in (BEGIN, END)]


def test_nodes_are_mapped_to_their_cluster_addresses_in_the_order_of_addresses() -> None:
    assert hosts_block(load("pi4-3x4g")) == "192.168.1.11\tpi1\n192.168.1.12\tpi2\n192.168.1.13\tpi3\n"
    assert [entry.split()[1] for entry in hosts_block(load("mixed-2-4-8-16")).splitlines()] == [
        "small",
        "middle",
        "large",
        "big",
    ]


def test_a_node_that_is_known_by_a_name_has_no_line() -> None:
    inputs = load("pi4-3x4g")
    inputs.placement.nodes["pi2"] = inputs.node("pi2").model_copy(update={"address": "pi2.local"})
    assert hosts_block(inputs) == "192.168.1.11\tpi1\n192.168.1.13\tpi3\n"


def test_debians_own_line_for_the_host_stays() -> None:
    text = with_block(DEBIAN, hosts_block(load("pi4-3x4g")))
    assert text.startswith(DEBIAN) and "127.0.1.1\tpi1\n" in text
    assert without_block(text) == DEBIAN


@given(files, blocks)
def test_writing_the_block_twice_is_writing_it_once(text: str, block: str) -> None:
    once = with_block(text, block)
    assert with_block(once, block) == once
    assert once.endswith(f"{BEGIN}\n{block}{END}\n")


@given(files, blocks, blocks)
def test_a_new_block_takes_the_place_of_the_old_one(text: str, old: str, new: str) -> None:
    assert with_block(with_block(text, old), new) == with_block(text, new)


@given(files, blocks)
def test_taking_the_block_out_leaves_what_was_there_before(text: str, block: str) -> None:
    before = without_block(text)
    after = without_block(with_block(text, block))
    assert after == before or after == before + "\n"
    assert without_block(after) == after


@given(st.lists(st.sampled_from(["a", "", "# x", f"# {BEGIN}"]), max_size=8))
def test_a_file_without_our_marks_is_not_touched(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert without_block(text) == text


@pytest.mark.parametrize("mark", [BEGIN, END])
def test_a_mark_without_its_partner_takes_nobody_elses_line_with_it(mark: str) -> None:
    text = f"10.0.0.9 printer\n{mark}\n10.0.0.8 nas\n"
    assert foreign(without_block(text)) == ["10.0.0.9 printer", "10.0.0.8 nas"]
    assert mark not in without_block(text)
